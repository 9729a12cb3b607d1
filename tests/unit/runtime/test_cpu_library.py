"""For which processors C++ is built."""

import sys

import pytest
import torch

from toto.runtime.cpu_library import suits


def test_it_is_built_for_nothing_but_linux_without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    capable = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    monkeypatch.setattr(sys, "platform", "linux")
    assert suits()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not suits()
    monkeypatch.setattr(sys, "platform", "linux")
    capable["amx_bf16"] = True
    assert not suits()
    capable.update(amx_bf16=False, avx512_bf16=False)
    assert not suits()

from pathlib import Path
from typing import Any

import pytest
import torch

from toto.probe.feature_cache import FACTS, FEATURES, FeatureCache
from toto.probe.fit import Features

FOUND: dict[str, Any] = {"backbone": "abc", "layers": [0, 1], "precision": "bf16", "data": "d"}
LABELS = torch.arange(3)[None]


def made() -> Features:
    tokens = torch.randn(2, 3, 4, 5).bfloat16()
    return Features(tokens=tokens, averages=tokens.float().mean(2), labels=LABELS)


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    cache, features = FeatureCache(folder=tmp_path / "cache"), made()
    assert cache.read(FOUND, LABELS) is None
    cache.write(FOUND, features)
    again = cache.read(FOUND, LABELS)
    assert again is not None
    assert torch.equal(again.tokens, features.tokens)
    assert torch.equal(again.averages, features.averages)


@pytest.mark.parametrize(
    "other",
    [{"backbone": "abd"}, {"layers": [0, 2]}, {"precision": "fp32"}, {"data": "e"}, {"clips": [1]}],
)
def test_other_facts_find_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    cache = FeatureCache(folder=tmp_path)
    cache.write(FOUND, made())
    assert cache.read({**FOUND, **other}, LABELS) is None


def test_damage_is_refused(tmp_path: Path) -> None:
    cache = FeatureCache(folder=tmp_path)
    cache.write(FOUND, made())
    file = next(tmp_path.glob(f"*/{FEATURES}"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"features.safetensors is damaged: its sha256 differs"):
        cache.read(FOUND, LABELS)


def test_an_entry_under_another_name_is_refused(tmp_path: Path) -> None:
    cache = FeatureCache(folder=tmp_path)
    cache.write(FOUND, made())
    file = next(tmp_path.glob(f"*/{FACTS}"))
    file.write_text(file.read_text().replace("abc", "abd"))
    with pytest.raises(ValueError, match="was edited: its facts are not its name; delete it"):
        cache.read(FOUND, LABELS)

"""The benchmark of decoding at a tiny size, and that all who are compared say the same."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from made_run_folders import strange
from toto.models import LlamaConfig
from toto.models.decoding import PlainReader
from toto.runtime.cpu_library import compiler, load_library, suits

pytest.importorskip("transformers", reason="needs the extra `hub`")
CONFIG = LlamaConfig(
    vocab_size=67, width=64, depth=2, heads=2, mlp_width=96, context=64, init_std=0.2
)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    import benchmarks.generation as module

    return module


def test_greedy_in_fp32_is_what_the_peer_says(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before fast: the peer as it is built there has our weights and our prompt."""
    model, prompt = strange(CONFIG), torch.randint(64, (3, 12))
    ids = benchmark.transformers_model(model, "float32").generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False
    )
    drawn = benchmark.continue_sequence(
        PlainReader(model),
        prompt,
        tokens=20,
        codes=67,
        config=benchmark.GREEDY,
        draws=benchmark.Draws(0, clips=3, futures=1),
    )
    found = torch.stack([token.ids for token in drawn], dim=1)
    assert torch.equal(ids[:, 12:], found)
    assert found.unique().numel() > 5


@pytest.mark.skipif(
    not suits() or shutil.which(compiler()) is None,
    reason="needs a processor with AVX512's bf16 and no AMX, and a C++ compiler",
)
def test_a_tiny_model_gives_every_line(benchmark: ModuleType) -> None:
    source = Path(benchmark.__file__).with_name("read_memory.cpp")
    load_library("read_memory", [source], instead="measure elsewhere")
    for rows in (1, 2):
        lines = list(benchmark.at(strange(CONFIG), rows, prompt=8, new=4, rounds=2, compiled=False))
        assert sum("of what memory gives" in text for text in lines) == 2
        assert sum("/ transformers bf16" in text for text in lines) == 3
        assert sum("tokens at once, bf16: 1.00, " in text for text in lines) == (rows == 1)
        assert sum("GB/s" in text for text in lines) == 1


def test_where_there_is_no_cpp_it_says_so(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "PRETRAIN", {"base": lambda: type("Job", (), {"model": CONFIG})})
    monkeypatch.setattr(
        benchmark, "resolve_decoding", lambda *_: type("No", (), {"built": False, "why": "no AVX"})
    )
    assert list(benchmark.run()) == ["decoding: not measured, no AVX"]

"""The benchmark of training steps at a tiny size: the lines a GPU would run, on the CPU."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra `hub`")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    import benchmarks.train_step_gpu as module

    return module


def test_without_a_gpu_it_runs_a_tiny_size_and_says_so(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import benchmarks.train_step as cpu

    monkeypatch.setattr(cpu, "PACKAGES", tmp_path)  # the same with and without `make bench`
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ceiling, ours, theirs, float8, *note = benchmark.run()
    assert "TFLOP/s of bf16 matrix products" in ceiling
    for line, who in ((ours, "ours, bf16"), (theirs, "transformers, bf16")):
        assert line.startswith(f"1b     {who}")
        for part in ("tokens/s", "MFU", "of 989", "GB", "2 x 32 tokens"):
            assert part in line
    assert "ours, FP8            not measured: FP8 needs torchao" in float8
    assert "of a tiny model on the CPU" in note[0]
    assert note[1:] == ["no GPU figure exists"]


def test_a_batch_that_does_not_fit_is_halved(benchmark: ModuleType) -> None:
    tried = []

    def make(batch):
        tried.append(len(batch.ids))
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return lambda: torch.zeros(())

    speed = benchmark.measured(make, benchmark.TINY, 8, torch.device("cpu"), steps=1)
    assert tried == [8, 4, 2]
    assert speed.rows == 2
    with pytest.raises(torch.OutOfMemoryError):
        benchmark.measured(
            lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")),
            benchmark.TINY,
            1,
            torch.device("cpu"),
            steps=1,
        )


def test_both_peers_take_a_step_of_the_same_tokens(benchmark: ModuleType) -> None:
    """Fresh models of one shape lose about ln V, whoever built them."""
    import benchmarks.train_step as cpu

    config = benchmark.TINY
    batch = cpu.Batch(
        ids=torch.randint(config.vocab_size, (2, config.context)),
        weight=torch.ones(2, config.context - 1),
    )
    one = cpu.ours(config, batch, "fp32", compiled=False)
    other = cpu.theirs(cpu.Transformers, config, batch, "fp32", compiled=False)
    expected = torch.tensor(float(config.vocab_size)).log()
    for step in (one, other):
        torch.testing.assert_close(step(), expected, rtol=0.02, atol=0)

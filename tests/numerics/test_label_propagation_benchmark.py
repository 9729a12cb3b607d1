"""The two dense sides of the benchmark are the protocol, so that its ratios mean something."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from made_dense import dense


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    import benchmarks.label_propagation as module

    for name, size in {"ROWS": 18, "COLUMNS": 22, "WIDTH": 32}.items():
        monkeypatch.setattr(module, name, size)
    return module


def test_the_dense_sides_follow_as_the_protocol_says(benchmark: ModuleType) -> None:
    frames, mask = benchmark.scene(benchmark.BEFORE + 2)
    mask[:] = mask.new_tensor([1, 0, 0])
    mask[2:9, 2:15], mask[8:16, 8:15] = mask.new_tensor([0, 1, 0]), mask.new_tensor([0, 0, 1])
    ours = benchmark.Tiles(frames, mask)
    peers = [benchmark.Dense(frames, ours.labels, one) for one in benchmark.DENSE.values()]
    for _ in range(2):
        for follow in (ours, *peers):
            follow()
    stacked = np.stack([frame.numpy() for frame in frames])
    expected, gap = dense(stacked, mask.numpy(), benchmark.CONFIG)
    assert gap > 5e-7
    assert len(peers) == 2
    masks = benchmark.masks(ours.labels[benchmark.BEFORE :])
    assert set(np.unique(masks)) == {0, 1, 2}
    for peer in peers:
        for place, found in enumerate(peer.labels, start=benchmark.BEFORE):
            np.testing.assert_allclose(found.numpy(), expected[place], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(benchmark.masks(peer.labels), masks)

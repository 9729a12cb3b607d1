from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from made_films import CONTEXT, GPT2, LLAMA, MAMBA, MODELS, WINDOW, backbone, film
from toto.api import Toto
from toto.models.attention import set_direction
from toto.models.rolling import RollingCache
from toto.probe.stream import Stream


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_asked_for_are_those_of_all(name: str) -> None:
    source, frames = backbone(MODELS[name]), film(2)
    some, every = Stream(source, [2, 0]), Stream(source)
    assert (some.layers, every.layers) == ((0, 2), (0, 1, 2, 3))
    for frame in frames:
        found, wanted = some.push(frame), every.push(frame)
        assert list(found) == [0, 2]
        assert all(torch.equal(found[layer], wanted[layer]) for layer in found)
    assert some.frames == 2


def test_layers_beyond_the_last_are_not_computed() -> None:
    source = backbone(LLAMA)
    stream = Stream(source, [1])
    source.model.blocks[1].register_forward_pre_hook(lambda *_: pytest.fail("block 2 ran"))
    assert stream.push(film(1)[0])[1].shape == (4, 4, 32)


def test_the_embedding_alone_needs_no_block() -> None:
    source, frames = backbone(LLAMA), film(WINDOW + 2)
    stream = Stream(source, [0])
    for frame in frames:
        found = stream.push(frame)[0]
        assert torch.equal(found, source.features(frame[None], [0])[0][0])


def test_two_films_do_not_mix() -> None:
    source, one, other = backbone(LLAMA), film(6, seed=1), film(6, seed=2)
    alone = Stream(source, [3])
    wanted = [alone.push(frame)[3] for frame in one]
    first, second = Stream(source, [3]), Stream(source, [3])
    for frame, between, want in zip(one, other, wanted, strict=True):
        assert torch.equal(first.push(frame)[3], want)
        assert not torch.equal(second.push(between)[3], want)


def test_what_was_given_does_not_change_with_later_frames() -> None:
    stream, frames = Stream(backbone(LLAMA)), film(WINDOW + 2)
    first = stream.push(frames[0])
    kept = {layer: value.clone() for layer, value in first.items()}
    for frame in frames[1:]:
        stream.push(frame)
    assert all(torch.equal(first[layer], kept[layer]) for layer in first)


@pytest.mark.parametrize("config", [LLAMA, MAMBA], ids=["llama", "mamba"])
def test_every_frame_costs_the_same(config: Any) -> None:
    """The first, one before the window is full, those around it, and one long after."""
    stream, counts = Stream(backbone(config)), {}
    # torch counts no FLOPs of its fused attention on a CPU, but of the plain one.
    for number, frame in enumerate(film(30), start=1):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            stream.push(frame)
        counts[number] = counter.get_total_flops()
    assert counts[1] > 0
    assert set(counts.values()) == {counts[1]}


@pytest.mark.parametrize(("precision", "number_bytes"), [("fp32", 4), ("bf16", 2)])
def test_its_memory_is_that_of_the_window(precision: str, number_bytes: int) -> None:
    stream = Stream(backbone(LLAMA, precision=precision), [0, 2], window_frames=3)
    cache = stream._cache
    assert isinstance(cache, RollingCache)
    size = number_bytes * 2 * (1 + 3 * 16) * 32
    for frame in film(9):
        stream.push(frame)
        assert stream._cache is cache
        assert cache.keys.nbytes == cache.values.nbytes == size


def test_the_api_makes_one() -> None:
    model, frames = Toto(backbone(LLAMA)), film(2)
    stream = model.stream([3], window_frames=2)
    assert stream.window_frames == 2
    wanted = model.features(frames, [3])[3]
    for frame, want in zip(frames, wanted, strict=True):
        torch.testing.assert_close(stream.push(frame)[3], want, rtol=1e-5, atol=1e-5)


def test_all_that_the_context_holds_is_the_window() -> None:
    assert Stream(backbone(LLAMA)).window_frames == WINDOW
    assert Stream(backbone(GPT2)).window_frames == WINDOW
    assert Stream(backbone(MAMBA)).window_frames is None


def test_a_gpt2_ends_with_its_window() -> None:
    stream, frames = Stream(backbone(GPT2)), film(WINDOW + 1)
    for frame in frames[:-1]:
        stream.push(frame)
    with pytest.raises(
        ValueError, match=r"frame 5 lies beyond the window of 4, .*; begin a new stream"
    ):
        stream.push(frames[-1])
    assert stream.frames == WINDOW


def test_rejects_a_model_that_attends_both_ways() -> None:
    source = backbone(LLAMA, attention="bidirectional")
    set_direction(source.model, "bidirectional")
    with pytest.raises(ValueError, match=r"attention is bidirectional: .* the pre-training run"):
        Stream(source)


@pytest.mark.parametrize("layer", [-1, 4])
def test_rejects_a_layer_that_is_not_there(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer {layer} is not in 0\.\.3"):
        Stream(backbone(LLAMA), [0, layer])


@pytest.mark.parametrize("frames", [0, WINDOW + 1])
def test_rejects_a_window_that_the_context_does_not_hold(frames: int) -> None:
    said = rf"window_frames {frames} is not in 1\.\.4: a context of {CONTEXT} tokens"
    with pytest.raises(ValueError, match=said):
        Stream(backbone(LLAMA), window_frames=frames)


def test_rejects_a_window_for_a_mamba() -> None:
    with pytest.raises(ValueError, match="window_frames 2: a Mamba has no window"):
        Stream(backbone(MAMBA), window_frames=2)


@pytest.mark.parametrize("name", ["llama", "patches"])
def test_rejects_a_frame_of_another_size(name: str) -> None:
    stream = Stream(backbone(MODELS[name]))
    with pytest.raises(ValueError, match=r"frame of 4 x 3 tokens has 12, this model reads 16"):
        stream.push(film(1)[0, :, :24])
    with pytest.raises(ValueError, match="do not divide into patches of 8 px"):
        stream.push(film(1)[0, :, :30])
    assert stream.frames == 0

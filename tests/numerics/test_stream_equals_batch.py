"""A stream against one pass over the clip, and behind its window against a dense reference.

The reference has no cache and shares no line with the stream: whole films in fp64, with a mask of
frames and rotations as complex numbers, as `toto.probe.stream` describes them.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from made_films import FRAME, GPT2, LLAMA, MAMBA, MODELS, PATCHES, WINDOW, backbone, film
from toto.models import DecoderConfig, Llama
from toto.models.mup import MuP
from toto.probe.backbone import Backbone
from toto.probe.stream import Stream
from toto.tokenizers import DVAEConfig
from toto.tokenizers.dvae import map_pixels
from toto.tokenizers.patches import patchify

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# The reference is exact; what fp32 rounds in three layers, features being of size 1 to 10.
EXACT = {"rtol": 2e-5, "atol": 2e-5}


def streamed(stream: Stream, frames: Tensor) -> dict[int, Tensor]:
    """Features of all frames, [T Y X D] of each layer."""
    found = [stream.push(frame) for frame in frames]
    return {layer: torch.stack([one[layer] for one in found]) for layer in stream.layers}


def turned(x_LNK: Tensor, places: Tensor, base: float) -> Tensor:
    """Queries or keys as complex numbers, turned by their places."""
    first, second = x_LNK.chunk(2, dim=-1)
    count = first.shape[-1]
    rate = (base ** (-torch.arange(count, dtype=torch.float64) / count)).float().double()
    return torch.polar(torch.ones(1).double(), places[:, None, None] * rate) * torch.complex(
        first, second
    )


@torch.no_grad()
def dense(source: Backbone, frames: Tensor, window: int) -> dict[int, Tensor]:
    """What every layer has behind it when each frame sees the start and the `window` newest."""
    model, count = source.model, len(frames)
    assert isinstance(model, Llama)
    config, weights = model.config, {k: v.double() for k, v in model.state_dict().items()}
    if config.patch_values:
        start = weights["embedding.weight"][:1]
        values = patchify(frames, 8, source.patches).flatten(0, 2).double()
        x = torch.cat([start, values @ weights["projection.weight"].T])
    else:
        codes = source.tokenizer.encode(frames).flatten().long()
        x = weights["embedding.weight"][F.pad(codes, (1, 0), value=source.layout.video_start)]
    place = torch.arange(len(x)).double()
    frame = torch.div(place - 1, FRAME, rounding_mode="floor")
    hidden = (place[None] > place[:, None]) | (frame[None] <= frame[:, None] - window)
    hidden[:, 0] = False
    # How far the start token is: as if the window's oldest frame came right behind it.
    from_start = place - FRAME * (frame - window + 1).clamp_min(0)
    scale = config.mup.attention_scale(config.width, config.heads) or config.head_width**-0.5
    found = {0: x}
    for number in range(config.depth):
        w = {k.removeprefix(f"blocks.{number}."): v for k, v in weights.items()}
        normed = F.rms_norm(x, x.shape[1:], w["attention_norm.weight"], config.norm_eps)
        parts = (normed @ w["attention.qkv.weight"].T).chunk(3, dim=1)
        q, k, v = (part.unflatten(1, (config.heads, -1)) for part in parts)
        near = torch.einsum(
            "qnk,pnk->nqp",
            turned(q, place, config.rope_base),
            turned(k, place, config.rope_base).conj(),
        ).real
        start = turned(k[:1], torch.zeros(1), config.rope_base)[0].conj()
        near[:, :, 0] = torch.einsum(
            "qnk,nk->nq", turned(q, from_start, config.rope_base), start
        ).real
        shares = (scale * near).masked_fill(hidden, -torch.inf).softmax(-1)
        mixed = torch.einsum("nqp,pnk->qnk", shares, v).flatten(1)
        x = x + mixed @ w["attention.out.weight"].T
        normed = F.rms_norm(x, x.shape[1:], w["mlp_norm.weight"], config.norm_eps)
        gate, up = (normed @ w["mlp.gate_up.weight"].T).chunk(2, dim=1)
        x = x + (F.silu(gate) * up) @ w["mlp.down.weight"].T
        found[number + 1] = x
    return {layer: one[1:].float().view(count, 4, 4, -1) for layer, one in found.items()}


def assert_same(found: dict[int, Tensor], wanted: dict[int, Tensor], close: dict) -> None:
    assert found.keys() == wanted.keys()
    for layer in found:
        torch.testing.assert_close(found[layer], wanted[layer], **close)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["video", "images"])
def test_it_equals_one_pass_while_the_window_holds(name: str, kind: str) -> None:
    source, frames = backbone(MODELS[name], kind=kind), film(WINDOW)
    layers = range(source.depth + 1)
    assert_same(streamed(Stream(source), frames), source.features(frames, layers), CLOSE)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_so_it_does_in_a_smaller_window(name: str, window: int) -> None:
    source, frames = backbone(MODELS[name]), film(window)
    found = streamed(Stream(source, window_frames=window), frames)
    assert_same(found, source.features(frames, range(4)), CLOSE)


def test_it_equals_one_pass_through_a_tokenizer_that_has_a_faster_way() -> None:
    dvae = DVAEConfig(vocab_size=16, width=8, decoder_stem=8, blocks_per_group=1).build()
    source, frames = backbone(LLAMA, tokenizer=dvae.eval().requires_grad_(False)), film(WINDOW)
    # A fresh one has favourites.
    dvae.encoder.blocks.output.conv.bias -= dvae.logits(map_pixels(frames)).mean((0, 2, 3))
    assert len(dvae.encode(frames).unique()) > 4
    assert_same(streamed(Stream(source), frames), source.features(frames, range(4)), CLOSE)


@pytest.mark.parametrize(
    "config",
    [LLAMA, replace(LLAMA, tied=True), replace(LLAMA, mup=MuP(base_width=8)), PATCHES],
    ids=["llama", "tied", "muP", "patches"],
)
@pytest.mark.parametrize("window", [1, 2, 3, WINDOW])
def test_a_window_that_slides_equals_the_dense_reference(
    config: DecoderConfig, window: int
) -> None:
    source, frames = backbone(config), film(3 * WINDOW + 1)
    found = streamed(Stream(source, window_frames=window), frames)
    assert_same(found, dense(source, frames, window), EXACT)


def test_the_reference_equals_one_pass_where_nothing_slides() -> None:
    source, frames = backbone(LLAMA), film(WINDOW)
    assert_same(dense(source, frames, WINDOW), source.features(frames, range(4)), EXACT)


def test_a_window_that_slides_is_not_the_pass_over_its_frames_alone() -> None:
    source, frames = backbone(LLAMA), film(WINDOW + 3)
    found = {layer: one[-1] for layer, one in streamed(Stream(source), frames).items()}
    alone = {k: v[-1] for k, v in source.features(frames[-WINDOW:], range(4)).items()}
    # A first layer sees nothing but embeddings, which know no past.
    assert_same({k: found[k] for k in (0, 1)}, {k: alone[k] for k in (0, 1)}, EXACT)
    assert (found[3] - alone[3]).abs().max() > 1e-2


def test_rounding_does_not_pile_up_over_a_thousand_frames() -> None:
    """What the last frame knows reaches back by depth x (W - 1) frames and no further."""
    source, frames = backbone(replace(LLAMA, rope_base=10_000.0)), film(1_000)
    stream = Stream(source, window_frames=3)
    for frame in frames[:-1]:
        stream.push(frame)
    found = stream.push(frames[-1])
    reached = dense(source, frames[-1 - source.depth * 2 :], 3)
    assert_same(found, {layer: one[-1] for layer, one in reached.items()}, EXACT)


def test_a_mamba_goes_on_beyond_its_context() -> None:
    source, frames = backbone(MAMBA), film(3 * WINDOW)
    longer = replace(MAMBA, context=1 + len(frames) * FRAME).build().eval()
    longer.load_state_dict(source.model.state_dict())
    wanted = backbone(MAMBA, model=longer).features(frames, range(4))
    assert_same(streamed(Stream(source), frames), wanted, CLOSE)


@pytest.mark.parametrize("config", [LLAMA, GPT2, MAMBA], ids=["llama", "gpt2", "mamba"])
def test_bf16_rounds_no_more_than_one_pass_does(config: DecoderConfig) -> None:
    model = backbone(config).model
    exact = backbone(config, model=model)
    rounded = backbone(config, model=model, precision="bf16")
    frames = film(WINDOW)
    wanted = exact.features(frames, [3])[3]
    together = rounded.features(frames, [3])[3]
    apart = streamed(Stream(rounded, [3]), frames)[3]
    error, usual = (apart - wanted).abs().mean(), (together - wanted).abs().mean()
    assert 0 < error < 1.5 * usual

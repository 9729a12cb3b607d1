"""Forecasts: windows that slide, futures, images, surprise; against a model asked anew."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from made_run_folders import CODES, GRID, strange
from toto.data.layout import Layout, LayoutConfig
from toto.models import Gpt2Config, LlamaConfig, MambaConfig
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import Backbone
from toto.probe.forecast import ForecastFrame, WindowConfig, forecast, surprise_nats
from toto.tokenizers import load_tokenizer

FRAME = GRID[0] * GRID[1]
ROOM = 5
"""Frames of a window."""
GREEDY = SamplingConfig(temperature=0.0)
SIZES: dict[str, Any] = {"vocab_size": CODES + 3, "depth": 2, "context": ROOM * FRAME + 2}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, width=32, heads=2, mlp_width=64, init_std=0.25),
    "gpt2": Gpt2Config(**SIZES, width=32, heads=2, init_std=0.5, position_scale=2.0),
    "mamba": MambaConfig(**SIZES, width=32, init_std=0.3),
}


def backbone_of(config: Any) -> Backbone:
    return Backbone(
        model=strange(config),
        tokenizer=load_tokenizer("grey"),
        layout=Layout(LayoutConfig(frames=ROOM), codes=CODES, frame_tokens=FRAME),
    )


@pytest.fixture(params=CONFIGS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return backbone_of(CONFIGS[request.param])


@pytest.fixture
def llama() -> Backbone:
    return backbone_of(CONFIGS["llama"])


def clips(count: int, frames: int) -> torch.Tensor:
    return torch.randint(CODES, (count, frames, *GRID))


def ids_of(frames: list[ForecastFrame]) -> torch.Tensor:
    return torch.stack([frame.ids for frame in frames], dim=1)


def continued(backbone: Backbone, given: torch.Tensor, **options: Any) -> torch.Tensor:
    options = {"frames": 3, "sampling": GREEDY} | options
    return ids_of(list(forecast(backbone, given, **options)))


@torch.no_grad()
def asked_again(backbone: Backbone, clip: torch.Tensor, frames: int, keep: int) -> torch.Tensor:
    """The stated policy without a cache: one whole pass for every token."""
    seen, new = list(clip), []
    for _ in range(frames):
        if len(seen) >= ROOM:
            seen = seen[-keep:]
        ids = backbone.layout.prompt(torch.stack(seen))[None]
        for _ in range(FRAME):
            best = backbone.model(ids)[:, -1, :CODES].argmax(-1)
            ids = torch.cat([ids, best[:, None]], dim=1)
        seen.append(ids[0, -FRAME:].view(GRID))
        new.append(seen[-1])
    return torch.stack(new)


@pytest.mark.parametrize(("given", "keep"), [(2, None), (5, 1), (4, 4), (9, 3)])
def test_greedy_is_the_policy_without_a_cache(
    backbone: Backbone, given: int, keep: int | None
) -> None:
    """Across slides, of prompts shorter than a window, as long, and longer."""
    two = clips(2, given)
    found = continued(backbone, two, frames=9, window=WindowConfig(keep_frames=keep))
    assert found.unique().numel() > 3
    for clip, new in zip(two, found, strict=True):
        assert torch.equal(new, asked_again(backbone, clip, 9, keep or ROOM // 2))


def test_a_clip_alone_goes_on_as_beside_others(backbone: Backbone) -> None:
    three = clips(3, 2)
    sampling = SamplingConfig(seed=5)
    together = continued(backbone, three, frames=7, futures=2, sampling=sampling)
    alone = continued(backbone, three[1:2], frames=7, futures=3, sampling=sampling)
    assert torch.equal(together[2:4], alone[:2])
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(continued(backbone, three[1:2], frames=7, sampling=sampling)[0], alone[0])


def test_more_frames_begin_with_fewer(llama: Backbone) -> None:
    two, sampling = clips(2, 2), SamplingConfig(seed=5)
    some = continued(llama, two, frames=4, sampling=sampling)
    assert torch.equal(continued(llama, two, frames=8, sampling=sampling)[:, :4], some)


def test_a_backbone_yields_the_frames_of_one_future(llama: Backbone) -> None:
    clip = clips(1, 2)
    found = torch.stack(list(llama.forecast(clip[0], frames=6, sampling=GREEDY)))
    assert torch.equal(found, continued(llama, clip, frames=6)[0])


@torch.no_grad()
def test_surprise_of_a_forecast_is_that_of_the_frames_as_given(backbone: Backbone) -> None:
    clip = clips(1, 2)
    frames = list(forecast(backbone, clip, frames=3, sampling=SamplingConfig(top_k=4)))
    whole = torch.cat([clip[0], *(frame.ids for frame in frames)])
    found = torch.cat([frame.surprise_nats for frame in frames])
    given = surprise_nats(backbone, whole)
    torch.testing.assert_close(found, given[2:], rtol=1e-4, atol=1e-5)
    logits = backbone.model(backbone.layout.prompt(whole)[None, :-1])[0, :, :CODES]
    expected = torch.nn.functional.cross_entropy(logits, whole.flatten(), reduction="none")
    torch.testing.assert_close(given.flatten(), expected, rtol=1e-4, atol=1e-5)


def test_images_begin_with_their_own_token(llama: Backbone) -> None:
    three = clips(1, 3)
    prompt = llama.layout.prompt(three[0], "images")[None]
    assert prompt[0, 0] == llama.layout.image_start
    found = continued(llama, three, frames=1, kind="images")
    first = llama.model(prompt)[0, -1, :CODES].argmax()
    assert found[0, 0, 0, 0] == first
    assert not torch.equal(found, continued(llama, three, frames=1))
    assert not torch.equal(surprise_nats(llama, three[0], "images"), surprise_nats(llama, three[0]))


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_rounded_weights_hardly_change_the_surprise(backbone: Backbone, weights: Any) -> None:
    """Of the same frames: a window's first new one, drawn from one token each."""
    clip = clips(1, 2)
    (exact,) = forecast(backbone, clip, frames=1, sampling=GREEDY)
    (rounded,) = forecast(backbone, clip, frames=1, sampling=GREEDY, weights=weights)
    # The first token comes after the same prompt.
    first = exact.surprise_nats.flatten()[0]
    assert rounded.surprise_nats.flatten()[0] == pytest.approx(float(first), rel=0.1, abs=0.02)


def test_rejects(llama: Backbone) -> None:
    two = clips(2, 2)
    for options, message in (
        ({"futures": 0}, "futures 0 must be at least 1"),
        ({"weights": "fp16"}, "weights 'fp16' are unknown"),
        ({"window": WindowConfig(keep_frames=5)}, "keep_frames 5 fill a window of 5; keep 4"),
    ):
        with pytest.raises(ValueError, match=message):
            continued(llama, two, **options)
    with pytest.raises(ValueError, match="frames of 4 x 5 tokens are not of the model's 16"):
        continued(llama, torch.zeros(1, 2, 4, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="a clip of 6 frames is longer than a window of 5; cut it"):
        surprise_nats(llama, clips(1, 6)[0])
    with pytest.raises(ValueError, match="keep_frames 0 must be at least 1"):
        WindowConfig(keep_frames=0)
    short = backbone_of(replace(CONFIGS["llama"], context=2 * FRAME))
    with pytest.raises(ValueError, match="a window of 1 frames holds none before the next"):
        continued(short, two)


def test_rejects_a_model_that_reads_patches(llama: Backbone) -> None:
    config = replace(CONFIGS["llama"], patch_values=12)
    patches = replace(llama, model=config.build().eval())
    with pytest.raises(ValueError, match="a model that reads patches cannot go on"):
        continued(patches, clips(1, 2))
    with pytest.raises(ValueError, match="reads patches has no token to be surprised by"):
        surprise_nats(patches, clips(1, 2)[0])

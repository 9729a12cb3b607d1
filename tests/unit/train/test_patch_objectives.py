"""Losses of models that read patches, by hand, and on clips that can be learnt."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toto.data.layout import Layout, LayoutConfig
from toto.models import Llama, LlamaConfig
from toto.tokenizers.patches import PatchNormalisation, patchify, targets
from toto.train.loop import train_steps
from toto.train.optimizer import AdamWConfig
from toto.train.patches import PatchObjective
from toto.types import Batch

CODES, PATCH_PX = 7, 2
NORMALISATION = PatchNormalisation()
OBJECTIVE = PatchObjective(patch_px=PATCH_PX, normalisation=NORMALISATION)
# Two frames of 4 x 6 px: 2 x 3 places each.
TO_TOKENS = LlamaConfig(
    vocab_size=CODES + 3,
    width=16,
    depth=2,
    heads=2,
    mlp_width=24,
    context=14,
    init_std=0.3,
    patch_values=3 * PATCH_PX**2,
)
TO_PATCHES = replace(TO_TOKENS, vocab_size=4, predicts="patches")


def layout(codes: int, specials: Literal["outside", "inside"] = "outside") -> Layout:
    return Layout(LayoutConfig(frames=2, specials=specials), codes=codes, frame_tokens=6)


def batch(codes: int, specials: Literal["outside", "inside"] = "outside") -> Batch:
    generator = torch.Generator().manual_seed(3)
    format_ = layout(codes, specials)
    grids = torch.randint(codes, (3, 2, 2, 3), generator=generator)
    return Batch(
        ids=torch.stack([format_.sequence(grid) for grid in grids]),
        weight=format_.weight(3),
        frames=torch.randint(256, (3, 2, 4, 6, 3), generator=generator).byte(),
    )


class Told(nn.Module):
    """Answers what it was told, and keeps what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, ids: Tensor, patches: Tensor) -> Tensor:
        self.ids, self.patches = ids, patches
        return self.answer


@pytest.mark.parametrize("specials", ["outside", "inside"])
def test_the_model_is_shown_start_and_patches_and_asked_for_the_rest(
    specials: Literal["outside", "inside"],
) -> None:
    one = batch(1, specials)
    assert one.frames is not None
    patches = patchify(one.frames, PATCH_PX, NORMALISATION).flatten(1, 3)
    shown = one.ids.shape[1] - 2  # neither of the special tokens
    assert shown == (12 if specials == "outside" else 10)
    model = Told(torch.zeros(3, shown + 1, 12))
    losses = OBJECTIVE.patch_losses(model, one)
    assert torch.equal(model.ids, one.ids[:, :-1])
    assert torch.equal(model.patches[:, 1:], patches[:, :shown])
    # A guess of 0 costs the mean square of what was asked for.
    expected = targets(patches, NORMALISATION)[:, :shown].square().mean(-1)
    torch.testing.assert_close(losses, expected)
    right = Told(F.pad(targets(patches[:, :shown], NORMALISATION), (0, 0, 0, 1), value=9.0))
    assert OBJECTIVE.next_patch(right, one).item() == 0.0


def test_position_i_answers_for_patch_i() -> None:
    """The start token answers for patch 0: a wrong value there costs there alone."""
    one = batch(1)
    assert one.frames is not None
    wanted = targets(patchify(one.frames, PATCH_PX, NORMALISATION).flatten(1, 3), NORMALISATION)
    answer = F.pad(wanted, (0, 0, 0, 1))
    answer[1, 4, 7] += 3.0
    losses = OBJECTIVE.patch_losses(Told(answer), one)
    assert losses.nonzero().tolist() == [[1, 4]]
    assert losses[1, 4].item() == pytest.approx(9 / 12, rel=1e-4)


def test_the_next_token_is_the_code_of_the_next_patch() -> None:
    one = batch(CODES)
    assert one.frames is not None
    model = TO_TOKENS.build()
    patches = patchify(one.frames, PATCH_PX, NORMALISATION).flatten(1, 3)
    logits = model(one.ids[:, :-1], patches=F.pad(patches, (0, 0, 1, 0)))
    expected = F.cross_entropy(logits.flatten(0, 1), one.ids[:, 1:].flatten())
    torch.testing.assert_close(OBJECTIVE.next_token(model, one), expected)
    by_hand = -logits.log_softmax(-1)[1, 4, one.ids[1, 5]]
    torch.testing.assert_close(OBJECTIVE.token_losses(model, one)[1, 4], by_hand)


def test_weights_are_a_mean_by_weight() -> None:
    one = batch(1)
    weighted = replace(one, weight=torch.rand(3, 13))
    model = TO_PATCHES.build()
    losses, weight = OBJECTIVE.patch_losses(model, one), weighted.weight[:, :-1]
    expected = (losses * weight).sum() / weight.sum()
    torch.testing.assert_close(OBJECTIVE.next_patch(model, weighted), expected)
    to_tokens, codes = TO_TOKENS.build(), batch(CODES)
    losses = OBJECTIVE.token_losses(to_tokens, codes)
    weighted = replace(codes, weight=weighted.weight)
    expected = (losses * weighted.weight).sum() / weighted.weight.sum()
    torch.testing.assert_close(OBJECTIVE.next_token(to_tokens, weighted), expected)


def test_losses_are_taken_in_fp32() -> None:
    one, model = batch(1), TO_PATCHES.build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = OBJECTIVE.next_patch(model, one)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, OBJECTIVE.next_patch(model, one), rtol=0.05, atol=0)


@pytest.mark.parametrize("config", [TO_TOKENS, TO_PATCHES], ids=["tokens", "patches"])
def test_every_weight_gets_a_gradient(config: LlamaConfig) -> None:
    model = config.build()
    to_patches = config.predicts == "patches"
    loss = OBJECTIVE.next_patch if to_patches else OBJECTIVE.next_token
    loss(model, batch(1 if to_patches else CODES)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def flipbook(seed: int) -> Batch:
    """Clips whose second frame repeats the first: noise, brighter by a step for each code."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(CODES, (16, 1, 2, 3), generator=generator)
    steps = grid.repeat_interleave(PATCH_PX, 2).repeat_interleave(PATCH_PX, 3)[..., None]
    frame = 30 * steps + torch.randint(60, (16, 1, 4, 6, 3), generator=generator)
    format_ = layout(CODES)
    ids = [format_.sequence(codes) for codes in grid.expand(-1, 2, -1, -1)]
    return Batch(
        ids=torch.stack(ids),
        weight=format_.weight(16),
        frames=frame.expand(-1, 2, -1, -1, -1).byte().contiguous(),
    )


def trained(config: LlamaConfig, objective: object, *, steps: int) -> Llama:
    model = replace(config, width=32, mlp_width=64).build()
    optimizer = AdamWConfig().build(model)
    batches = iter([flipbook(seed) for seed in range(steps)])
    for _ in train_steps(model, objective, batches, optimizer, lambda _: 5e-3, steps=range(steps)):
        pass
    return model


@torch.no_grad()
def second_frame(losses: Tensor) -> float:
    return losses[:, 6:12].mean().item()


def test_training_learns_to_copy_codes() -> None:
    held_out = flipbook(1000)
    model = trained(TO_TOKENS, OBJECTIVE.next_token, steps=200)
    losses = OBJECTIVE.token_losses(model, held_out)
    # The first frame is drawn by lot, seven codes equally likely; the second is the first.
    assert losses[:, :6].mean().item() == pytest.approx(math.log(CODES), abs=0.15)
    assert second_frame(losses) < 0.5 * math.log(CODES)


def test_training_learns_to_copy_patches() -> None:
    held_out = flipbook(1000)
    to_patches = replace(held_out, ids=held_out.ids.clamp_min(CODES - 1) - CODES + 1)
    assert to_patches.ids.unique().tolist() == [0, 1, 2]

    def next_patch(model: nn.Module, one: Batch) -> Tensor:
        return OBJECTIVE.next_patch(
            model, replace(one, ids=one.ids.clamp_min(CODES - 1) - CODES + 1)
        )

    model = trained(TO_PATCHES, next_patch, steps=500)
    losses = OBJECTIVE.patch_losses(model, to_patches)
    assert second_frame(losses) < 0.7 * losses[:, :6].mean().item()

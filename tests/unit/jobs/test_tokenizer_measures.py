"""What is measured of a tokenizer, with codes and pictures whose numbers are known by hand."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from toto.jobs.progress import bar
from toto.jobs.tokenizer import TokenizerTraining, _until_divergence, is_collapsed
from toto.jobs.tokenizer_measures import mean_colour, measure_tokenizer, side_by_side
from toto.tokenizers.dvae import DVAE, DVAEConfig
from toto.train.loop import Step


class Ramp(DVAE):
    """A tokenizer with known answers: codes count up through four, pictures come back 5 darker."""

    def encode(self, frames: Tensor) -> Tensor:
        self.seen = frames
        rows, columns = frames.shape[1] // 8, frames.shape[2] // 8
        return (torch.arange(len(frames) * rows * columns) % 4).int().view(-1, rows, columns)

    def decode(self, ids: Tensor) -> Tensor:
        return self.seen - 5


def ramp() -> Ramp:
    return Ramp(DVAEConfig(vocab_size=8, width=4, decoder_stem=8, blocks_per_group=1))


def test_the_measures_of_a_known_tokenizer() -> None:
    frames = torch.randint(5, 256, (2, 16, 16, 3), dtype=torch.uint8)
    result = measure_tokenizer(ramp(), frames)
    assert result["psnr_db"] == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)
    assert result["used_codes"] == 4
    assert result["perplexity"] == pytest.approx(4)
    assert (result["frames"], result["patch_px"], result["vocab_size"]) == (2, 8, 8)
    assert result["parameters"] == sum(p.numel() for p in ramp().parameters())


def test_the_mean_colour_of_each_patch() -> None:
    frames = torch.zeros(1, 8, 16, 3, dtype=torch.uint8)
    frames[0, :4, :8] = 100
    frames[0, :, 8:, 1] = 7
    painted = mean_colour(frames, 8)
    assert painted.shape == frames.shape
    assert (painted[0, :, :8] == 50).all()
    assert (painted[0, :, 8:] == torch.tensor([0, 7, 0], dtype=torch.uint8)).all()


def test_a_picture_shows_frames_above_what_is_left_of_them() -> None:
    frames = torch.arange(30, dtype=torch.uint8)[:, None, None, None].repeat(1, 8, 8, 3) + 100
    picture = side_by_side(ramp(), frames, count=3)
    assert picture.shape == (2 * 2 * 8, 2 * 3 * 8, 3)
    # The first, the middle and the last; a patch is drawn at twice its size.
    assert picture[0, ::16, 0].tolist() == [100, 114, 129]
    assert picture[16, ::16, 0].tolist() == [95, 109, 124]
    # Fewer frames than places are shown more than once.
    assert side_by_side(ramp(), frames[:2]).shape == (32, 2 * 12 * 8, 3)


@pytest.mark.parametrize(
    ("found", "vocab_size", "places", "collapsed"),
    [
        (4.9, 100, 1000, True),
        (5.0, 100, 1000, False),
        # Twenty places cannot show more than twenty codes.
        (0.9, 8192, 20, True),
        (1.0, 8192, 20, False),
        (1.0, 512, 1000, True),
    ],
)
def test_collapsed_is_below_a_twentieth_of_what_could_be(
    found: float, vocab_size: int, places: int, collapsed: bool
) -> None:
    assert is_collapsed(found, vocab_size, places) == collapsed


def test_batches_are_a_function_of_seed_and_step() -> None:
    job = TokenizerTraining(batch=4, seed=3)
    frames = torch.randint(256, (50, 8, 8, 3), dtype=torch.uint8)
    whole, late = job._batches(frames, 0), job._batches(frames, 60)
    batches = [next(whole) for _ in range(62)]
    assert [batch.step for batch in batches] == list(range(62))
    for step in (60, 61):
        resumed = next(late)
        assert resumed.step == step
        assert torch.equal(resumed.frames, batches[step].frames)
    assert not torch.equal(batches[0].frames, batches[1].frames)
    other = next(TokenizerTraining(batch=4, seed=4)._batches(frames, 0))
    assert not torch.equal(other.frames, batches[0].frames)


def test_half_of_the_batches_are_mirrored_when_asked() -> None:
    frames = torch.randint(256, (50, 8, 8, 3), dtype=torch.uint8)
    plain = TokenizerTraining(batch=4)._batches(frames, 0)
    mirrored = TokenizerTraining(batch=4, mirror=True)._batches(frames, 0)
    turned = 0
    for _ in range(100):
        one, other = next(plain).frames, next(mirrored).frames
        turned += torch.equal(one.flip(2), other)
        assert torch.equal(one, other) or torch.equal(one.flip(2), other)
    assert 30 < turned < 70


def steps(error: Exception) -> Iterator[Step]:
    for number in (8, 9):
        yield Step(number=number, loss=torch.zeros(()), grad_norm=torch.zeros(()), lr=1.0)
    raise error


def test_a_gradient_that_is_not_finite_is_a_divergence_and_nothing_else_is() -> None:
    seen: list[int] = []

    def run(error: Exception) -> None:
        seen.extend(step.number for step in _until_divergence(steps(error), 7, lambda n: n / 4))

    with pytest.raises(
        ValueError,
        match=r"training diverged: the gradient of step 10 is not finite, at a learning rate of "
        r"2\.25; lower --lr and begin again in another --out",
    ):
        run(RuntimeError("The total norm of order 2.0 for gradients is non-finite, so it cannot"))
    assert seen == [8, 9]
    with pytest.raises(RuntimeError, match="out of memory"):
        run(RuntimeError("out of memory"))


def test_a_bar_passes_items_through_and_can_be_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("count", 3) as progress:
        assert list(progress.over("abc")) == ["a", "b", "c"]
        progress.advance(0, note="done now")
    said = capsys.readouterr().err
    assert "3/3" in said
    assert "done now" in said
    with bar("count", 3, shown=False) as progress:
        assert list(progress.over("abc")) == ["a", "b", "c"]
    assert capsys.readouterr().err.strip() == ""

"""Which trainings a sweep holds, and what is concluded of their losses."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch

from toto.models import LlamaConfig
from toto.models.mup import MuP
from toto.studies.coordinates import by_kind, drift
from toto.studies.made_sequences import MadeSequences
from toto.studies.transfer import Cell, cells, summary, train_cell
from toto.studies.widths import standard, widened
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine

MODEL = LlamaConfig(
    vocab_size=16,
    width=16,
    depth=1,
    heads=2,
    mlp_width=24,
    context=12,
    mup=MuP(base_width=16, zero_query=True),
)
RATES = (-9, -7, -5, -3)


def scores(best: dict[tuple[str, int], int], seeds: int = 2) -> dict[Cell, float | None]:
    """Parabolas with their vertex at the rates given, the seeds half a nat above and below."""
    return {
        cell: 1.0
        + 0.1 * (cell.log2_lr - best[cell.parametrisation, cell.width]) ** 2
        + (cell.seed - 0.5)
        for cell in cells((8, 16), RATES, seeds, base_width=8)
    }


def test_the_base_width_is_trained_once() -> None:
    plan = cells((8, 16, 32), RATES, 2, base_width=8)
    assert len(plan) == len(set(plan)) == 2 * len(RATES) * 5
    assert {cell.parametrisation for cell in plan if cell.width == 8} == {"mup"}
    assert [cell.width for cell in plan[:5]] == [8, 16, 16, 32, 32]


def test_best_rates_and_how_far_they_move() -> None:
    best = {("mup", 8): -5, ("mup", 16): -6, ("standard", 16): -7}
    found = summary(scores(best), (8, 16), RATES, base_width=8)
    assert found["mup"]["best"]["8"] == {
        "log2_lr": -5,
        "loss": pytest.approx(1.0),
        "between": pytest.approx(-5),
        "at_edge": False,
    }
    # The vertex lies at -6, between two rates that were tried, and is found there.
    assert found["mup"]["best"]["16"]["between"] == pytest.approx(-6)
    assert found["standard"]["best"]["8"] == found["mup"]["best"]["8"]
    assert found["standard"]["moved"] == 2
    # At rate -5 the loss is 0.4 above that at -7.
    assert found["standard"]["lost_by_keeping"] == {"8": 0.0, "16": pytest.approx(0.4)}


def test_a_rate_at_which_a_seed_was_lost_is_not_the_best() -> None:
    measured = scores({("mup", 8): -5, ("mup", 16): -5, ("standard", 16): -5})
    measured[Cell(parametrisation="mup", width=16, log2_lr=-5, seed=1)] = None
    found = summary(measured, (8, 16), RATES, base_width=8)
    assert found["mup"]["mean_loss"]["16"][RATES.index(-5)] is None
    row = found["mup"]["best"]["16"]
    # Its neighbours lie equally high, and beside a lost training the best may lie further out.
    assert row["log2_lr"] in (-7, -3)
    assert (row["at_edge"], row["between"]) == (True, None)
    assert found["mup"]["lost_by_keeping"]["16"] is None


def test_a_width_that_never_trained_moves_nothing() -> None:
    measured = scores({("mup", 8): -5, ("mup", 16): -5, ("standard", 16): -5})
    for cell in measured:
        if cell.width == 16:
            measured[cell] = None
    found = summary(measured, (8, 16), RATES, base_width=8)
    assert found["mup"]["best"]["16"] is None
    assert found["mup"]["moved"] is None


def train(log2_lr: float, steps: int = 30) -> float | None:
    source = MadeSequences(vocab_size=16, length=12, seed=0)
    return train_cell(
        MODEL,
        source.batches(batch=8, seed=1),
        AdamWConfig(),
        WarmupCosine(peak=2.0**log2_lr, warmup=2, steps=steps),
        seed=0,
        place=torch.device("cpu"),
        each_step=lambda: None,
    )


def test_a_cell_learns_and_is_the_same_again() -> None:
    loss = train(-5)
    assert loss is not None
    assert loss == train(-5)
    barely = train(-20)
    assert barely is not None
    assert loss < barely - 0.1


def test_a_training_that_is_lost_has_no_score() -> None:
    assert train(127, steps=5) is None


def test_made_sequences_follow_from_their_seeds() -> None:
    source = MadeSequences(vocab_size=16, length=12, seed=0)
    one, same, other = (
        [batch.ids for batch in islice(source.batches(batch=4, seed=seed), 3)] for seed in (5, 5, 6)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], one[1])
    assert one[0].shape == (4, 12)
    assert one[0].max() < 16


def test_the_next_id_depends_on_the_last_two() -> None:
    source = MadeSequences(vocab_size=4, length=3, seed=0)
    ids = torch.cat([batch.ids for batch in islice(source.batches(batch=500, seed=0), 20)])
    counts = torch.zeros(4, 4, 4).index_put_(tuple(ids.T), torch.tensor(1.0), accumulate=True)
    chances = counts / counts.sum(2, keepdim=True)
    assert (chances.amax(0) - chances.amin(0)).max() > 0.1  # over the id before the last
    assert (chances.amax(1) - chances.amin(1)).max() > 0.1  # over the last


def test_heads_grow_wider_or_more_numerous() -> None:
    wider, more = widened(MODEL, 64), widened(MODEL, 64, "heads")
    assert (wider.heads, wider.head_width, wider.mlp_width) == (2, 32, 96)
    assert (more.heads, more.head_width, more.mlp_width) == (8, 8, 96)
    scale = MODEL.mup.attention_scale(16, 2)
    assert scale == pytest.approx(8**-0.5)
    assert wider.mup.attention_scale(64, 2) == pytest.approx(scale / 4)
    assert more.mup.attention_scale(64, 8) == pytest.approx(scale)


def test_without_mup_only_what_begins_at_zero_stays() -> None:
    assert standard(MODEL).mup == MuP(zero_query=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: widened(MODEL, 17), "width 17 .* an MLP of 25.5; .* multiple of .* width 16"),
        (lambda: widened(MODEL, 20, "heads"), "width 20 would make heads of 2.5"),
    ],
)
def test_widths_that_do_not_fit(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_drift_is_the_worst_distance_from_the_base_width() -> None:
    scales = {
        8: [{"block 1": 1.0, "logits": 0.0}, {"block 1": 2.0, "logits": 4.0}],
        16: [{"block 1": 1.05, "logits": 0.0}, {"block 1": 1.8, "logits": 4.0}],
    }
    assert drift(scales, 8) == {"block 1": pytest.approx(0.1), "logits": 0.0}
    assert drift(scales, 16)["block 1"] == pytest.approx(2 / 1.8 - 1)
    assert by_kind({"block 1": 0.1, "block 2": 0.3, "logits": 0.2}, ("block", "logits")) == {
        "block": 0.3,
        "logits": 0.2,
    }


def test_logits_that_are_zero_at_one_width_alone_are_infinitely_far() -> None:
    assert drift({8: [{"logits": 0.0}], 16: [{"logits": 1.0}]}, 8)["logits"] == float("inf")

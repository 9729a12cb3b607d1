"""A model spread over ranks trains as it does on one, whatever the strategy."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from made_ranks import over_ranks
from toto.models import LlamaConfig
from toto.runtime.devices import Precision, Ranks, compute, distributed
from toto.runtime.parallel import Parallel, device_memory_bytes, is_large, unsummed, whole
from toto.train.loop import train_steps
from toto.train.optimizer import AdamWConfig

CPU = torch.device("cpu")
MODEL = LlamaConfig(vocab_size=19, width=32, depth=3, heads=2, mlp_width=64, context=33)
WORLD, STEPS, BATCH = 4, 10, 8
VARIANTS: dict[str, tuple[Parallel, Precision]] = {
    "ddp": (Parallel(strategy="ddp", accumulate=1), "fp32"),
    "fsdp": (Parallel(strategy="fsdp", accumulate=1), "fp32"),
    "hsdp": (Parallel(strategy="hsdp", replicas=2, accumulate=1), "fp32"),
    "ddp in parts": (Parallel(strategy="ddp", accumulate=2), "fp32"),
    "fsdp in parts": (Parallel(strategy="fsdp", accumulate=2), "fp32"),
    "fsdp, checkpointed": (
        Parallel(strategy="fsdp", accumulate=1, activation_checkpointing=True),
        "fp32",
    ),
    "ddp in bf16": (Parallel(strategy="ddp", accumulate=1), "bf16"),
    "fsdp in bf16": (Parallel(strategy="fsdp", accumulate=1), "bf16"),
}
ALONE = Parallel(accumulate=1).resolve(1, large=False)


def fresh(parallel: Parallel, ranks: Ranks) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = MODEL.build()
    return model, parallel.spread(model, list(model.blocks), ranks=ranks, place=CPU)


def batches(ranks: Ranks, parts: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    while True:
        ids = torch.randint(MODEL.vocab_size, (BATCH, 33), generator=generator)
        yield from ids.chunk(ranks.world)[ranks.rank].chunk(parts)


def next_id(model: nn.Module, ids: Tensor, precision: Precision = "fp32") -> Tensor:
    with compute(precision, CPU):
        logits = model(ids[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def weights(model: nn.Module) -> list[list[float]]:
    return [whole(p.detach()).flatten().tolist() for p in model.parameters()]


def train(parallel: Parallel, precision: Precision, ranks: Ranks) -> dict[str, Any]:
    """Ten steps; the same numbers on every rank."""
    model, trained = fresh(parallel, ranks)
    before = weights(model)
    optimizer = AdamWConfig().build(model)
    losses, norms = [], []
    for step in train_steps(
        trained,
        lambda model, ids: next_id(model, ids, precision),
        batches(ranks, parallel.accumulate),
        optimizer,
        lambda _: 1e-3,
        steps=range(STEPS),
        accumulate=parallel.accumulate,
    ):
        loss = step.loss.clone()
        if ranks.world > 1:
            torch.distributed.all_reduce(loss)
        losses.append(loss.item() / ranks.world)
        norms.append(step.grad_norm.item())
    return {
        "names": [name for name, _ in model.named_parameters()],
        "held": sum(
            (p.to_local() if isinstance(p, torch.distributed.tensor.DTensor) else p).numel()
            for p in model.parameters()
        ),
        "before": before,
        "after": weights(model),
        "losses": losses,
        "norms": norms,
    }


def local_gradients(strategy: str, ranks: Ranks) -> str:
    """What one backward pass leaves on a rank while nothing is exchanged."""
    model, trained = fresh(Parallel(strategy=strategy).resolve(WORLD, large=False), ranks)
    with unsummed(trained):
        next_id(trained, next(batches(ranks, 1))).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return "held back"
    mine = torch.cat([whole(g).flatten() for g in gradients])
    others = [torch.empty_like(mine) for _ in range(ranks.world)]
    torch.distributed.all_gather(others, mine)
    return "summed" if torch.equal(others[0], others[1]) else "own"


def nonfinite(strategy: str, ranks: Ranks) -> str:
    """The complaint about a gradient that is infinite on one rank only."""
    model, trained = fresh(Parallel(strategy=strategy).resolve(WORLD, large=False), ranks)
    before = weights(model)
    bad = math.inf if ranks.rank == 1 else 1.0
    steps = train_steps(
        trained,
        lambda model, ids: next_id(model, ids) * bad,
        batches(ranks, 1),
        AdamWConfig().build(model),
        lambda _: 1e-3,
        steps=range(1),
    )
    with pytest.raises(RuntimeError, match="non-finite") as caught:
        next(steps)
    assert weights(model) == before
    return str(caught.value)


def all_variants(out: str) -> None:
    with distributed() as ranks:
        found: dict[str, Any] = {
            name: train(parallel.resolve(WORLD, large=False), precision, ranks)
            for name, (parallel, precision) in VARIANTS.items()
        }
        found["unsummed"] = {name: local_gradients(name, ranks) for name in ("ddp", "fsdp")}
        found["nonfinite"] = {name: nonfinite(name, ranks) for name in ("ddp", "fsdp")}
        if ranks.rank == 0:
            Path(out).write_text(json.dumps(found))
        ranks.barrier()


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every variant on four ranks."""
    out = tmp_path_factory.mktemp("spread") / "found.json"
    over_ranks(WORLD, all_variants, str(out))
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def alone() -> dict[Precision, dict[str, Any]]:
    return {precision: train(ALONE, precision, Ranks()) for precision in ("fp32", "bf16")}


@pytest.mark.parametrize("name", VARIANTS)
def test_fresh_weights_are_those_of_one_rank(
    name: str, spread: dict[str, Any], alone: dict[Precision, dict[str, Any]]
) -> None:
    assert spread[name]["before"] == alone["fp32"]["before"]
    assert spread[name]["names"] == alone["fp32"]["names"]


@pytest.mark.parametrize("name", VARIANTS)
def test_steps_are_those_of_one_rank(
    name: str, spread: dict[str, Any], alone: dict[Precision, dict[str, Any]]
) -> None:
    precision = VARIANTS[name][1]
    # fp32: sums of the ranks' gradients are rounded in another order. bf16: those of products are
    # too, since a rank multiplies a quarter of the rows.
    tolerance = 1e-5 if precision == "fp32" else 2e-3
    ours, theirs = spread[name], alone[precision]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=tolerance)
    assert ours["norms"] == pytest.approx(theirs["norms"], rel=tolerance)
    if precision == "fp32":
        for one, other in zip(ours["after"], theirs["after"], strict=True):
            # Adam divides by the gradient's size: where that is rounding, so is the quotient.
            assert one == pytest.approx(other, abs=1e-5)


def test_hsdp_is_ddp_and_checkpointing_changes_nothing(spread: dict[str, Any]) -> None:
    assert spread["hsdp"]["losses"] == pytest.approx(spread["ddp"]["losses"], rel=1e-5)
    assert spread["fsdp, checkpointed"]["losses"] == spread["fsdp"]["losses"]
    assert spread["fsdp, checkpointed"]["after"] == spread["fsdp"]["after"]


def test_a_rank_holds_its_part(spread: dict[str, Any]) -> None:
    whole_size = spread["ddp"]["held"]
    # Rows that do not divide by four leave the first rank a little more.
    assert whole_size / 4 <= spread["fsdp"]["held"] < 1.1 * whole_size / 4
    assert whole_size / 2 <= spread["hsdp"]["held"] < 1.1 * whole_size / 2


def test_gradients_are_not_exchanged_before_the_last_part(spread: dict[str, Any]) -> None:
    assert spread["unsummed"] == {"ddp": "own", "fsdp": "held back"}


def test_a_gradient_that_is_not_finite_on_one_rank_stops_all(spread: dict[str, Any]) -> None:
    assert all("non-finite" in complaint for complaint in spread["nonfinite"].values())


def test_checkpointing_keeps_less_and_gives_the_same() -> None:
    kept: dict[bool, int] = {}
    losses = {}
    for checkpointed in (False, True):
        model, _ = fresh(
            Parallel(activation_checkpointing=checkpointed).resolve(1, large=False), Ranks()
        )
        places = {}

        def keep(tensor: Tensor, places: dict[int, int] = places) -> Tensor:
            places[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = next_id(model, next(batches(Ranks(), 1)))
        kept[checkpointed] = sum(places.values())
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        losses[checkpointed] = loss.item(), gradients.tolist()
    assert kept[True] < 0.3 * kept[False]
    assert losses[True] == losses[False]


def test_auto_copies_what_is_small_and_shards_what_is_large() -> None:
    assert not is_large(18_300_000_000, 80_000_000_000)
    assert is_large(18_300_000_000, 40_000_000_000)
    assert Parallel().resolve(8, large=False).strategy == "ddp"
    assert Parallel().resolve(8, large=True).strategy == "fsdp"
    assert Parallel().resolve(8, large=True).shards(8) == 8
    for strategy in ("auto", "none", "ddp", "fsdp", "hsdp"):
        resolved = Parallel(strategy=strategy).resolve(1, large=True)
        assert (resolved.strategy, resolved.sharded, resolved.shards(1)) == ("none", False, 1)


def test_hsdp_has_a_replica_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    resolved = Parallel(strategy="hsdp").resolve(12, large=True)
    assert (resolved.replicas, resolved.shards(12)) == (3, 4)


def test_ranks_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    all_of_it = device_memory_bytes(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert device_memory_bytes(CPU) == all_of_it // 2 > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": -1}, "accumulate -1 must be 0 .as memory allows. or more"),
        ({"strategy": "hsdp", "replicas": -1}, "replicas -1 must be 0 .one a machine. or more"),
        ({"strategy": "fsdp", "replicas": 2}, "replicas 2 are for --strategy hsdp, not 'fsdp'"),
    ],
)
def test_rejects_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parallel(**options)


def test_rejects_a_world_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="6 ranks do not divide into 4 replicas; choose another"):
        Parallel(strategy="hsdp", replicas=4).resolve(6, large=True)
    with pytest.raises(ValueError, match="strategy 'none' would train 2 models apart; use 'auto'"):
        Parallel(strategy="none").resolve(2, large=False)
    with pytest.raises(ValueError, match="strategy 'auto' is still open; call `resolve` first"):
        fresh(Parallel(), Ranks())

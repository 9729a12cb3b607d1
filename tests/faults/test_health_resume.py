"""A run with poisoned batches decides the same whether it was broken off or not, and goes back."""

import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import test_resume
import torch
from torch import Tensor, nn

import toto.jobs.pretraining
from toto.data.layout import Layout
from toto.data.loader import Loader
from toto.data.token_set import TokenSet
from toto.jobs.incidents import Incidents
from toto.jobs.pretrain import Pretrain
from toto.jobs.training import StoppedError
from toto.runtime import checkpoint_record, durable
from toto.train.health import Health
from toto.types import Batch

pytestmark = pytest.mark.faults
STEPS = 16
shards = test_resume.shards
# 10 deviations of a window of 4 are nothing out of the ordinary; a factor of 50 is 1,000 of them.
SKIP = Health(on_spike="skip", window=4, spike_deviations=1000)


def job(shards: Path, health: Health) -> Pretrain:
    return replace(test_resume.job(shards, STEPS), health=health)


def first_ids(shards: Path, steps: set[int]) -> dict[tuple[int, ...], int]:
    """Ids of the first sequence of each of these steps, by which the objective knows them."""
    config = job(shards, Health())
    sets = [TokenSet(shards / source.name) for source in config.mixture]
    layout = Layout(config.layout, codes=16, frame_tokens=16)
    weights = [source.weight for source in config.mixture]
    loader = Loader(sets, weights, layout, seed=config.seed, hop=config.hop)
    return {
        tuple(loader.batch(loader.order.step(step - 1, batch=config.batch)).ids[0].tolist()): step
        for step in steps
    }


@pytest.fixture
def poison(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Multiply the loss of the steps named by so much, whenever they are taken."""

    def set_up(factors: dict[int, float]) -> None:
        known, whole = first_ids(shards, set(factors)), toto.jobs.pretraining.objective_of

        def poisoned(*arguments: object) -> object:
            objective = whole(*arguments)

            def loss(model: nn.Module, batch: Batch) -> Tensor:
                step = known.get(tuple(batch.ids[0].tolist()), 0)
                return objective.loss(model, batch) * factors.get(step, 1.0)

            return replace(objective, loss=loss)

        monkeypatch.setattr(toto.jobs.pretraining, "objective_of", poisoned)

    return set_up


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def incidents(out: Path) -> list[dict[str, object]]:
    file = out / "incidents.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def losses(out: Path) -> list[tuple[int, float | None]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def weights(out: Path, step: int = STEPS) -> str:
    file = out / "checkpoints" / f"step-{step:07d}" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """Ask the run to stop when it logs this step."""
    append = durable.append

    def then_stop(path: Path, data: bytes) -> None:
        append(path, data)
        if path.name == "metrics.jsonl" and json.loads(data)["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "append", then_stop)
        yield


def test_a_poisoned_run_ends_alike_with_and_without_a_stop(
    shards: Path,
    poison: Callable[[dict[int, float]], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    poison({2: math.nan, 6: 50.0, 9: math.inf, 10: 50.0})
    config = job(shards, SKIP)
    config.run(tmp_path / "whole")
    found = incidents(tmp_path / "whole")
    assert [(i["step"], i["what"], i["taken"]) for i in found] == [
        (2, "nonfinite", False),
        (6, "spike", False),
        (9, "nonfinite", False),
        (10, "spike", False),
    ]
    assert [i["loss"] for i in found if i["what"] == "nonfinite"] == ["nan", "inf"]
    assert [step for step, loss in losses(tmp_path / "whole") if loss is None] == [2, 9]
    for step in (3, 9):
        # Left to itself the window would be empty or without its spikes after a resume.
        with stopped_at(monkeypatch, step), pytest.raises(StoppedError):
            config.run(tmp_path / "broken")
    config.run(tmp_path / "broken")
    assert incidents(tmp_path / "broken") == found
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


def test_an_incident_names_the_clips_of_its_batch(
    shards: Path, poison: Callable[[dict[int, float]], None], tmp_path: Path
) -> None:
    poison({3: math.nan})
    config = replace(job(shards, SKIP), steps=4, warmup=1)
    config.run(tmp_path / "run")
    (found,) = incidents(tmp_path / "run")
    named = found["batch"]
    assert set(named) <= {source.name for source in config.mixture}
    assert sum(map(len, named.values())) == config.batch
    ((ids, _),) = first_ids(shards, {3}).items()
    windows = [
        tuple(
            TokenSet(shards / source).window(clip, start, config.layout.frames).flatten().tolist()
        )
        for source, cuts in named.items()
        for clip, name, start in cuts
        if name.startswith("noise#")
    ]
    assert ids[1:-1] in windows


def test_where_it_is_to_stop_it_says_why_in_one_line(
    shards: Path, poison: Callable[[dict[int, float]], None], tmp_path: Path
) -> None:
    poison({3: math.nan})
    with pytest.raises(
        ValueError, match=r"^step 3: loss nan, .* --health.on-nonfinite skip [^\n]*$"
    ):
        job(shards, replace(SKIP, on_nonfinite="stop")).run(tmp_path / "run")
    assert [i["step"] for i in incidents(tmp_path / "run")] == [3]
    assert not (tmp_path / "run" / "results" / "pretrain.json").exists()


def test_a_rewind_that_no_checkpoint_reaches_is_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="rewind_span 100 is more than save_every 5: no check"):
        job(shards, Health(rewind_after=2))


REWIND = replace(SKIP, on_spike="log", rewind_after=2, rewind_span=4)


@pytest.fixture
def as_if_left_out(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[str, list[tuple[int, float | None]]]:
    """Weights and losses of a run that was told from the start to leave steps 11 to 13 out."""
    with monkeypatch.context() as patch:
        patch.setattr(Incidents, "passed_over", lambda _: [(11, 13)])
        job(shards, REWIND).run(tmp_path / "told")
    return weights(tmp_path / "told"), losses(tmp_path / "told")


@contextmanager
def crashing_at(monkeypatch: pytest.MonkeyPatch, point: str) -> Iterator[None]:
    """Break the run off at a named point."""

    def crash(name: str) -> None:
        if name == point:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(durable, "crash_point", crash)
        yield


@pytest.mark.parametrize(
    "point", ["", "rewind.before_rename", "rewind.before_record", "rewind.after_record"]
)
def test_it_goes_back_and_leaves_the_batches_out(
    point: str,
    shards: Path,
    poison: Callable[[dict[int, float]], None],
    as_if_left_out: tuple[str, list[tuple[int, float | None]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    poison({11: 50.0, 13: 50.0})
    config, out = replace(job(shards, REWIND), save_every=4), tmp_path / "run"
    aside, name_undone = [], checkpoint_record.name_undone
    monkeypatch.setattr(
        checkpoint_record, "name_undone", lambda path: aside.append(name_undone(path)) or aside[-1]
    )
    if point:
        with crashing_at(monkeypatch, point), pytest.raises(SystemExit):
            config.run(out)
    config.run(out)
    (rewind,) = json.loads((out / "results" / "rewinds.json").read_text())["rewinds"]
    assert (rewind["at_step"], rewind["passed_over"]) == (13, [11, 13])
    assert [incident["step"] for incident in rewind["incidents"]] == [11, 13]
    assert incidents(out) == []
    # What was set aside before the rewind was on record is met, and set aside, once more.
    times = 2 if point == "rewind.before_record" else 1
    assert [path.name for path in aside] == [f"step-0000012.rewound-{n + 1}" for n in range(times)]
    # And it goes when two checkpoints are as far.
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step-0000012", "step-0000016"]
    wanted_weights, wanted_losses = as_if_left_out
    assert weights(out) == wanted_weights
    kept = [pair for pair in losses(out) if not 11 <= pair[0] <= 13]
    assert kept == [pair for pair in wanted_losses if not 11 <= pair[0] <= 13]


def test_other_data_under_a_run_is_refused_by_its_source(
    shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = tmp_path / "shards"
    shutil.copytree(shards, moved)
    with stopped_at(monkeypatch, 3), pytest.raises(StoppedError):
        job(moved, Health()).run(tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    source = moved / "moving-digits" / "pretrain"
    # Whole and sound, but with other clips: one shard where there was another.
    shutil.rmtree(source)
    shutil.copytree(moved / "moving-digits" / "selection", source)
    with pytest.raises(
        ValueError, match=r"^source moving-digits/pretrain is not what this run began with: [^\n]*$"
    ):
        job(moved, Health()).run(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(source)
    shutil.copytree(shards / "moving-digits" / "pretrain", source)
    job(moved, Health()).run(tmp_path / "run")
    assert len(losses(tmp_path / "run")) == STEPS

"""The real trainer on two ranks, sharded, saving in the background, killed again and again.

A driver starts the ranks and kills one or all of them: at a random moment, or one of them at a
named point. Then it starts them again. Nothing that was committed may be lost, and once a run comes
to its end, its losses and its last checkpoint are those of a run that nobody touched, bit for bit.
"""

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from made_runs import Ranks, Start, losses, newest, run, state_sha256, tiny, write_noise

from toto.runtime import checkpoint, checkpoint_record

pytestmark = pytest.mark.faults

KILLS, ROUNDS = {"": (4, 0), "ci": (20, 1), "nightly": (200, 5)}[os.environ.get("TOTO_FAULTS", "")]
SEED = int(os.environ.get("TOTO_FAULTS_SEED", "0"))
STEPS, SAVE_EVERY = (40 if ROUNDS else 24), 2
ANY = {
    "before_wait",
    "before_copy",
    "after_copy",
    "after_verify",
    "after_load",
    "thread_begins",
    "before_write",
    "after_folder",
    "mid_write",
    "mid_fsync",
    "after_write",
    "before_receipt",
}
FIRST = {
    "mid_sweep",
    "after_aside",
    "mid_receipts",
    "before_commit",
    "after_record",
    "before_fsync",
    "before_rename",
    "after_rename",
    "before_prune",
    "mid_prune",
    "after_prune",
}
OTHERS = {"mid_receipt", "after_receipt"}
POINTS = sorted(ANY | FIRST | OTHERS)
ONCE = {"after_verify", "after_load", "mid_sweep", "after_aside"}
"""Points that a start passes once at most, on its way in."""


@dataclass
class Tally:
    """What the kills hit, and what had to be done again."""

    phases: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    steps_redone: int = 0
    survivors_that_ended: int = 0

    def say(self) -> None:
        """Print the histogram."""
        lines = [
            f"{self.kills} random SIGKILLs, {sum(self.points.values())} at {len(self.points)} "
            f"named points, {self.runs} complete runs of {STEPS} steps, "
            f"{self.steps_redone} steps redone, {self.survivors_that_ended} ranks that were left "
            "alone and ended by themselves",
            *(f"{count:5} {phase}" for phase, count in self.phases.most_common()),
        ]
        print("\n".join(["", *lines]))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise") / "shards"
    write_noise(folder)
    return folder


def start(shards: Path, out: Path, **options: object) -> Start:
    job = tiny(shards, steps=STEPS, save_every=SAVE_EVERY, validate_every=STEPS // 2)
    return Start(job=job, out=out, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    run(start(shards, out))
    return out


def committed(out: Path) -> int:
    """The last committed step; what stands must be whole, and two of them once there were two."""
    there = checkpoint_record.steps(out / "checkpoints")
    for _, path in there:
        checkpoint.verify(path)
    wanted = 1 if list((out / "checkpoints").glob("*.damaged")) else 2
    assert len(there) >= min(wanted, (there[0][0] if there else 0) // SAVE_EVERY)
    return there[0][0] if there else 0


def logged(out: Path) -> int:
    return max((step for step, _ in losses(out)), default=0) if has_log(out) else 0


def has_log(out: Path) -> bool:
    return (out / "metrics.jsonl").exists()


def prepare(out: Path, point: str) -> bool:
    """Make sure that the next start passes a point on its way in; False if it cannot yet."""
    there = checkpoint_record.steps(out / "checkpoints")
    if len(there) < 2:
        return False
    if point == "mid_sweep":
        (out / "checkpoints" / "step-0000099.tmp-left").mkdir(exist_ok=True)
    if point == "after_aside":
        file = min(there[0][1].glob("model*"))
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    return True


def kill_at_random(ranks: Ranks, draw: random.Random, tally: Tally) -> bool:
    """Kill one or all at any moment after the ranks have met; False if the run came to its end."""
    victims = draw.choice([[0], [1], [0, 1], [1, 0]])
    # Left to the clock most kills would hit the way in, which takes longer than a few steps.
    moment, victim = draw.random(), victims[0]
    if moment < 0.1:
        ranks.wait(lambda: ranks.phase(victim)[0] != "")
    elif moment < 0.2:
        ranks.wait(lambda: ranks.phase(victim)[0] not in ("", "starting"))
        time.sleep(draw.uniform(0, 0.3))
    elif moment < 0.6:
        ranks.wait(lambda: ranks.phase(victim)[0] == "a step")
        time.sleep(draw.uniform(0, 0.6))
    else:
        ranks.wait(lambda: ranks.phase(victim)[1] != "")
        time.sleep(draw.uniform(0, 0.03))
    main, writer = ranks.phase(victims[0])
    alive = [ranks.processes[victim] for victim in victims]
    if any(process.exitcode is not None for process in ranks.processes):
        return False
    for process in alive:
        process.kill()
    for process in alive:
        process.join()
    tally.kills += 1
    tally.phases[f"rank {victims[0]}: {writer or main}"] += 1
    met = all(ranks.phase(rank)[0] not in ("", "starting") for rank in range(2))
    if len(victims) == 1 and met and draw.random() < 0.2:
        # The other rank must notice by itself and end, whatever its own writer waits for. One that
        # has not met the other yet waits for it as long as torch does.
        codes = ranks.join(60)
        assert None not in codes, ranks.said(1 - victims[0])[-3000:]
        tally.survivors_that_ended += 1
    elif len(victims) == 1:
        time.sleep(draw.uniform(0, 0.2))
    return True


def plan(draw: random.Random) -> list[str]:
    """What to do at each start: die at a named point, or by a random kill ("")."""
    points = POINTS * ROUNDS or draw.sample(POINTS, 3)
    todo = [""] * KILLS + points
    draw.shuffle(todo)
    return todo


def test_killed_again_and_again_it_ends_as_the_run_that_was_left_alone(
    shards: Path, unbroken: Path, tmp_path: Path
) -> None:
    draw, tally = random.Random(SEED), Tally()
    todo = plan(draw)
    named = Counter(point for point in todo if point)
    wanted_losses, wanted_state = losses(unbroken), state_sha256(newest(unbroken))
    number, before, dropped = 0, 0, (0, 0)
    out = tmp_path / f"run-{number}"
    while True:
        done = (out / "results" / "pretrain.json").exists()
        if done:
            assert losses(out) == wanted_losses
            assert state_sha256(newest(out)) == wanted_state
            assert not list((out / "checkpoints").glob("*tmp*"))
            tally.runs += 1
            if not todo:
                break
            number, before = number + 1, 0
            out = tmp_path / f"run-{number}"
        point = todo[-1] if todo else None
        crash_rank = draw.randrange(2) if point in ANY else int(point in OTHERS)
        crash_at = f"checkpoint.{point}:{draw.randint(1, 3)}" if point else ""
        ready = point not in ONCE or prepare(out, point)
        if point in ONCE:
            # First a start that leaves something to go on from.
            crash_at = f"checkpoint.{point}" if ready else "checkpoint.after_rename:3"
            crash_rank = crash_rank if ready else 0
        ranks = Ranks(start(shards, out, crash_at=crash_at, crash_rank=crash_rank))
        try:
            if point == "":
                if kill_at_random(ranks, draw, tally):
                    todo.pop()
            else:
                ranks.wait(lambda: False, seconds=180)
                if ranks.processes[crash_rank].exitcode == -signal.SIGKILL:
                    if ready:
                        tally.points[str(point)] += 1
                        todo.pop()
                else:
                    codes = ranks.join(60)
                    assert codes == [0, 0], [ranks.said(rank)[-3000:] for rank in range(2)]
        finally:
            ranks.kill()
        after = committed(out) if (out / "checkpoints").exists() else 0
        # The newest that was damaged on purpose is set aside, and taken again.
        assert after >= before - (SAVE_EVERY if point == "after_aside" and ready else 0)
        ahead = logged(out), after
        # A start that died before it dropped the lines of later steps redid none of them.
        tally.steps_redone += max(0, ahead[0] - ahead[1]) if ahead != dropped else 0
        before, dropped = after, ahead
    tally.say()
    assert tally.kills >= KILLS
    assert tally.points == named

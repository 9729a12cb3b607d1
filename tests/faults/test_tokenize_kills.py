"""A tokenise run that is killed at any moment, any number of times, ends as if it never had been.

Most kills are of a process forked from this one, which has torch loaded: it is at work within a
few hundredths of a second, where a new interpreter would be killed while it imports. A few are of
the real command with its workers.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import made_video
import numpy as np
import pytest
import torch

from toto.jobs import tokenize as tokenize_job
from toto.jobs.ingest import Ingest
from toto.jobs.tokenize import Tokenize
from toto.video.collection import CollectionConfig
from toto.video.datasets.folder import Folder
from toto.video.manifest import read_manifest

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks into /proc"),
]
KILLS = {"": 12, "ci": 100, "nightly": 500}[os.environ.get("TOTO_FAULTS", "")]
SEED = int(os.environ.get("TOTO_FAULTS_SEED", "0"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Tokenize:
    """Twelve videos of 60 frames, one of them changed since, into shards of a few frames each."""
    folder = tmp_path_factory.mktemp("kills")
    for number in range(12):
        made_video.write(folder / f"videos/{number:02d}.mp4", frames=60, seed=number)
    Ingest(
        dataset=Folder(root=folder / "videos", name="made"),
        collection=CollectionConfig(frames=4, stride=2, side_px=32, held_out_share=0.3),
    ).run(folder / "data")
    made_video.write(folder / "videos/05.mp4", frames=60, seed=99)
    return Tokenize(data=(folder / "data",), tokenizer="grey", crops=2, shard_frames=40)


@pytest.fixture(scope="module")
def clean(job: Tokenize, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tree of a run that nobody killed, by the real workers."""
    out = tmp_path_factory.mktemp("clean") / "shards"
    job.run(out)
    rows = read_manifest(out / "manifest.parquet")
    assert Counter(row.status for row in rows) == {"ok": 22, "quarantined": 2}
    return tree(out)


def tree(out: Path) -> dict[str, str]:
    """sha256 of every file that a run leaves, but for the notes on when and where it ran."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith(("env", "config.json", "."))
    }


def in_this_process(stage: Any, tasks: Sequence[Any], **_: Any) -> Iterator[tuple[int, Any]]:
    """The same stages without worker processes, whose start would take the most of a short life."""
    with stage.open() as do:
        for number, task in enumerate(tasks):
            yield number, do(task)


def forked(job: Tokenize, out: Path) -> int:
    """Run the job in a child; gives its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        os.dup2(os.open(said(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        torch.set_num_threads(1)
        tokenize_job.over_processes = in_this_process  # type: ignore[assignment]
        job.run(out)
    except BaseException:  # noqa: BLE001 - whatever it is, this copy of pytest must not go on
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def said(out: Path) -> Path:
    """What the last child that ran in a folder printed."""
    return out.with_name(f"{out.name}.log")


def phase(out: Path) -> str:
    """How far the run had come when it was killed."""
    if (out / "results/tokenize.json").exists():
        return "finished"
    if (out / "manifest.parquet").exists():
        return "summing up"
    if any(out.glob("*/*/index.json")):
        return "indexing"
    if any(out.rglob("*.tmp-*")):
        return "in a shard"
    return "between shards" if any(out.glob("receipts/*/*/*")) else "starting"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kills_at_random_moments_change_nothing(
    job: Tokenize, clean: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, phases, finished = random.Random(SEED), Counter[str](), 0
    out = tmp_path / "shards-0"
    while phases.total() < KILLS or not finished:
        child = forked(job, out)
        if phases.total() < KILLS:
            time.sleep(chance.uniform(0, 0.7))
            os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, 9)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            phases[phase(out)] += 1
            continue
        assert os.waitstatus_to_exitcode(status) == 0, said(out).read_text()[-3000:]
        assert tree(out) == clean
        assert not list(out.rglob("*.tmp-*"))
        finished += 1
        out = tmp_path / f"shards-{finished}"
    with capsys.disabled():
        print(f"\n{phases.total()} kills over {finished} runs: {dict(phases)}")
    assert phases["in a shard"] + phases["between shards"] >= KILLS // 4


@pytest.mark.parametrize("at", [1.5, 3.0])
def test_killing_the_command_leaves_no_worker_at_work(
    at: float, job: Tokenize, clean: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "shards"
    options = [f"--data={job.data[0]}", "--tokenizer=grey", "--crops=2", "--shard-frames=40"]
    command = [sys.executable, "-m", "toto", "tokenize", *options, f"--out={out}", "--workers=2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(at)
    process.kill()
    process.wait()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert tree(out) == clean


@pytest.mark.parametrize(
    "point",
    ["shard.before_fsync:2", "shard.before_rename:1", "shard.after_rename:3"],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_at_a_named_point_changes_nothing(
    point: str,
    job: Tokenize,
    clean: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "shards"
    monkeypatch.setenv("TOTO_CRASH_AT", point)
    _, status = os.waitpid(forked(job, out), 0)
    assert os.WIFSIGNALED(status)
    monkeypatch.delenv("TOTO_CRASH_AT")
    _, status = os.waitpid(forked(job, out), 0)
    assert status == 0
    assert tree(out) == clean


def test_the_made_videos_differ() -> None:
    one, other = made_video.picture(3, seed=0), made_video.picture(3, seed=1)
    assert not np.array_equal(one, other)

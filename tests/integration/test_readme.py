"""Every `toto` command of the README runs, in order, and so does its Python."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from made_demo import moving_picture

from toto import cli
from toto.video.masks import write_mask
from toto.video.write import write_mp4

README = (Path(__file__).parents[2] / "README.md").read_text()
SMALL_DATA = (
    "--{0}digit-clips.pretrain 8 --{0}digit-clips.train 20 "
    "--{0}digit-clips.selection 10 --{0}digit-clips.test 10"
)
SMALL_FRAMES = "--{0}clip-frames 40 --{0}digit-frames 40"
SMALL_TRACK = "--{0}selection-clips 2 --{0}test-clips 2"
SMALLER = {
    "finetune": "--epochs 1 --warmup-epochs 0",
    "demo": " ".join(
        [
            SMALL_DATA.format("ingest.collection."),
            SMALL_FRAMES.format("tokenizer."),
            "--pretrain.steps 3 --pretrain.warmup 1 --probe.fit.epochs 1",
            SMALL_TRACK.format("track."),
        ]
    ),
    "ingest": SMALL_DATA.format("collection."),
    "tokenizer train": "--steps 6 --batch 4 " + SMALL_FRAMES.format("sources."),
    "pretrain": "--steps 3 --warmup 1",
    "probe": "--fit.epochs 1",
    "study": "--widths 32 64 --log2-lrs -6 -5 --seeds 1 --steps 3 --warmup 1",
    "track": SMALL_TRACK.format(""),
}
"""What is added to the README's commands, so that they take seconds; nothing in them is changed."""


def commands() -> list[list[str]]:
    """The `toto` lines of the README, split as a shell would."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("toto ")]


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in, with videos in DIR, a film, and masks in TRUTH and MASKS."""
    folder = tmp_path_factory.mktemp("readme")
    for speed in (1, 2):
        write_mp4(folder / "DIR" / f"ramp-{speed}.mp4", moving_picture(64, speed), fps=12)
    write_mp4(folder / "film.mp4", moving_picture(64, 3), fps=12)
    for masks in ("TRUTH", "MASKS"):
        (folder / masks / "still").mkdir(parents=True)
        for frame in range(4):
            write_mask(folder / masks / f"still/{frame:05d}.png", np.eye(8, dtype=np.uint8))
    return folder


def test_the_commands_run_in_order(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands()
    verbs = [command[0] for command in found]
    assert set(verbs) >= set(cli.VERBS) - {"app", "list"}
    monkeypatch.chdir(somewhere)
    for command in found:
        verb = " ".join(command[:2]) if command[0] == "tokenizer" else command[0]
        words = [*command, *shlex.split(SMALLER.get(verb, ""))]
        monkeypatch.setattr(sys, "argv", ["toto", *words])
        cli.main()  # ends with SystemExit if anything is refused
    assert (somewhere / "runs/mine/report.html").is_file()
    assert (somewhere / "runs/report.html").is_file()


def test_the_python_runs(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs the run that the commands made; the README opens the demo's own."""
    import torch

    monkeypatch.chdir(somewhere)
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {"frames": torch.zeros(4, 64, 64, 3, dtype=torch.uint8)}
    exec(code.replace("runs/demo", "runs/mine"), names)
    assert names["features"][3].shape[:3] == (4, 8, 8)
    assert names["new"].shape == (4, 64, 64, 3)
    assert torch.equal(names["same"], names["tokenizer"].decode(names["ids"]))

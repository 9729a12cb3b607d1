"""Recognition on data sets as they are published: classes by name, lost clips, several views."""

import csv
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_demo import moving_picture
from PIL import Image

from made_labelled import LLAMA, write_run
from toto.cli import main
from toto.jobs.ledger import Ledger
from toto.probe.classifier import HeadConfig, StoppedProbes
from toto.runtime import checkpoint
from toto.tasks.published import PUBLISHED
from toto.tokenizers import load_tokenizer
from toto.video.decode import Decoder
from toto.video.write import write_mp4

SYNSETS = ("n02119789", "n01440764", "n00001740")
"""Neither in the order of their names nor in that of the development kit."""
ACTIONS = ("zumba", "archery, indoors")
STRIDE, FRAMES, SIDE_PX, CLIPS = 2, 4, 32, 3
SHORT = shlex.split("--epochs 1 --warmup-epochs 0 --batch 4 --head.heads 2 --precision fp32")
PLAIN = shlex.split("--augmentation.crop-area None --augmentation.flip 0")


def toto(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toto", *map(str, arguments)])
        main()


def result(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / "results" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet's folders with 3 classes, its shards, and a run of fresh weights."""
    work = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for shade, synset in enumerate(SYNSETS):
            folder = work / "imagenet" / split / synset
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 80, (40, 48, 3)) + 80 * shade
                name = f"{synset}_{number + 10 * (split == 'val')}.JPEG"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
    (work / "imagenet/val" / SYNSETS[1] / f"{SYNSETS[1]}_99.JPEG").write_bytes(b"\xff\xd8\xff" * 9)
    side = ("--collection.side-px", SIDE_PX)
    toto("ingest", "imagenet", work / "imagenet", *side, "--out", work / "data")
    kept = ("--tokenizer=grey", "--keep-frames")
    toto("tokenize", "--data", work / "data", *kept, "--out", work / "shards")
    write_run(work / "run", LLAMA)
    return work


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("paper-probes", [*PLAIN, "--head.pooling=attention-mlp"]),
        ("frozen-linear", []),
        ("frozen-attention", PLAIN),
        ("frozen-attention", [*PLAIN, "--layer=1", "--head.pooling=v-jepa-2"]),
        ("mae-base", []),
    ],
)
def test_recipes_of_imagenet_run_on_its_folders(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    options: list[str],
) -> None:
    where = ("--run-folder", images / "run", "--shards", images / "shards/imagenet")
    share = ("--task.classes=3", "--splits.selection-share=0.3", "--rope-base=0")
    toto("finetune", recipe, *where, *share, *SHORT, *options, "--out", tmp_path)
    said = result(tmp_path, "predictions")
    assert said["classes"] == sorted(SYNSETS) == result(tmp_path, "data")["classes"]
    named = [said["classes"][label] for label in said["labels"]]
    assert named == [clip.split("/")[1].split("_")[0] for clip in said["clips"]]
    found = result(tmp_path, "finetune")
    assert found["clips"] == {"train": 12, "selection": 6, "test": 9}
    (entry,) = Ledger(folders=(tmp_path,)).run()
    assert entry.troubles == ()
    assert entry.score is not None
    assert entry.score.protocol.fields["classes"] == sorted(SYNSETS)
    assert entry.score.undecodable == (f"imagenet/{SYNSETS[1]}_99",)
    chosen = said["predicted"][said["layers"].index(found["layer"])]
    right = sum(one == label for one, label in zip(chosen, said["labels"], strict=True))
    assert entry.score.value == found["test_accuracy"] == right / 10
    printed = capsys.readouterr().out
    assert f"{10 * right:.1f} % of 10 test clips" in printed
    assert f"missing or undecodable, and counted as wrong: imagenet/{SYNSETS[1]}_99\n" in (printed)


def test_a_frozen_backbone_stays_as_it_is(images: Path, tmp_path: Path) -> None:
    where = ("--run-folder", images / "run", "--shards", images / "shards/imagenet")
    words = ("--task.classes=3", *SHORT, *PLAIN)
    toto(
        "finetune",
        "frozen-attention",
        *where,
        *words,
        "--lr=0.1",
        "--published=T5b",
        "--out",
        tmp_path,
    )
    before, after = (
        checkpoint.load(max((run / "checkpoints").glob("step-*")), config_digest=None)["model"]
        for run in (images / "run", tmp_path)
    )
    assert all(torch.equal(weight, after[f"decoder.{name}"]) for name, weight in before.items())
    found = result(tmp_path, "finetune")
    assert found["test_next_token_loss"] is None
    assert (found["choices"], found["pooling"]) == (3, "attention")
    width, classes = LLAMA.width, len(SYNSETS)
    assert found["head_parameters"] == width + 2 * width**2 + (width + 1) * classes
    (entry,) = Ledger(folders=(tmp_path,)).run()
    assert entry.score is not None
    assert entry.score.protocol.name == "frozen-probes"
    assert entry.score.published == PUBLISHED["T5b"]
    assert entry.score.selection is not None
    assert entry.score.selection.split.name == "selection of imagenet/train"


def test_probe_reads_the_classes_of_a_data_set(images: Path, tmp_path: Path) -> None:
    where = ("--run-folder", images / "run", "--shards", images / "shards/imagenet")
    words = shlex.split(
        "--tasks.0.classes 3 --fit.epochs 1 --fit.heads 2 --seeds 0 1 --precision fp32"
    )
    toto("probe", "classes", *where, *words, "--out", tmp_path)
    said = result(tmp_path, "predictions")
    assert said["classes"] == {"class": sorted(SYNSETS)}
    found = result(tmp_path, "probe")
    assert found["lost"] == [f"imagenet/{SYNSETS[1]}_99"]
    right = [
        sum(p == label for p, label in zip(seed, said["labels"]["class"], strict=True)) / 10
        for seed in said["predicted"]["trained"]["class"]
    ]
    tried = [one["test"] for one in found["tasks"]["class"]["chosen"]["trained"]]
    assert tried == pytest.approx(right)
    for entry in Ledger(folders=(tmp_path,)).run():
        assert entry.troubles == ()
        assert entry.score is not None
        assert entry.score.undecodable == (f"imagenet/{SYNSETS[1]}_99",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--task.classes=4"], "train has 3 classes, task 'class' has 4; set its classes to 3"),
        (["--splits.test=nothing"], "has no token set 'nothing'"),
        (["--splits.test=train"], "must be different sets"),
        (["--task.name=hue"], "clips have no label 'hue'"),
        (["--views.spatial=3"], "has 1 squares, views of 3 along its longer side are asked"),
        (["--views.temporal=0"], "0 clips in time; there must be at least 1"),
        (["--views.spatial=2"], "2 crops; there are 1, the middle, and 3"),
        (["--published=T99"], "published 'T99' is none of T3a, "),
        (["--drop-path=0.1"], "drop_path 0.1 would change what a frozen backbone says"),
        (["--attention=bidirectional"], "learnt causal attention, and protocol 'frozen' leaves"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    where = ("--run-folder", images / "run", "--shards", images / "shards/imagenet")
    words = ("--task.classes=3", *SHORT, *PLAIN, *change)
    with pytest.raises(SystemExit):
        toto("finetune", "frozen-linear", *where, *words, "--out", tmp_path / "out")
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in complaint
    assert not (tmp_path / "out").exists()


def test_a_class_of_the_test_split_that_nothing_teaches_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "imagenet/val/n99999999"
    other.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(other / "n99999999_1.JPEG")
    for synset in SYNSETS:
        folder = tmp_path / "imagenet/train" / synset
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(images / "imagenet/train" / synset)
    side = ("--collection.side-px", SIDE_PX)
    toto("ingest", "imagenet", tmp_path / "imagenet", *side, "--out", tmp_path / "data")
    kept = ("--tokenizer=grey",)
    toto("tokenize", "--data", tmp_path / "data", *kept, "--out", tmp_path / "shards")
    where = ("--run-folder", images / "run", "--shards", tmp_path / "shards/imagenet")
    with pytest.raises(SystemExit):
        toto(
            "finetune",
            "frozen-linear",
            *where,
            "--task.classes=3",
            *SHORT,
            *PLAIN,
            "--out",
            tmp_path / "o",
        )
    assert "val has class 'n99999999', which is none of the 3 classes of the training clips" in (
        capsys.readouterr().err
    )


def youtube_id(number: int) -> str:
    return f"made-up-{number:03d}"


def written_kinetics(root: Path) -> None:
    """Lists and files as CVDF has them; of `val` one is missing and one is no video."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(6)), ("val", range(6, 11))):
        with (root / "annotations" / f"{split}.csv").open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for number in numbers:
                lines.writerow([ACTIONS[number % 2], youtube_id(number), 0, 10, split])
        for number in numbers:
            path = root / split / f"{youtube_id(number)}_000000_000010.mp4"
            if number == 10:
                path.write_bytes(b"no video")
            elif number != 9:
                write_mp4(path, np.ascontiguousarray(picture(number)), fps=12)


def picture(number: int) -> np.ndarray:
    """Darker for one class than for the other, but for what a lone view does not see."""
    frames = moving_picture(13 + 4 * (number % 3), 1 + number) // 4
    if number == 7:
        frames = frames.transpose(0, 2, 1, 3)  # upright, and so cut from top to bottom
    if number == 8:
        frames = np.tile(frames, (1, 1, 3, 1))
        frames[:, :, :100] += 190
        frames[:, :, -100:] += 190
    return frames + 190 * np.uint8(number % 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kinetics' lists with 2 classes, its shards with 3 squares of each test clip, and a run."""
    work = tmp_path_factory.mktemp("videos")
    written_kinetics(work / "kinetics")
    cut = (
        f"--collection.side-px {SIDE_PX} --collection.frames {FRAMES} --collection.stride {STRIDE}"
    )
    toto("ingest", "kinetics", work / "kinetics", *cut.split(), "--out", work / "data")
    kept = ("--tokenizer=grey", "--keep-frames", "--test-crops=3")
    toto("tokenize", "--data", work / "data", *kept, "--out", work / "shards")
    write_run(work / "run", LLAMA)
    return work


def test_kinetics_is_scored_by_all_views_and_by_one(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--run-folder", videos / "run", "--shards", videos / "shards/kinetics")
    words = ("--task.classes=2", f"--frames={FRAMES}", f"--views.temporal={CLIPS}", "--lr=0.02")
    toto(
        "finetune",
        "kinetics",
        *where,
        *words,
        *SHORT,
        "--epochs=20",
        "--evaluate-every=20",
        "--out",
        tmp_path,
    )
    found = result(tmp_path, "finetune")
    assert found["clips"] == {"train": 4, "selection": 2, "test": 3}
    gone, broken = (f"kinetics/{youtube_id(n)}_000000_000010" for n in (9, 10))
    assert found["lost"] == [gone, broken]
    for name, views in (("class", CLIPS), ("class-1x1", 1)):
        score, answers = result(tmp_path, f"score-{name}"), result(tmp_path, f"answers-{name}")
        assert score["views"] == {"temporal": views, "spatial": 3 if views > 1 else 1}
        assert (score["missing"], score["undecodable"]) == ([gone], [broken])
        assert score["reported"]["samples"] == 5
        fields = score["protocol"]["fields"]
        assert (fields["frame_stride"], fields["frames"]) == (STRIDE, FRAMES)
        assert fields["classes"] == ["archery, indoors", "zumba"]
        expected = list(_answers(videos, tmp_path, found["layer"], _starts(views), views > 1))
        # Clip 8 is dark in the middle alone.
        assert expected == ([1, 0, 0] if views > 1 else [1, 0, 1])
        assert [ranked[0] for ranked in answers["ranked"][0][:3]] == expected
        assert answers["labels"][:3] == [1, 0, 1]
        right = sum(one == label for one, label in zip(expected, (1, 0, 1), strict=True))
        assert score["values"] == [right / 5]
    digests = {result(tmp_path, f"score-{n}")["protocol"]["digest"] for n in ("class", "class-1x1")}
    assert len(digests) == 2
    assert all(entry.troubles == () for entry in Ledger(folders=(tmp_path,)).run())
    printed = capsys.readouterr().out
    assert f"by layer {found['layer']}, 3x3 views (" in printed
    assert f"missing or undecodable, and counted as wrong: {gone}, {broken}\n" in printed


def _starts(views: int) -> Callable[[int], list[int]]:
    """First frames of the views of a video of so many frames, by hand."""

    def starts(count: int) -> list[int]:
        room = -(-count // STRIDE) - FRAMES
        return [STRIDE * (room * n // views if views > 1 else room // 2) for n in range(views)]

    return starts


@torch.no_grad()
def _answers(
    videos: Path, out: Path, layer: int, starts: Callable[[int], list[int]], all_squares: bool
) -> Any:
    """What the trained model says of each test clip, from its file on."""
    model = StoppedProbes(LLAMA.build(), HeadConfig(pooling="attention", heads=2), 2).eval()
    newest = max((out / "checkpoints").glob("step-*"))
    model.load_state_dict(checkpoint.load(newest, config_digest=None)["model"])
    grey, shares = load_tokenizer("grey"), (0.0, 0.5, 1.0) if all_squares else (0.5,)
    with Decoder() as decoder:
        for number in (6, 7, 8):
            path = videos / "kinetics/val" / f"{youtube_id(number)}_000000_000010.mp4"
            total = torch.zeros(2)
            for first in starts(13 + 4 * (number % 3)):
                for share in shares:
                    crop = {"crop_y" if number == 7 else "crop_x": share}
                    clip = decoder.read(
                        path, start=first, stride=STRIDE, frames=FRAMES, side_px=SIDE_PX, **crop
                    )
                    codes = grey.encode(torch.from_numpy(clip.frames)).long().flatten()
                    ids = torch.cat([torch.tensor([16]), codes, torch.tensor([17])])
                    total += model(ids[None]).scores[layer, 0].softmax(-1)
            yield int(total.argmax())

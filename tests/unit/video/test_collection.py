import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_clips
import numpy as np
import pytest

from toto.config import to_dict
from toto.runtime.folder import RunFolder
from toto.video.collection import MANIFEST, Collection, CollectionConfig, DigitClips
from toto.video.datasets.folder import Folder
from toto.video.datasets.moving_digits import MovingDigitsConfig
from toto.video.decode import Decoder
from toto.video.ingest import held_out
from toto.video.manifest import Row, write_manifest

FRAMES, STRIDE, SIDE_PX = 4, 3, 32
# A long video, one cut at no multiple of the stride, one barely long enough to hold out, and one
# that is not.
LENGTHS = {"long": 300, "odd": 61, "barely": 24, "short": 20}


def ingested(path: Path, lengths: dict[str, int]) -> Collection:
    """A folder as `toto ingest` leaves it, of videos whose frame n is of grey n (mod 250)."""
    videos = path / "videos"
    videos.mkdir(parents=True)
    rows = []
    for name, length in lengths.items():
        grey = (np.arange(length) % 250).astype(np.uint8)
        frames = np.broadcast_to(grey[:, None, None, None], (length, 64, 64, 3))
        made_clips.make(
            videos / f"{name}.mp4", "libx264rgb", "rgb24", frames=frames, options={"qp": "0"}
        )
        row = Row(
            source="clips",
            path=f"{name}.mp4",
            clip=name,
            sha256="0" * 64,
            status="ok",
            frames=length,
            width=64,
            height=64,
        )
        rows += held_out(row, 0.25, STRIDE, FRAMES)
    rows.append(
        Row(
            source="clips",
            path="bad.mp4",
            clip="bad",
            sha256=None,
            status="refused",
            stage="sniff",
            reason="?",
        )
    )
    config = CollectionConfig(
        frames=FRAMES,
        stride=STRIDE,
        side_px=SIDE_PX,
        held_out_share=0.25,
        digits=MovingDigitsConfig(frames=FRAMES, side_px=SIDE_PX, digit_px=16),
        digit_clips=DigitClips(pretrain=1, train=1, selection=1, test=1),
    )
    with RunFolder.create(path / "data", config, tensorboard=False) as folder:
        write_manifest(path / "data" / MANIFEST, rows)
        saved = {"reader": "folder", "dataset": to_dict(Folder(root=videos, name="clips"))}
        folder.write_result("ingest", {**saved, "collection": to_dict(config)})
    return Collection(path / "data")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return ingested(tmp_path_factory.mktemp("collection"), LENGTHS)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def test_opens_what_ingest_wrote(collection: Collection) -> None:
    assert collection.config.frames == FRAMES
    assert [row.clip for row in collection.split("pretrain")] == list(LENGTHS)
    held_out = ["long@225", "odd@48", "barely@12"]
    assert [row.clip for row in collection.split("held-out")] == held_out
    assert collection.held_out == collection.split("held-out")
    assert len(collection.rows) == len(LENGTHS) + len(held_out) + 1
    assert all(collection.path(row).is_file() for row in collection.clips)


def test_reads_the_kept_frames_cut_to_squares(collection: Collection, decoder: Decoder) -> None:
    barely = collection.split("held-out")[2]
    decoded = collection.read(decoder, barely)
    assert decoded.indices.tolist() == list(range(12, 24, STRIDE))
    assert decoded.frames.shape == (4, SIDE_PX, SIDE_PX, 3)
    assert decoded.frames[:, 0, 0, 0].tolist() == decoded.indices.tolist()
    assert collection.read(decoder, barely, side_px=20).frames.shape[1:3] == (20, 20)


def test_no_frame_serves_pretraining_and_the_held_out_splits(
    collection: Collection, decoder: Decoder
) -> None:
    """Neither as a clip nor behind a digit: both are cut at the same moment of the file."""
    backgrounds = {part: collection.backgrounds(decoder, part) for part in ("pretrain", "held-out")}
    assert [len(backgrounds[part]) for part in ("pretrain", "held-out")] == [4, 3]
    for number, row in enumerate(collection.split("held-out")):
        cut = collection.read(decoder, row).indices[0]
        shown, held_out = backgrounds["pretrain"][number], backgrounds["held-out"][number]
        assert len(shown) == min(cut, 240)
        assert shown[:, 0, 0, 0].tolist() == [n % 250 for n in range(len(shown))]
        last = cut + row.frames
        assert held_out[:, 0, 0, 0].tolist() == [n % 250 for n in range(cut, last)]


def test_backgrounds_are_larger_than_the_clip(collection: Collection, decoder: Decoder) -> None:
    (barely,) = [b for b in collection.backgrounds(decoder, "pretrain") if len(b) == 12]
    assert barely.shape == (12, 56, 56, 3)


def test_digits_play_over_the_part_of_their_split(collection: Collection, decoder: Decoder) -> None:
    for split, count in {"pretrain": 4, "train": 4, "selection": 3, "test": 3}.items():
        digits = collection.digits(decoder, split)  # pyright: ignore[reportArgumentType]
        assert (digits.split, len(digits.backgrounds)) == (split, count)
        assert digits[0].clip.frames.shape == (FRAMES, SIDE_PX, SIDE_PX, 3)


def test_videos_too_short_to_hold_out_serve_both_for_want_of_others(
    tmp_path: Path, decoder: Decoder
) -> None:
    collection = ingested(tmp_path, {"short": 20})
    assert [len(b) for b in collection.backgrounds(decoder, "held-out")] == [20]


def test_tells_an_ingest_that_has_not_finished(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CollectionConfig(), tensorboard=False).close()
    with pytest.raises(ValueError, match="ingest has not finished; run `toto ingest` again"):
        Collection(tmp_path)


def test_tells_a_folder_that_ingest_did_not_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder \(no config.json\)"):
        Collection(tmp_path)


def test_the_frames_a_video_must_have() -> None:
    assert CollectionConfig().frames_needed == 61  # frames 0, 4, ..., 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 1}, "frames 1 must be at least 2, stride 4 at least 1"),
        ({"stride": 0}, "frames 16 must be at least 2, stride 0 at least 1"),
        ({"held_out_share": -0.1}, r"held_out_share -0.1 must lie in \[0, 1\)"),
        ({"held_out_share": 1.0}, r"held_out_share 1.0 must lie in \[0, 1\)"),
        (
            {"held_out_share": 0.0},
            "moving digits play over held-out ends of the videos; give a --h",
        ),
        ({"side_px": 64}, "digits of 16 frames and 128 px do not match clips of 16 frames and 64"),
        ({"frames": 8}, "digits of 16 frames and 128 px do not match clips of 8 frames and 128"),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(
            CollectionConfig(held_out_share=0.2, digit_clips=DigitClips(test=1)), **fields
        )

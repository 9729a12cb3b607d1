"""What becomes of every clip that a data set lists: one row each, whatever its file is."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.video.decode import Decoder
from toto.video.entry import Entry
from toto.video.ingest import by_file, rows_of_file
from toto.video.reading import Cut, kept_frames, read_clip, source_sha256, stream_clips
from toto.video.write import write_mp4


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 50 frames at 10 a second, an image, a folder of 5 frames, and what is none."""
    root = tmp_path_factory.mktemp("root")
    y, x = np.mgrid[:48, :64]
    frames = np.stack([np.stack([x * 3, y * 4, 0 * x + 5 * n], -1) for n in range(50)])
    write_mp4(root / "a.mp4", frames.astype(np.uint8), fps=10)
    (root / "frames").mkdir()
    for number in range(5):
        Image.fromarray(frames[number].astype(np.uint8)).save(root / f"frames/{number}.png")
    Image.fromarray(frames[0].astype(np.uint8)).save(root / "b.png")
    (root / "c.txt").write_text("no media")
    return root


def test_clips_of_one_file_are_counted_apart(decoder: Decoder, root: Path) -> None:
    entries = [
        Entry(path="a.mp4", clip="first", end_s=1.0, label="walking"),
        Entry(path="a.mp4", clip="middle", start_s=1.95, end_s=3.05, split="val"),
        Entry(path="a.mp4", clip="whole"),
        Entry(path="a.mp4", clip="beyond", start_s=7.0, end_s=9.0),
    ]
    first, middle, whole, beyond = rows_of_file(decoder, root, "set", entries)
    assert (first.first_frame, first.frames, first.duration_s) == (0, 10, pytest.approx(1.0))
    assert (middle.first_frame, middle.frames) == (20, 11)
    assert (whole.first_frame, whole.frames, whole.duration_s) == (0, 50, pytest.approx(4.9))
    assert (first.label, first.split, middle.split) == ("walking", "train", "val")
    assert {row.sha256 for row in (first, middle, whole, beyond)} == {
        hashlib.sha256((root / "a.mp4").read_bytes()).hexdigest()
    }
    assert whole.file_bytes == (root / "a.mp4").stat().st_size
    assert (whole.width, whole.height, whole.fps) == (64, 48, 10.0)
    assert (beyond.status, beyond.stage) == ("refused", "decode")
    assert beyond.reason == "no frame is shown from 7 s on before 9 s; the file ends at 4.9 s"
    assert all(row.fingerprint for row in (first, middle, whole))


def test_images_and_folders_of_frames(decoder: Decoder, root: Path) -> None:
    (image,) = rows_of_file(decoder, root, "set", [Entry(path="b.png", clip="b", kind="image")])
    assert (image.status, image.frames, image.width, image.height) == ("ok", 1, 64, 48)
    entry = Entry(path="frames", clip="f", kind="frames", fps=10.0)
    (frames,) = rows_of_file(decoder, root, "set", [entry])
    assert (frames.status, frames.frames, frames.duration_s) == ("ok", 5, pytest.approx(0.4))
    hashes = {
        file: hashlib.sha256((root / "frames" / file).read_bytes()).hexdigest()
        for file in sorted(os.listdir(root / "frames"))
    }
    listing = "".join(f"{file} {digest}\n" for file, digest in hashes.items())
    assert frames.sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_what_cannot_be_read_has_a_row_too(decoder: Decoder, root: Path) -> None:
    entries = [
        Entry(path="c.txt", clip="text"),
        Entry(path="gone.mp4", clip="one of two", end_s=1.0),
        Entry(path="gone.mp4", clip="two of two", start_s=1.0),
        Entry(path="frames", clip="no video"),
        Entry(path="b.png", clip="no folder", kind="frames"),
    ]
    rows = [row for file in by_file(entries) for row in rows_of_file(decoder, root, "set", file)]
    assert [(row.clip, row.status, row.stage) for row in rows] == [
        ("text", "refused", "sniff"),
        ("one of two", "missing", "list"),
        ("two of two", "missing", "list"),
        ("no video", "refused", "open"),
        ("no folder", "refused", "open"),
    ]
    assert rows[0].sha256 == hashlib.sha256(b"no media").hexdigest()
    assert rows[1].reason == "its data set lists it, and it is not on disk"


def test_a_killed_decoder_is_quarantine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Decoder() as decoder:
        real = decoder._attempt

        def attempt(*arguments: object, **named: object) -> object:
            assert decoder._ready().process.kill() is None
            return real(*arguments, **named)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(decoder, "_attempt", attempt)
        (row,) = rows_of_file(decoder, root, "set", [Entry(path="a.mp4", clip="a")])
    assert (row.status, row.stage) == ("quarantined", "crash")
    assert "twice" in (row.reason or "")
    assert row.sha256 is not None


def test_a_name_that_is_not_utf8_is_refused(decoder: Decoder, root: Path) -> None:
    name = os.fsdecode(b"\xff.mp4")
    (root / name).write_bytes(b"x")
    (row,) = rows_of_file(decoder, root, "set", [Entry(path=name, clip=name)])
    (root / name).unlink()
    assert (row.path, row.reason) == ("\\udcff.mp4", "its name is not UTF-8; rename it")


def test_a_clip_is_read_as_it_was_counted(decoder: Decoder, root: Path) -> None:
    entries = [
        Entry(path="a.mp4", clip="middle", start_s=1.95, end_s=3.05),
        Entry(path="a.mp4", clip="whole"),
    ]
    rows = rows_of_file(decoder, root, "set", entries)
    cut = Cut(stride=4, side_px=32)
    pieces = list(stream_clips(decoder, root, [(row, cut) for row in rows]))
    for number, row in enumerate(rows):
        parts = [piece for piece in pieces if piece.span == number]
        whole = read_clip(decoder, root, row, cut)
        assert (
            whole.indices.tolist()
            == list(range(row.first_frame, row.first_frame + row.frames))[::4]
        )
        assert len(whole.frames) == kept_frames(row, 4)
        np.testing.assert_array_equal(np.concatenate([p.frames for p in parts]), whole.frames)
        np.testing.assert_array_equal(np.concatenate([p.indices for p in parts]), whole.indices)


def test_frames_of_a_folder_are_the_images(decoder: Decoder, root: Path) -> None:
    entry = Entry(path="frames", clip="f", kind="frames", fps=10.0)
    (row,) = rows_of_file(decoder, root, "set", [entry])
    decoded = read_clip(decoder, root, row, Cut(stride=2, side_px=None))
    assert decoded.indices.tolist() == [0, 2, 4]
    assert decoded.times_s.tolist() == pytest.approx([0.0, 0.2, 0.4])
    np.testing.assert_array_equal(decoded.frames[1], decoder.read_image(root / "frames/2.png"))


def test_the_hash_of_a_folder_changes_with_a_name_and_with_a_byte(
    decoder: Decoder, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"one")
    first = source_sha256(decoder, tmp_path, "f", "frames")
    (folder / "1.png").rename(folder / "2.png")
    renamed = source_sha256(decoder, tmp_path, "f", "frames")
    (folder / "2.png").write_bytes(b"two")
    assert len({first, renamed, source_sha256(decoder, tmp_path, "f", "frames")}) == 3

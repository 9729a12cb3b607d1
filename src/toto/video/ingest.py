"""From a data set's entries to manifest rows: each file is decoded once, whole, before it is used.

A file that opens is not yet intact: most random damage shows only as missing or marked frames, or
not at all. So rows carry the hash of the bytes and what the one full decoding found.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from toto.video.decode import Decoder, Scan, VideoInfo, VideoRefusedError
from toto.video.entry import Entry
from toto.video.fingerprint import fingerprint
from toto.video.manifest import Row, Status
from toto.video.reading import FRAMES_A_SECOND, frame_files, opened, source_sha256

THUMBNAIL_EVERY_S = 1.0
"""How far apart the frames are that fingerprints are made of."""
THUMBNAIL_PX = 64


def by_file(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Group the entries of each file, which follow each other."""
    for _, group in itertools.groupby(entries, key=lambda entry: (entry.kind, entry.path)):
        yield list(group)


def rows_of_file(decoder: Decoder, root: Path, source: str, entries: Sequence[Entry]) -> list[Row]:
    """Hash and decode a file once, and say what became of each of its clips.

    Args:
        decoder: decodes it.
        root: of the data set.
        source: the data set's name.
        entries: the clips of one file.
    """
    kind, path = entries[0].kind, entries[0].path
    sha256, size = None, 0
    try:
        _require_plain(root, path)
        sha256, size = source_sha256(decoder, root, path, kind)
        scan = _scan(decoder, root, path, entries)
    except VideoRefusedError as refused:
        status: Status = "refused"
        if refused.stage in ("crash", "timeout"):
            status = "quarantined"
        elif refused.stage == "list":
            status = "missing"
        return [
            replace(
                _row(source, entry, sha256=sha256, file_bytes=size),
                status=status,
                stage=refused.stage,
                reason=refused.reason,
            )
            for entry in entries
        ]
    damage = scan.damage()
    return [
        _ok(_row(source, entry, sha256=sha256, file_bytes=size), scan, span, damage)
        for entry, span in zip(entries, scan.spans, strict=True)
    ]


def held_out(row: Row, share: float, stride: int, frames: int) -> list[Row]:
    """Split a training video by time: its end is held out, its beginning is to train on.

    A video too short to leave a clip of `frames` kept frames on both sides is all to train on.

    Args:
        row: an ok row of a video.
        share: of its kept frames that is held out.
        stride: every how many-th frame is kept; the cut is at a kept frame.
        frames: of a clip.
    """
    kept = -(-row.frames // stride)
    last = max(round(share * kept), frames)
    if kept - last < frames:
        return [replace(row, split="pretrain")]
    cut = (kept - last) * stride
    first_s = cut / row.frames * row.duration_s
    return [
        replace(row, split="pretrain", frames=cut, duration_s=first_s),
        replace(
            row,
            split="held-out",
            clip=f"{row.clip}@{row.first_frame + cut}",
            first_frame=row.first_frame + cut,
            frames=row.frames - cut,
            duration_s=row.duration_s - first_s,
        ),
    ]


def images_apart(rows: Sequence[Row]) -> list[Row]:
    """Make the images among videos a source of their own: a token set holds one kind."""
    mixed = {row.source for row in rows if row.kind == "image"} & {
        row.source for row in rows if row.kind != "image"
    }
    return [
        replace(row, source=f"{row.source}-images")
        if row.kind == "image" and row.source in mixed
        else row
        for row in rows
    ]


def long_enough(row: Row, needed: int) -> Row:
    """Refuse a good video that is too short to give one clip."""
    if row.status != "ok" or row.kind == "image" or row.frames >= needed:
        return row
    reason = f"{row.frames} frames are too few for a clip, which needs {needed}"
    return replace(row, status="refused", stage="limits", reason=reason)


def _row(source: str, entry: Entry, *, sha256: str | None, file_bytes: int) -> Row:
    """A row that says nothing yet of what decoding found."""
    return Row(
        source=source,
        # Parquet holds only UTF-8, and a file's name may be any bytes.
        path=_utf8(entry.path),
        clip=_utf8(entry.clip),
        kind=entry.kind,
        sha256=sha256,
        file_bytes=file_bytes,
        status="refused",
        stage="open",
        reason="not read",
        start_s=entry.start_s,
        end_s=entry.end_s,
        label=None if entry.label is None else _utf8(entry.label),
        split=entry.split,
    )


def _ok(row: Row, scan: Scan, span: tuple[int, int], damage: str | None) -> Row:
    first, frames = span
    if not frames:
        reason = (
            f"no frame is shown from {row.start_s:g} s on"
            + ("" if row.end_s is None else f" before {row.end_s:g} s")
            + f"; the file ends at {scan.last_time_s:.1f} s"
        )
        return replace(row, stage="decode", reason=reason)
    end_s = scan.last_time_s if row.end_s is None else min(row.end_s, scan.last_time_s)
    times_s = THUMBNAIL_EVERY_S * np.arange(len(scan.thumbnails))
    shown = (times_s >= row.start_s) & (times_s <= end_s)
    # A clip shorter than the step between thumbnails takes the one before it.
    shown |= (not shown.any()) & (np.arange(len(times_s)) == int(row.start_s // THUMBNAIL_EVERY_S))
    return replace(
        row,
        status="ok",
        stage=None,
        reason=damage,
        first_frame=first,
        frames=frames,
        width=scan.info.width,
        height=scan.info.height,
        fps=scan.info.fps,
        duration_s=max(0.0, end_s - row.start_s),
        packets_numbered=scan.packets_numbered,
        fingerprint=fingerprint(scan.thumbnails[shown]),
    )


def _scan(decoder: Decoder, root: Path, path: str, entries: Sequence[Entry]) -> Scan:
    if entries[0].kind == "video":
        with opened(root, path) as file:
            return decoder.scan(
                file,
                intervals=[(entry.start_s, entry.end_s) for entry in entries],
                thumbnail_every_s=THUMBNAIL_EVERY_S,
            )
    if entries[0].kind == "image":
        with opened(root, path) as file:
            images = [decoder.read_image(file)]
        fps = None
    else:
        files, fps = frame_files(root / path), entries[0].fps or FRAMES_A_SECOND
        images = (decoder.read_image(file) for file in files)
    count, size, thumbnails = 0, None, []
    for image in images:
        if size not in (None, image.shape):
            raise VideoRefusedError(root / path, "decode", "its frames differ in size")
        size = image.shape
        if fps is None or count % max(1, round(fps * THUMBNAIL_EVERY_S)) == 0:
            thumbnails.append(_thumbnail(image))
        count += 1
    assert size is not None
    return Scan(
        info=VideoInfo(
            width=size[1],
            height=size[0],
            frames_claimed=count,
            fps=fps,
            duration_s=None,
            codec="images",
            container=entries[0].kind,
        ),
        decoded_frames=count,
        decode_errors=0,
        dropped_times=0,
        last_time_s=0.0 if fps is None else (count - 1) / fps,
        spans=tuple((0, count) for _ in entries),
        thumbnails=np.stack(thumbnails),
    )


def _thumbnail(image: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))


def _require_plain(root: Path, path: str) -> None:
    """Refuse what is not on disk, or cannot be named in a manifest.

    Raises:
        VideoRefusedError: at stage `list` if nothing is there.
    """
    if _utf8(path) != path:
        raise VideoRefusedError(root / path, "open", "its name is not UTF-8; rename it")
    # A member's archive stands before the mark; whether the member is there shows on reading.
    if not os.path.lexists(root / path) and not os.path.lexists(root / path.split("#")[0]):
        reason = "its data set lists it, and it is not on disk"
        raise VideoRefusedError(root / path, "list", reason)


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()

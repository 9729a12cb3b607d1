"""Read the clips of a manifest: of a video, a still image, a folder of frames, a tar's member.

Whatever holds them, frames come out the same way, in pieces of bounded size, and every byte of
media goes through the isolated decoder.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toto.video.datasets.image_folder import SUFFIXES
from toto.video.decode import (
    Decoded,
    Decoder,
    Piece,
    Span,
    VideoInfo,
    VideoRefusedError,
    regular_file,
    uploaded,
)
from toto.video.manifest import Row
from toto.video.members import member_of, read_member

PIECE_FRAMES = 64
"""Frames handed on together: of one clip, or of as many still images."""
FRAMES_A_SECOND = 24.0
"""Rate of a folder of frames whose data set names none; DAVIS is at 24."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Which frames of a clip are kept, and which square of them."""

    stride: int = 1
    side_px: int | None = None
    crop: tuple[float, float] = (0.5, 0.5)


def kept_frames(row: Row, stride: int) -> int:
    """Count the frames of a clip that are left at every `stride`-th."""
    return -(-row.frames // stride)


@contextmanager
def opened(root: Path, path: str) -> Iterator[Path]:
    """Give the decoder a file to open: the one on disk, or a member's bytes in memory.

    Raises:
        VideoRefusedError: if a member cannot be read.
    """
    archive, member = member_of(root, path)
    if member is None:
        yield root / path
        return
    try:
        data = read_member(archive, member)
    except (OSError, ValueError) as error:
        raise VideoRefusedError(root / path, "open", str(error)) from error
    with uploaded(data) as memory:
        yield memory


def frame_files(folder: Path) -> list[Path]:
    """List the images of a folder of frames, in the order of their names.

    Raises:
        VideoRefusedError: if it is no folder or has none.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise VideoRefusedError(folder, "open", error.strerror or repr(error)) from error
    files = [folder / name for name in names if Path(name).suffix.lower() in SUFFIXES]
    if not files:
        raise VideoRefusedError(folder, "sniff", "no image is in this folder of frames")
    return files


def source_sha256(decoder: Decoder, root: Path, row_path: str, kind: str) -> tuple[str, int]:
    """Hash what a clip is read from.

    Returns:
        sha256 of the file's or member's bytes, for a folder of frames of its files' names and
        hashes; and the bytes in all.

    Raises:
        VideoRefusedError: if it cannot be read.
    """
    if kind != "frames":
        with opened(root, row_path) as path:
            return _file_sha256(decoder, path)
    total, whole = 0, hashlib.sha256()
    for file in frame_files(root / row_path):
        digest, size = _file_sha256(decoder, file)
        whole.update(f"{file.name} {digest}\n".encode(errors="backslashreplace"))
        total += size
    return whole.hexdigest(), total


def stream_clips(decoder: Decoder, root: Path, clips: Sequence[tuple[Row, Cut]]) -> Iterator[Piece]:
    """Decode clips of one file, in one pass over it.

    Args:
        decoder: decodes it.
        root: of the data set.
        clips: rows of one file, each with its cut; all cut to the same side.

    Yields:
        Pieces whose `span` is the number of a clip; those of different clips may interleave.

    Raises:
        VideoRefusedError: if the file cannot be decoded, or has not the frames it had at ingest.
    """
    first, (kind, path) = clips[0][0], (clips[0][0].kind, clips[0][0].path)
    assert all((row.kind, row.path) == (kind, path) for row, _ in clips)
    side_px = clips[0][1].side_px
    if kind == "video":
        spans = [
            Span(
                start=row.first_frame,
                stride=cut.stride,
                frames=kept_frames(row, cut.stride),
                crop=cut.crop,
            )
            for row, cut in clips
        ]
        with opened(root, path) as file:
            yield from decoder.stream(
                file,
                spans,
                side_px=side_px,
                piece_frames=PIECE_FRAMES,
                packets_numbered=first.packets_numbered,
            )
        return
    fps = first.fps or FRAMES_A_SECOND
    for number, (row, cut) in enumerate(clips):
        indices = row.first_frame + cut.stride * np.arange(kept_frames(row, cut.stride))
        for start in range(0, len(indices), PIECE_FRAMES):
            chosen = indices[start : start + PIECE_FRAMES]
            yield Piece(
                span=number,
                frames=_stills(decoder, root, row, chosen, cut),
                times_s=(chosen / fps).astype(np.float64),
                indices=chosen.astype(np.int64),
                last=start + PIECE_FRAMES >= len(indices),
            )


def read_clip(decoder: Decoder, root: Path, row: Row, cut: Cut) -> Decoded:
    """Decode one clip whole.

    Raises:
        VideoRefusedError: if it cannot be decoded.
    """
    if row.kind == "video":
        with opened(root, row.path) as path:
            return decoder.read(
                path,
                start=row.first_frame,
                stride=cut.stride,
                frames=kept_frames(row, cut.stride),
                side_px=cut.side_px,
                crop_x=cut.crop[0],
                crop_y=cut.crop[1],
                packets_numbered=row.packets_numbered,
            )
    pieces = list(stream_clips(decoder, root, [(row, cut)]))
    frames = np.concatenate([piece.frames for piece in pieces])
    height, width = frames.shape[1:3]
    return Decoded(
        info=VideoInfo(
            width=width,
            height=height,
            frames_claimed=None,
            fps=row.fps,
            duration_s=None,
            codec="images",
            container=row.kind,
        ),
        decoded_frames=len(frames),
        decode_errors=0,
        dropped_times=0,
        last_time_s=float(pieces[-1].times_s[-1]),
        frames=frames,
        times_s=np.concatenate([piece.times_s for piece in pieces]),
        indices=np.concatenate([piece.indices for piece in pieces]),
        path=root / row.path,
    )


def _stills(decoder: Decoder, root: Path, row: Row, indices: np.ndarray, cut: Cut) -> np.ndarray:
    """Decode some images of a clip, u8 [T H W 3]."""
    options = {"side_px": cut.side_px, "crop_x": cut.crop[0], "crop_y": cut.crop[1]}
    if row.kind == "image":
        with opened(root, row.path) as path:
            return decoder.read_image(path, **options)[None]
    files = frame_files(root / row.path)
    if indices[-1] >= len(files):
        reason = f"frame {indices[-1]} is wanted, the folder has {len(files)} images"
        raise VideoRefusedError(root / row.path, "changed", reason)
    images = [decoder.read_image(files[index], **options) for index in indices]
    if len({image.shape for image in images}) > 1:
        raise VideoRefusedError(root / row.path, "decode", "its frames differ in size")
    return np.stack(images)


def _file_sha256(decoder: Decoder, path: Path) -> tuple[str, int]:
    try:
        with regular_file(path, decoder.limits) as fd, os.fdopen(fd, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(fd).st_size
    except OSError as error:
        raise VideoRefusedError(path, "open", error.strerror or repr(error)) from error

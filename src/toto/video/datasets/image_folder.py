"""Any folder of still images: what ImageNet and most image sets are on a disk."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.video.datasets.listing import files_below
from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError, regular_file
from toto.video.sniff import HEAD_BYTES, image_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolder:
    """The images below a folder, in the order of their names; hidden files are left out.

    A file counts by its name or by its first bytes. One that only its name calls an image is
    listed, and refused with the reason when it is read.
    """

    root: Path

    def files(self, *, limit: int | None = None, seed: int | None = None) -> list[Path]:
        """List the images, sorted by their path below `root`.

        Args:
            limit: at most so many; None for all.
            seed: choose those at random; None spreads them evenly over the sorted list.

        Raises:
            ValueError: if `root` is no folder or has no image, or the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit {limit} must be at least 1")
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; point to a folder with images")
        found = [self.root / path for path in files_below(self.root)]
        found = list(filter(_is_image, found))
        if not found:
            raise ValueError(f"{self.root} has no image; JPEG, PNG, WebP and BMP are read")
        if limit is None or limit >= len(found):
            return found
        if seed is None:
            return [found[place] for place in np.arange(limit) * len(found) // limit]
        chosen = np.random.default_rng(seed).choice(len(found), limit, replace=False)
        return [found[place] for place in np.sort(chosen)]


def read_images(
    decoder: Decoder,
    files: Sequence[Path],
    *,
    side_px: int,
    over: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> tuple[UInt8[np.ndarray, "N S S 3"], list[VideoRefusedError]]:
    """Decode images to the middle squares that a tokenizer reads.

    Args:
        decoder: decodes them.
        files: which, such as `ImageFolder.files` gives; all are held in memory.
        side_px: side of the squares, S.
        over: passes the files through, such as a progress bar's `over`.

    Returns:
        The images that could be read, in the order of the files, and a refusal for each other.

    Raises:
        ValueError: if not one could be read.
    """
    images, refused = np.empty((len(files), side_px, side_px, 3), np.uint8), []
    count = 0
    for file in over(files):
        try:
            images[count] = decoder.read_image(file, side_px=side_px)
            count += 1
        except VideoRefusedError as refusal:
            refused.append(refusal)
    if not count:
        first = f"; the first, {refused[0]}" if refused else ""
        raise ValueError(f"none of {len(files)} files is an image that can be read{first}")
    return images[:count], refused


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with regular_file(path, DecodeLimits()) as fd:
            return image_of(os.pread(fd, HEAD_BYTES, 0)) is not None
    except VideoRefusedError:
        return False

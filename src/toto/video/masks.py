"""Masks of objects as DAVIS stores them: palette PNGs, a folder of them for each sequence."""

import io
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.runtime.durable import make_folder, write_bytes
from toto.video.decode import Decoder


def read_mask(decoder: Decoder, path: Path) -> UInt8[np.ndarray, "H W"]:
    """Read the id of the object at each pixel: the index of a palette, or the grey level.

    Raises:
        VideoRefusedError: if it is no whole image within the limits, or one of colours.
    """
    return decoder.read_image(path, as_stored=True)[..., 0].copy()


def write_mask(path: Path, ids: UInt8[np.ndarray, "H W"]) -> None:
    """Write a palette PNG, whole or not at all.

    Args:
        path: the file; an older one is replaced.
        ids: an object's id at each pixel; its colour is the one that DAVIS shows it in.

    Raises:
        ValueError: if the mask is not [H W] bytes.
    """
    if ids.dtype != np.uint8 or ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"{path}: a mask is uint8 [H W], got {ids.dtype} {list(ids.shape)}")
    image = Image.fromarray(ids)
    image.putpalette(palette().tobytes())
    data = io.BytesIO()
    image.save(data, format="PNG")
    make_folder(path.parent)
    write_bytes(path, data.getvalue())


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of PASCAL VOC, which DAVIS took over.

    Bits 0, 3 and 6 of an id are the highest bits of red, bits 1, 4 and 7 of green, 2 and 5 of blue.
    """
    ids = np.arange(256)[:, None, None]
    place, channel = np.arange(3)[:, None], np.arange(3)
    bits = ids >> (3 * place + channel) & 1
    return (bits << (7 - place)).sum(axis=1).astype(np.uint8)


def mask_files(folder: Path) -> dict[str, Path]:
    """List the PNGs of one sequence by the name of their frame, in its order.

    Raises:
        ValueError: if there is no such folder or it has none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of masks; a sequence is a folder of PNGs")
    names = sorted(name for name in os.listdir(folder) if name.endswith(".png") and name[0] != ".")
    if not names:
        raise ValueError(f"{folder} has no mask; a sequence is a folder of PNGs")
    return {name.removesuffix(".png"): folder / name for name in names}


def sequences_below(folder: Path) -> list[str]:
    """Name the sequences of a folder, which has one folder for each.

    Raises:
        ValueError: if there is no such folder or it has none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that has a folder for each sequence")
    found = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name[0] != ".")
    if not found:
        raise ValueError(f"{folder} has no sequence; give one that has a folder for each")
    return found

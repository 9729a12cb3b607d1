"""Token files as their publishers lay them out, made of random codes."""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def array_bytes(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def minute(seed: int, frames: int = 6, dtype: str = "int16") -> np.ndarray:
    """Codes of some frames of commaVQ."""
    return np.random.default_rng(seed).integers(0, 1024, (frames, 8, 16)).astype(dtype)


def archive_bytes(members: Mapping[str, bytes], *, fractions: bool = False) -> bytes:
    """A tar archive; with times that have fractions, it gets extended headers."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1.5 if fractions else 1
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def commavq(path: Path, minutes: int, *, frames: int = 6, first: int = 0) -> Path:
    """An archive of minutes, each with its poses and a description, as commaVQ's are."""
    members = {}
    for number in range(first, first + minutes):
        members[f"seg{number}.json"] = json.dumps({"file_name": f"seg{number}"}).encode()
        members[f"seg{number}.pose.npy"] = array_bytes(np.zeros((frames, 6)))
        members[f"seg{number}.token.npy"] = array_bytes(minute(number, frames))
    path.write_bytes(gzip.compress(archive_bytes(members), mtime=0))
    return path


def sentence(seed: int, images: int = 3) -> np.ndarray:
    """Codes of some images of LVM."""
    return np.random.default_rng(seed).integers(0, 8192, (images, 256)).astype("<i4")


def line(codes: np.ndarray) -> bytes:
    """One line of an LVM file."""
    return json.dumps({"tokens": base64.b64encode(codes.tobytes()).decode()}).encode() + b"\n"

"""`toto doctor`: is this machine in order?"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from toto.runtime.devices import device, resolve_precision
from toto.runtime.provenance import conflicts, environment
from toto.video.decode import Decoder

LEAST_FREE_BYTES = 2_000_000_000
SOUND_FFMPEG = (8, 1, 3)
"""Release that mends CVE-2026-107697 and the memory errors disclosed in June 2026."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Doctor:
    """Versions, decoder and its isolation, device, disk, and packages known to break others."""

    folder: Path = Path()
    """Where runs are to be written; its disk is looked at."""

    def run(self) -> tuple[list[tuple[str, str]], list[str]]:
        """Look at everything; returns (facts, troubles)."""
        found = environment()
        facts = [(name, _plain(value)) for name, value in found.items()]
        place = device()
        facts.append(("device", str(place)))
        facts.append(("precision auto", resolve_precision("auto", place)))
        with Decoder() as decoder:
            isolation = decoder.isolation
        facts.append(("decoder child", str(isolation)))
        facts.append(("FFmpeg", _advice(isolation.decoder)))
        there = self.folder.resolve()
        while not there.exists():
            there = there.parent
        free_bytes = shutil.disk_usage(there).free
        facts.append(("free disk", f"{free_bytes / 1e9:.1f} GB at {there}"))
        troubles = conflicts()
        if free_bytes < LEAST_FREE_BYTES:
            troubles.append(
                f"only {free_bytes / 1e9:.1f} GB are free at {there}; the demo wants 2 GB"
            )
        return facts, troubles


def _advice(decoder: str) -> str:
    """Say whether the decoder's FFmpeg has the memory errors that a known release mended."""
    found = re.search(r"FFmpeg n?(\d+(?:\.\d+)*)", decoder)
    if found is None:
        return f"of unknown version; {'.'.join(map(str, SOUND_FFMPEG))} mends known memory errors"
    version = tuple(map(int, found.group(1).split(".")))
    if version >= SOUND_FFMPEG:
        return f"{found.group(1)}, not older than the known memory errors' mending"
    mended = ".".join(map(str, SOUND_FFMPEG))
    return (
        f"{found.group(1)} is older than {mended}, which mends known memory errors; the child "
        "contains them, and a newer `av` brings a newer FFmpeg"
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)

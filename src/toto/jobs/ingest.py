"""`toto ingest`: check every source file once, in isolation, and write down what is usable."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toto.config import to_dict
from toto.jobs.progress import bar
from toto.runtime.folder import RunFolder
from toto.video.collection import MANIFEST, CollectionConfig
from toto.video.decode import Decoder
from toto.video.manifest import Row, write_manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """Decode each file of a folder of videos once; list the good, the damaged and the refused."""

    collection: CollectionConfig = field(default_factory=CollectionConfig)

    def run(self, out: Path) -> dict[str, Any]:
        """Write the manifest into `out`; a finished ingest is not done again.

        Raises:
            ValueError: if no file gives a clip.
        """
        dataset, needed = self.collection.dataset(), self.collection.frames_needed
        # Before the run folder: a mistyped --collection.videos must leave nothing behind.
        files = len(dataset)
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("ingest"):
                return folder.result("ingest")
            with Decoder() as decoder, bar("ingest", files) as progress:
                rows = [long_enough(row, needed) for row in progress.over(dataset.rows(decoder))]
            if not any(row.status == "ok" for row in rows):
                longest = max(row.frames for row in rows)
                raise ValueError(
                    f"{self.collection.videos}: no video gives a clip of {self.collection.frames} "
                    f"frames at stride {self.collection.stride}, which needs {needed} frames (the "
                    f"longest has {longest}); choose a smaller --collection.stride (in the demo "
                    "--ingest.collection.stride)"
                )
            write_manifest(out / MANIFEST, rows)
            result = self._summary(rows)
            folder.write_result("ingest", result)
            return result

    def _located(self) -> CollectionConfig:
        """The config with the folder's full path: later stages may run from another folder."""
        videos = self.collection.videos
        return replace(self.collection, videos=videos and videos.resolve())

    def _summary(self, rows: list[Row]) -> dict[str, Any]:
        good = [row for row in rows if row.status == "ok"]
        refused = [row for row in rows if row.status == "refused"]
        counts = self.collection.digit_clips
        made = counts.pretrain + counts.train + counts.selection + counts.test
        frames = made * self.collection.frames
        return {
            "config": to_dict(self._located()),
            "sources": [
                {
                    "name": "clips",
                    "clips": len(good),
                    "refused": len(refused),
                    "frames": sum(row.frames for row in good),
                    "duration_s": sum(row.duration_s for row in good),
                },
                {
                    "name": "moving-digits",
                    "clips": made,
                    "refused": 0,
                    "frames": frames,
                    "duration_s": frames / self.collection.digits.fps,
                },
            ],
            "refused": [
                {"path": row.path, "stage": row.stage, "reason": row.reason} for row in refused
            ],
            "damaged": [{"path": row.path, "reason": row.reason} for row in good if row.reason],
        }


def long_enough(row: Row, needed: int) -> Row:
    """Refuse a good video that is too short to give one clip."""
    if row.status == "refused" or row.frames >= needed:
        return row
    reason = f"{row.frames} frames are too few for a clip, which needs {needed}"
    return replace(row, status="refused", stage="limits", reason=reason)

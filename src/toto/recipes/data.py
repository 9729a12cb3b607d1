"""Data as the paper has it; the demo's is in `demo.py`."""

from dataclasses import replace
from pathlib import Path

from toto.jobs.ingest import Ingest
from toto.video.collection import CollectionConfig, DigitClips
from toto.video.datasets.folder import Folder


def ingest() -> Ingest:
    """Clips of 16 frames, every 4th, 128 px: docs/paper.md, D2.

    Of a plain folder the end of each video is held out, and labelled clips are made over the
    videos, so that there is something to validate and to probe with.

    Command: toto ingest paper --videos DIR --out runs/data
    """
    return Ingest(
        collection=CollectionConfig(
            held_out_share=0.25,
            digit_clips=DigitClips(pretrain=2000, train=600, selection=200, test=400),
        )
    )


def own_videos(recipe: Ingest, folder: Path) -> Ingest:
    """The same recipe over another folder of videos."""
    return replace(recipe, dataset=Folder(root=folder, name="clips", holds="videos"))

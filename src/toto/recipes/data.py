"""Data as the paper has it; the demo's is in `demo.py`."""

from toto.jobs.ingest import Ingest


def ingest() -> Ingest:
    """Clips of 16 frames, every 4th, 128 px: docs/paper.md, D2.

    Command: toto ingest paper --videos DIR --out runs/data
    """
    return Ingest()

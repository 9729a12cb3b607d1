"""Data and tokenizer as the paper has them; the demo's are in `demo.py`."""

from pathlib import Path

from toto.jobs.ingest import Ingest
from toto.jobs.tokenizer import TokenizerTraining


def ingest() -> Ingest:
    """Clips of 16 frames, every 4th, 128 px: docs/paper.md, D2.

    Command: toto ingest paper --videos DIR --out runs/data
    """
    return Ingest()


def tokenizer() -> TokenizerTraining:
    """The discrete VAE at its published size and with its published schedules, in fewer steps.

    Published: 3 M updates of 512 images; here 20,000 of 32, and nobody has run it at this size.
    Command: toto tokenizer train paper --data runs/data --out runs/tokenizer
    """
    return TokenizerTraining(data=Path("runs/data"))

"""The model whose run `toto export` makes a folder of, and how to read what is in it."""

import json
from pathlib import Path
from typing import Any

from made_run_folders import CODES
from toto.models import LlamaConfig

MODEL = LlamaConfig(vocab_size=CODES + 3, width=16, depth=2, heads=2, mlp_width=24, context=66)


def read(file: Path) -> Any:
    return json.loads(file.read_text())

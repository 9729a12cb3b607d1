"""What `toto app` is asked: which run, what its page offers, and where it is served."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from toto.app.answers import PageConfig
from toto.app.serve import ServeConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class App:
    """Try a run in the browser: tokens, features, attention, tracking, forecasts, curves."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a pre-training run, or of a demo."""
    page: Annotated[PageConfig, tyro.conf.arg(name="")] = field(default_factory=PageConfig)
    serve: Annotated[ServeConfig, tyro.conf.arg(name="")] = field(default_factory=ServeConfig)

"""The Python of the documentation's pages runs, on a small model, and does what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from made_run_folders import CODES, save_run, strange
from toto.jobs.export import Export
from toto.models import LlamaConfig
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import open_backbone
from toto.probe.forecast import forecast

DOCS = Path(__file__).parents[2] / "docs"
MODEL = LlamaConfig(
    vocab_size=CODES + 3, width=32, depth=6, heads=2, mlp_width=64, context=258, init_std=0.3
)
SIDE_PX, WINDOW = 32, 16


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages' paths lead: two runs, and one of them exported."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pages")
    for run in ("runs/demo/pretrain", "runs/pretrain"):
        save_run(folder / run, strange(MODEL), frames=WINDOW)
    Export(run_folder=folder / "runs/pretrain").run(folder / "runs/hf")
    return folder


@pytest.fixture
def names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pages take for granted."""
    monkeypatch.chdir(folder)
    frames = torch.randint(256, (4, SIDE_PX, SIDE_PX, 3), dtype=torch.uint8)
    return {"frames": frames, "camera": list(frames)}


def test_quick_start(names: dict[str, Any]) -> None:
    for block in blocks("quick-start.md"):
        exec(block, names)
    assert names["features"][6].shape == (4, 4, 4, 32)
    assert names["new"].shape == (4, SIDE_PX, SIDE_PX, 3)


def test_forecasting_and_streaming(names: dict[str, Any]) -> None:
    for block in blocks("forecasting.md"):
        exec(block, names)
    assert names["drawn"].shape == (3, 48, 4, 4)
    whole = names["model"].features(names["frames"], layers=[6])[6]
    torch.testing.assert_close(names["features"], whole[-1], rtol=1e-5, atol=1e-5)


def test_serving_in_transformers(names: dict[str, Any]) -> None:
    """Stock transformers continues as we do, beyond the window too."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")
    transformers.utils.logging.disable_progress_bar()
    first, further, *_ = blocks("serving.md")
    exec(first, names)
    assert names["pictures"].shape == (2, SIDE_PX, SIDE_PX, 3)
    exec(further, names)
    ours = forecast(
        open_backbone(Path("runs/pretrain")),
        names["codes"][None],
        frames=40,
        sampling=SamplingConfig(temperature=0.0),
    )
    expected = torch.stack([frame.ids[0] for frame in ours])
    assert len(expected.unique()) > 2
    assert torch.equal(names["continue_film"](names["codes"], 40, WINDOW), expected)
    assert torch.equal(names["new"], expected[:2])


def test_a_job_is_made_of_a_recipe(names: dict[str, Any]) -> None:
    (block,) = blocks("python.md")
    exec(block.partition("result = ")[0], names)  # which would need shards
    assert names["job"].lr == 1e-3

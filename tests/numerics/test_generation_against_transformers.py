"""Forecasts by our reader and by stock transformers from an export: batches, and across slides."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from made_run_folders import CODES, GRID, save_run, strange
from toto.jobs.export import Export
from toto.models import DecoderConfig, Gpt2Config, LlamaConfig, MambaConfig
from toto.models.decoding import open_reader
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import open_backbone
from toto.probe.forecast import WindowConfig, forecast

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

FRAME, ROOM, KEEP = GRID[0] * GRID[1], 6, 2
LLAMA = LlamaConfig(
    vocab_size=CODES + 3, width=48, depth=3, heads=3, mlp_width=80, context=98, init_std=0.2
)
MODELS: dict[str, DecoderConfig] = {
    "llama": LLAMA,
    "llama tied": replace(LLAMA, tied=True),
    "gpt2": Gpt2Config(vocab_size=CODES + 3, width=48, depth=3, heads=4, context=98, init_std=0.3),
    "mamba": MambaConfig(vocab_size=CODES + 3, width=40, depth=3, context=98, init_std=0.1),
}


@pytest.fixture(params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_run(tmp_path / "run", strange(MODELS[request.param]), frames=ROOM)
    return tmp_path / "run"


def stock(run: Path) -> Any:
    Export(run_folder=run).run(run.parent / "out")
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(run.parent / "out").eval()


def test_greedy_is_what_stock_transformers_gives_under_the_same_policy(run: Path) -> None:
    backbone, theirs = open_backbone(run), stock(run)
    clips = torch.randint(CODES, (3, 2, *GRID))
    window = WindowConfig(keep_frames=KEEP)
    frames = list(
        forecast(backbone, clips, frames=9, sampling=SamplingConfig(temperature=0.0), window=window)
    )
    found = torch.stack([frame.ids for frame in frames], dim=1)
    assert found.unique().numel() > 3
    seen, new = clips, []
    for count in (4, 4, 1):
        prompt = torch.stack([backbone.layout.prompt(clip) for clip in seen[:, -KEEP:]])
        ids = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=count * FRAME,
            min_new_tokens=count * FRAME,
        )
        # Neither may choose a special id; where theirs would, the comparison says nothing.
        assert int(ids[:, 1:].max()) < CODES
        seen = ids[:, prompt.shape[1] :].view(3, count, *GRID)
        new.append(seen)
    assert torch.equal(found, torch.cat(new, dim=1))


@torch.no_grad()
def test_bf16_is_as_near_to_fp32_as_theirs() -> None:
    """Both round matrices and products to bf16; theirs the stream between blocks too."""
    torch.manual_seed(1)
    config = replace(LLAMA, width=64, heads=4, mlp_width=160, context=200)
    ours = strange(config)
    from toto.models.export import to_transformers, write_config

    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**write_config(config, dtype="fp32", start=0, end=0))
    )
    theirs.load_state_dict(to_transformers(config, ours.state_dict()))
    theirs.eval().bfloat16()
    ids = torch.randint(CODES, (2, 120))
    reader = open_reader(ours, "bf16")
    found = torch.cat([reader.start(ids[:, :100])[:, None], reader.read(ids[:, 100:])], dim=1)
    exact = ours(ids)[:, 99:]
    mine = (found - exact).std() / exact.std()
    other = (theirs(ids).logits[:, 99:].float() - exact).std() / exact.std()
    assert other > 1e-3
    assert mine <= other

"""An exported model in vLLM: the code of docs/serving.md, in a process of its own.

vLLM brings its own torch and much else, so it is not among the extras; where it is installed this
runs. Its process is apart because it leaves workers behind and warns of others' libraries.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from made_run_folders import CODES, GRID, save_run, strange
from toto.jobs.export import Export
from toto.models import LlamaConfig
from toto.models.sampling import SamplingConfig
from toto.probe.backbone import open_backbone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
LLAMA = LlamaConfig(
    # 32 a head, the least that vLLM's kernels take.
    vocab_size=CODES + 3,
    width=64,
    depth=2,
    heads=2,
    mlp_width=128,
    context=258,
    init_std=0.2,
)
BEFORE = """
import json, sys
import torch
from types import SimpleNamespace
codes = torch.tensor(json.loads(sys.argv[1]))
prompt = torch.cat([torch.tensor([{start}]), codes.flatten()])[None]
tokenizer = SimpleNamespace(vocab_size={start})
if __name__ == "__main__":
"""
AFTER = """
    print("ids", json.dumps(list(ids)))
"""


def test_vllm_continues_as_we_do(tmp_path: Path) -> None:
    save_run(tmp_path / "run", strange(LLAMA))
    Export(run_folder=tmp_path / "run").run(tmp_path / "hf")
    backbone = open_backbone(tmp_path / "run")
    codes = torch.randint(CODES, (1, *GRID))
    greedy = SamplingConfig(temperature=0.0)
    ours = torch.stack(list(backbone.forecast(codes, frames=2, sampling=greedy)))
    assert len(ours.unique()) > 2

    (block,) = (
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        if "from vllm import" in code
    )
    # Indented: vLLM starts processes that import the script anew.
    indented = "".join(f"    {line}" for line in block.splitlines(keepends=True))
    indented = indented.replace("runs/hf", str(tmp_path / "hf"))
    script = tmp_path / "serve.py"
    script.write_text(BEFORE.format(start=CODES) + indented + AFTER)
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(script), json.dumps(codes.tolist())]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ids "))
    assert json.loads(line.removeprefix("ids ")) == ours.flatten().tolist()

"""The model card of an exported model: for a stranger to use it, and to judge it."""

import json
import math
from collections.abc import Iterator
from typing import Any

from toto.data.layout import Layout
from toto.jobs.model_record import UNKNOWN, Record

CARD = "README.md"


def write_card(record: Record, layout: Layout, *, architecture: str, parameters: int) -> str:
    """Write the card: what it is, how to use it, what it was trained on, what was measured."""
    sections = (
        _about(record, architecture, parameters),
        _tokens(record, layout),
        _use(record, layout),
        "\n".join(_training(record)),
        _unmeasured(record),
        _licence(record),
    )
    return "\n".join(section.strip() + "\n" for section in sections)


def _about(record: Record, architecture: str, parameters: int) -> str:
    shown = ("width", "depth", "heads", "mlp_width", "state_size", "tied", "context", "rope_base")
    sizes = "\n".join(f"| {n} | {record.model[n]} |" for n in shown if n in record.model)
    notes = ""
    if record.folded:
        notes += (
            "| parametrisation | muP; its attention scale is folded into the queries' weights, "
            "rounded once where the factor is no power of two |\n"
        )
    if record.dtype == "bf16":
        notes += "| rounding | trained in fp32, rounded to bf16: logits differ from the run's |\n"
    return f"""
---
license: {record.license}
library_name: transformers
tags:
- toto
- video
- autoregressive
---

# A Toto video model

It reads a video as codes of an image tokenizer, frame after frame, and predicts the next code
(autoregressive pre-training from videos, arXiv 2501.05453). It reads no text.

| | |
|---|---|
| architecture | `{architecture}` |
| parameters | {parameters:,} |
| weights | {record.dtype}, after {record.step:,} optimizer steps |
{sizes}
{notes}"""


def _tokens(record: Record, layout: Layout) -> str:
    (rows, columns), patch_px = record.grid, record.tokenizer.patch_px
    if patch_px is None:
        pixels = "It is not part of toto; `tokenizer/foreign.json` says where it is from."
    else:
        pixels = (
            f"It is in the folder `tokenizer`; a code stands for {patch_px} x {patch_px} pixels.\n"
            f"- A frame has {columns * patch_px} x {rows * patch_px} pixels (width x height)."
        )
    around = "around" if layout.config.specials == "outside" else "among"
    return f"""
## Tokens

| id | what it is |
|---|---|
| 0 to {layout.codes - 1} | codes of the tokenizer |
| {layout.video_start} | start of a video |
| {layout.end} | end of a sequence |
| {layout.image_start} | start of a sequence of still images |

- Tokenizer: `{record.tokenizer.name}`, sha256 `{record.tokenizer.sha256}`.
  {pixels}
- A frame is {layout.frame_tokens} tokens: {rows} x {columns} codes, row by row.
- A sequence of the training has {layout.length} tokens: {layout.config.frames} frames,
  start and end {around} their codes. Positions count from 0 at the start; nothing is padded.
"""


def _use(record: Record, layout: Layout) -> str:
    rows, columns = record.grid
    return f"""
## Use

With transformers alone, codes of one frame in and of the next frame out:

```python
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")
codes = torch.randint({layout.codes}, (1, {rows}, {columns}))  # take those of the tokenizer
prompt = torch.cat([torch.full((1, 1), {layout.video_start}), codes.flatten(1)], dim=1)
ids = model.generate(prompt, attention_mask=torch.ones_like(prompt))
frame = ids[:, prompt.shape[1] :].view(1, {rows}, {columns})
```

`generation_config.json` is greedy, adds one frame (`max_new_tokens`) and never draws a special id
(`suppress_tokens`); neither does `toto generate`, whose videos end when enough frames are there.
For more variety, `do_sample=True, temperature=0.7, top_k=50`.

With toto, from pixels to pixels, and to the features of every layer:

```bash
toto import . --out run
python -c "import toto; model = toto.load('run')"
```
"""


def _training(record: Record) -> Iterator[str]:
    yield "## Training data, recipe, numbers\n"
    training = record.training
    if training is None:
        yield "Not known: the weights were changed outside toto."
        return
    if record.imported:
        yield "The model was imported; what follows came with it and was not measured again.\n"
    mixture = training.recipe.get("mixture")
    if isinstance(mixture, list) and all(isinstance(part, dict) for part in mixture):
        yield "| training data (token set) | share of the sequences |\n|---|---|"
        total = math.fsum(_number(part.get("weight")) for part in mixture)
        for part in mixture:
            share = _number(part.get("weight")) / total if total else math.nan
            yield f"| {_plain(part.get('name'))} | {100 * share:.1f} % |"
        yield ""
    yield "| number | value |\n|---|---|"
    for name, value in [*training.numbers.items(), *training.trained_by.items()]:
        yield f"| {_plain(name)} | {_shown(value)} |"
    yield "\nValidation is on the run's own held-out token sets. The whole recipe:\n"
    yield f"```json\n{json.dumps(training.recipe, indent=1)}\n```"


def _unmeasured(record: Record) -> str:
    numbers = record.training.numbers if record.training else {}
    held_out = ""
    if numbers.get("validation_loss") is None:
        held_out = "- No loss on held-out videos is known for these weights.\n"
    return f"""
## What was not measured

{held_out}- Nothing downstream: `toto probe`, `toto track` and `toto generate` leave results in
  folders of their own.
- Which people, places and actions it does worse on, and whether it repeats training videos.
"""


def _licence(record: Record) -> str:
    if record.license == UNKNOWN:
        stated = "Nobody has stated a licence for these weights; ask who gave them to you."
    else:
        stated = f"Who exported these weights states: {record.license}."
    return f"""
## Licence

{stated}
The code of toto is Apache-2.0, which says nothing of the weights: the videos that they were learnt
from have terms of their own, and so have the weights of the tokenizer.
"""


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan


def _shown(value: Any) -> str:
    if type(value) is float:
        return f"{value:.4g}"
    if type(value) is int:
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value[:100]))
    return "not measured" if value is None else _plain(value)


def _plain(value: Any) -> str:
    """Give words that cannot be taken for Markdown, whoever wrote them."""
    return "".join(c if c.isalnum() or c in " ._-/:,+()" else "?" for c in str(value)[:200])

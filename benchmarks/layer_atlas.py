"""The layer atlas: extraction and all heads at all layers, against extraction alone.

12 layers of width 256 and their embedding, 256 places a clip, bf16, three learning rates; of every
ten clips eight train the heads, one chooses and one is reported. Three epochs are the default of
`toto study layers`. V-JEPA's head has 12 matrices of the width and costs about as much as the
others together.
"""

import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks.side_by_side import line
from toto.data.layout import Layout, LayoutConfig
from toto.models import LlamaConfig
from toto.probe.backbone import Backbone
from toto.probe.bank import BankConfig
from toto.probe.fit import Features, extract, join
from toto.probe.heads import HEADS, HeadName
from toto.studies.layers import layer_outcomes
from toto.tokenizers import load_tokenizer

CLIPS, CLASSES, ROUNDS = 640, 40, 2
MODEL = LlamaConfig(vocab_size=19, width=256, depth=12, heads=4, mlp_width=1024, context=257)
SIMPLE: tuple[HeadName, ...] = tuple(name for name in HEADS if name != "v-jepa")


def run() -> Iterator[str]:
    """Yield a line for the heads of one matrix or two, and one for all."""
    torch.set_num_threads(1)
    grey = load_tokenizer("grey")
    backbone = Backbone(
        model=MODEL.build().eval().requires_grad_(False),
        tokenizer=grey,
        layout=Layout(LayoutConfig(frames=1), codes=grey.vocab_size, frame_tokens=256),
        precision="bf16",
    )
    clips = torch.randint(grey.vocab_size, (CLIPS, 1, 16, 16))
    labels = torch.randint(CLASSES, (1, CLIPS))
    cases: dict[str, tuple[Sequence[HeadName], int]] = {
        "4 heads, 4 epochs": (SIMPLE, 4),
        "5 heads, 3 epochs": (tuple(HEADS), 3),
    }
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    _heads(_read(backbone, clips[:64], labels[:, :64]), tuple(HEADS), 1)
    for _ in range(ROUNDS):
        began = time.process_time()
        features = _read(backbone, clips, labels)
        extracting_s = time.process_time() - began
        for name, (heads, epochs) in cases.items():
            began = time.process_time()
            _heads(features, heads, epochs)
            fitting_s = time.process_time() - began
            ratios[name].append((extracting_s + fitting_s) / extracting_s)
    for name, found in ratios.items():
        yield line(f"layer atlas, 13 layers, 3 rates, {name} / extraction alone", found)


def _read(backbone: Backbone, clips: torch.Tensor, labels: torch.Tensor) -> Features:
    return join(extract(backbone, clips, labels), len(clips))


def _heads(features: Features, heads: Sequence[HeadName], epochs: int) -> None:
    clips = features.labels.shape[1]
    parts = torch.arange(clips).split([clips * 8 // 10, clips // 10, clips - clips * 9 // 10])
    train, selection, test = (
        Features(
            tokens=features.tokens[:, part[0] : part[-1] + 1],
            averages=features.averages[:, part[0] : part[-1] + 1],
            labels=features.labels[:, part[0] : part[-1] + 1],
        )
        for part in parts
    )
    config = BankConfig(heads=tuple(heads), epochs=epochs)
    for _ in layer_outcomes(train, selection, test, CLASSES, config, seed=0):
        pass

"""A frame pushed into a stream, against reading the whole window again for every new frame.

The shape of the paper's `base`, width 768 and 16 frames of 256 tokens, in fp32, up to the middle of
its 12 layers. Both read tokens, so that no tokenizer is in it. Who has no stream reads the newest
16 frames in one pass and keeps the last one's features.

The second claim is that a frame's cost does not grow: the 100th of one film in turns with the 10th
of another.
"""

import statistics
from collections.abc import Callable, Iterator

import torch

from benchmarks.side_by_side import cpu_times_s, line
from toto.data.layout import Layout, LayoutConfig
from toto.probe.backbone import Backbone
from toto.probe.stream import Stream
from toto.recipes import PRETRAIN
from toto.tokenizers import load_tokenizer

FRAMES, GRID = 16, (16, 16)
ROUNDS = 5
"""Of frames 98 to 102 and 8 to 12."""


def run() -> Iterator[str]:
    """Yield the ratio to reading again, the ratio of late frames to early ones, and the times."""
    torch.set_num_threads(1)
    backbone = base()
    layer = backbone.depth // 2
    film = torch.randint(backbone.layout.codes, (FRAMES, *GRID))

    def pushed(frames: int) -> Callable[[], object]:
        """A stream that has read so many frames, a frame a call."""
        stream = Stream(backbone, [layer])
        for number in range(frames):
            stream.push_encoded(film[number % FRAMES])
        return lambda: stream.push_encoded(film[stream.frames % FRAMES])

    half = ROUNDS // 2
    late, early = pushed(99 - half), pushed(9 - half)
    times_s = cpu_times_s({"100th": late, "10th": early}, rounds=ROUNDS)
    growth = [a / b for a, b in zip(times_s["100th"], times_s["10th"], strict=True)]
    yield line("streaming, base, cost of the 100th frame / the 10th", growth)
    again = cpu_times_s(
        {"again": lambda: backbone.token_features(film[None], [layer]), "push": late}, rounds=2
    )
    ratios = [a / b for a, b in zip(again["again"], again["push"], strict=True)]
    yield line("streaming, base, reading 16 frames again / pushing one", ratios)
    said = ", ".join(
        f"{name} {statistics.median(one):.3f} s"
        for name, one in {**times_s, "16 frames again": again["again"]}.items()
    )
    yield f"streaming, base, {layer} layers, processor time of a frame: {said}"


def base() -> Backbone:
    """The recipe's model with fresh weights, over as many codes as the shipped tokenizer has."""
    tokenizer = load_tokenizer("toto-8k")
    return Backbone(
        model=PRETRAIN["base"]().model.build().eval().requires_grad_(False),
        tokenizer=tokenizer,
        layout=Layout(
            LayoutConfig(frames=FRAMES),
            codes=tokenizer.vocab_size,
            frame_tokens=GRID[0] * GRID[1],
        ),
    )

"""One label-propagation frame at 480p, 8 px a cell: tiles against the dense affinity matrix.

Each frame looks at eight others, the first and the seven just before, as `dino-480` says, with 768
fp32 channels. A scene slides by one cell a frame; both sides carry two objects through the same
frames, from the same labels, and their masks are compared at 480p.
"""

import ctypes
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import cpu_times_s, line
from toto.probe.propagate import follow, grid_to_mask
from toto.probe.protocols import PROTOCOLS

ROWS, COLUMNS, WIDTH, CELL_PX = 60, 107, 768, 8
OBJECTS = (1, 2)
CONFIG = PROTOCOLS["dino-480"].propagation
BEFORE = 1 + CONFIG.context_frames
ROUNDS = 3


class Tiles:
    """Ours, a frame a call."""

    def __init__(self, frames: list[Tensor], mask: Tensor) -> None:
        self.labels: list[Tensor] = []
        self._followed = follow(iter(frames), mask, CONFIG)
        for _ in range(BEFORE):
            self()

    def __call__(self) -> None:
        """Follow the next frame."""
        self.labels.append(next(self._followed))


def script(target_PD: Tensor, source_CPD: Tensor, near_PP: Tensor, labels_KJ: Tensor) -> Tensor:
    """The whole matrix step by step as DINO's script has it (`eval_video_segmentation.py`)."""
    affinity_CPP = torch.exp(target_PD @ source_CPD.mT / CONFIG.temperature)
    affinity_CPP *= near_PP
    affinity_KP = affinity_CPP.mT.reshape(-1, len(target_PD))
    least_P = affinity_KP.topk(CONFIG.topk, dim=0).values.amin(0)
    affinity_KP[affinity_KP < least_P] = 0
    return (affinity_KP / affinity_KP.sum(0, keepdim=True)).T @ labels_KJ


def lean(target_PD: Tensor, source_CPD: Tensor, near_PP: Tensor, labels_KJ: Tensor) -> Tensor:
    """The whole matrix, written over at every step, what a cell sees in one row."""
    affinity_PK = (target_PD @ source_CPD.flatten(0, 1).T).div_(CONFIG.temperature).exp_()
    affinity_PK.unflatten(1, (len(source_CPD), -1)).mul_(near_PP[:, None])
    least_P1 = affinity_PK.topk(CONFIG.topk, dim=1).values[:, -1:]
    affinity_PK.mul_(affinity_PK >= least_P1)
    affinity_PK.div_(affinity_PK.sum(1, keepdim=True))
    return affinity_PK @ labels_KJ


DENSE = {"dense, DINO's script": script, "dense, lean": lean}


class Dense:
    """The whole affinity matrix; a frame a call, from the labels that ours gave those before it.

    What is kept from frame to frame is ready before: normalised features, and which cells are near.
    """

    def __init__(
        self, frames: list[Tensor], labels: list[Tensor], compute: Callable[..., Tensor]
    ) -> None:
        self.labels: list[Tensor] = []
        self._seen, self._frames, self._compute = labels, frames, compute
        self._units = [F.normalize(one, dim=-1).flatten(0, 1) for one in frames[:-1]]
        down, right = (
            ((torch.arange(side)[:, None] - torch.arange(side)).abs() <= CONFIG.radius).float()
            for side in (ROWS, COLUMNS)
        )
        self._near_PP = torch.kron(down, right)

    def __call__(self) -> None:
        """Follow the next frame."""
        frame = BEFORE + len(self.labels)
        context = CONFIG.context(frame)
        found_PJ = self._compute(
            F.normalize(self._frames[frame], dim=-1).flatten(0, 1),
            torch.stack([self._units[i] for i in context]),
            self._near_PP,
            torch.cat([self._seen[i].flatten(0, 1) for i in context]),
        )
        self.labels.append(found_PJ.view(ROWS, COLUMNS, -1))


def scene(frames: int) -> tuple[list[Tensor], Tensor]:
    """Features of a scene that slides, half of each drawn anew, and the first frame's labels."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(ROWS, COLUMNS + frames, WIDTH, generator=generator)
    shown = [
        torch.randn(ROWS, COLUMNS, WIDTH, generator=generator).add_(still[:, t : t + COLUMNS])
        for t in range(frames)
    ]
    ids = torch.zeros(ROWS, COLUMNS, dtype=torch.int64)
    ids[10:30, 40:80], ids[25:50, 30:50] = 1, 2
    return shown, F.one_hot(ids, 1 + len(OBJECTS)).float()


def masks(labels: list[Tensor]) -> np.ndarray:
    """The ids at each pixel of 480p."""
    return grid_to_mask(
        torch.stack(labels),
        OBJECTS,
        (ROWS * CELL_PX, COLUMNS * CELL_PX),
        enlarge=CONFIG.mask_enlarge,
        normalise=CONFIG.normalise_masks,
    )


def extra_bytes(dense: Callable[..., Tensor] | None) -> int:
    """Most memory that a frame takes on top of what was there before it, in a process of its own.

    What earlier frames freed goes back to the system first: a frame that used it again would seem
    to need nothing.

    Args:
        dense: the computation of `Dense`; None is ours.
    """
    torch.set_num_threads(1)
    frames, mask = scene(BEFORE + 1)
    ours = Tiles(frames, mask)
    work = ours if dense is None else Dense(frames, ours.labels, dense)
    ctypes.CDLL(None).malloc_trim(0)
    # Sets the high-water mark back to what is resident now (proc(5)). `getrusage` would not do: its
    # mark is that of the process this one was started from.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    work()
    return resident_bytes("VmHWM") - before


def resident_bytes(what: str) -> int:
    """Read what Linux says of this process's memory, by its name for it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) * 1024


def run() -> Iterator[str]:
    """Yield how the times compare, how the masks do, and the memory of each."""
    torch.set_num_threads(1)
    frames, mask = scene(BEFORE + 1 + ROUNDS)
    ours = Tiles(frames, mask)
    peers = {name: Dense(frames, ours.labels, compute) for name, compute in DENSE.items()}
    works: dict[str, Callable[[], None]] = {"tiles": ours, **peers}
    cpu_times_s(works, rounds=1)
    times_s = cpu_times_s(works, rounds=ROUNDS)
    for name in peers:
        found = [a / b for a, b in zip(times_s[name], times_s["tiles"], strict=True)]
        yield line(f"label propagation, {BEFORE} context frames, tiles / {name}", found)
    said = ", ".join(f"{name} {statistics.median(one):.2f} s" for name, one in times_s.items())
    yield f"label propagation, processor time of a frame: {said}"
    kept, got = masks([mask])[0], masks(ours.labels[BEFORE:])
    for name, peer in peers.items():
        differ = int((got != masks(peer.labels)).sum())
        yield f"label propagation, {len(got)} masks of tiles and {name}: {differ} pixels differ"
    yield f"label propagation, pixels that moved: {100 * (got[-1] != kept).mean():.0f} %"
    extra_mb = {}
    for name, compute in {"tiles": None, **DENSE}.items():
        # Spawned: a fork would start with this one's memory.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            extra_mb[name] = pool.submit(extra_bytes, compute).result() / 1e6
    said = ", ".join(f"{name} {value:.0f} MB" for name, value in extra_mb.items())
    yield f"label propagation, extra memory of a frame: {said}"

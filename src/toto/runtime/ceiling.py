"""How many FLOPs a second matrix products reach here: what a model's speed is measured against."""

import time

import torch

from toto.runtime.devices import Precision


def matmul_flops_per_s(precision: Precision, place: torch.device) -> float:
    """Measure the fastest of a few square matrix products; a tenth of a second on most machines.

    A model's share of this is its model FLOPs utilisation (MFU). It is measured and not looked up,
    so that it means the same on every machine; on one that others use too it is a low estimate.

    Args:
        precision: that the factors have.
        place: the device.
    """
    cuda = place.type == "cuda"
    side, times = (8192, 20) if cuda else (1024, 4)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    # Its own generator: measuring must not change the numbers that a run draws.
    draw = torch.Generator(device=place).manual_seed(0)
    factor = torch.randn(side, side, generator=draw, device=place, dtype=kind)
    product = factor @ factor
    best_s = float("inf")
    for _ in range(times):
        if cuda:
            torch.cuda.synchronize(place)
        began_s = time.perf_counter()
        torch.mm(factor, factor, out=product)
        if cuda:
            torch.cuda.synchronize(place)
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * side**3 / best_s

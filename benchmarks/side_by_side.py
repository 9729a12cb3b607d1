"""Timing two things so that a drifting machine cannot decide: in turns, as ratios of CPU time."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PACKAGES = Path(sys.prefix) / "bench-packages"
"""Where `make bench` puts peers that must not become dependencies."""


def ratio(
    ours: Callable[[], object], peer: Callable[[], object], *, rounds: int = 5
) -> list[float]:
    """How many times faster ours is than the peer, round by round, after a warm-up of both."""
    ours(), peer()
    ratios = []
    for number in range(rounds):
        pair = (ours, peer) if number % 2 else (peer, ours)
        times_s = {}
        for work in pair:
            began = time.process_time()
            work()
            times_s[work] = time.process_time() - began
        ratios.append(times_s[peer] / times_s[ours])
    return ratios


def cpu_times_s(
    works: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, list[float]]:
    """CPU time of several works, all of them in every round, in turns forwards and backwards."""
    times_s: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            works[name]()
            times_s[name].append(time.process_time() - began)
    return times_s


def line(claim: str, ratios: list[float]) -> str:
    """Say a ratio in one line: median, and the range of the rounds."""
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return f"{claim:<64} {middle:5.2f}x  [{low:.2f}-{high:.2f}]"

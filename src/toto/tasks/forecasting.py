"""What a forecast is worth: numbers of many clips and futures, and the words that follow from them.

A forecast is always set between two others: the last frame it was shown, repeated, which costs
nothing; and the real frames through the tokenizer and back, which no forecast in its codes exceeds
but by luck.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

FORECAST, COPY, LIMIT = "forecast", "copy last frame", "tokenizer limit"
"""Methods, by name in the results."""
TIMES_ERROR = 2.0
"""A forecast is called better where its lead exceeds so many standard errors over the clips."""


class Measure(NamedTuple):
    """How close one frame is to another."""

    label: str
    """Name for people."""
    unit: str
    higher_is_closer: bool
    decimals: int
    """To be shown."""
    tolerance: float
    """What rounding on another machine may change."""


MEASURES = {
    "psnr_db": Measure("PSNR", "dB", higher_is_closer=True, decimals=1, tolerance=2e-3),
    "ssim": Measure("SSIM", "", higher_is_closer=True, decimals=2, tolerance=1e-4),
    "lpips_alex": Measure(
        "LPIPS (AlexNet)", "", higher_is_closer=False, decimals=2, tolerance=1e-4
    ),
    "lpips_vgg": Measure("LPIPS (VGG-16)", "", higher_is_closer=False, decimals=2, tolerance=1e-4),
}
"""By name in the results."""


def best_of(futures: int) -> str:
    """Name of the method that picks the closest of the futures of each clip."""
    return f"best of {futures}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A measure by how many frames ahead it is, over clips.

    Attributes:
        mean: over clips and futures.
        deviation: standard deviation (n - 1) over clips of each clip's mean over its futures; None
            for one clip.
        deviation_of_futures: root of the mean over clips of the variance (n - 1) over a clip's
            futures; None where a clip has one.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...] | None
    deviation_of_futures: tuple[float, ...] | None


def curve(values_NRF: Float64[np.ndarray, "N R F"]) -> Curve:
    """Sum up a measure of N clips, R futures and F frames ahead."""
    clips, futures = values_NRF.shape[:2]
    of_clips_NF = values_NRF.mean(1)
    spread = of_clips_NF.std(0, ddof=1) if clips > 1 else None
    among = np.sqrt(values_NRF.var(1, ddof=1).mean(0)) if futures > 1 else None
    return Curve(
        mean=tuple(of_clips_NF.mean(0).tolist()),
        deviation=None if spread is None else tuple(spread.tolist()),
        deviation_of_futures=None if among is None else tuple(among.tolist()),
    )


def curves(
    measured: Mapping[str, Float64[np.ndarray, "N R F"]], measure: Measure
) -> dict[str, Curve]:
    """Sum up one measure of every method, and of the best future of each clip.

    The best is the one that is closest to what came in the mean over all its frames, so it is
    picked with knowledge of the answer: it says how far the futures reach, not how good a forecast
    is.

    Args:
        measured: by method; the forecast's has all futures, the others one.
        measure: what was measured.
    """
    found = {method: curve(values) for method, values in measured.items()}
    values_NRF = measured[FORECAST]
    futures = values_NRF.shape[1]
    if futures > 1:
        means_NR = values_NRF.mean(2) * (1 if measure.higher_is_closer else -1)
        best = means_NR.argmax(1)
        found[best_of(futures)] = curve(values_NRF[np.arange(len(best)), best][:, None])
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a forecast beats repeating the last frame, frame by frame.

    Attributes:
        better: frames ahead at which it does, counted from 1.
        worse: those at which it is behind. At the rest it leads by too little to tell, or by none.
        sentence: the same in words.
    """

    better: tuple[int, ...]
    worse: tuple[int, ...]
    sentence: str


def verdict(measured: Mapping[str, Float64[np.ndarray, "N R F"]], measure: Measure) -> Verdict:
    """Compare the forecast, mean of all futures, with the last frame repeated, clip by clip.

    The burden of proof is the forecast's: it is worse where it is behind in the mean, and better
    only where its lead exceeds twice the standard error of the clips' differences. One clip has no
    such error; there the sign decides, and the sentence says that.

    Args:
        measured: by method; `FORECAST` and `COPY` are read.
        measure: what was measured.
    """
    sign = 1 if measure.higher_is_closer else -1
    gaps_NF = measured[FORECAST].mean(1) - measured[COPY].mean(1)
    clips, frames = gaps_NF.shape
    lead_F = sign * gaps_NF.mean(0)
    error_F = gaps_NF.std(0, ddof=1) / math.sqrt(clips) if clips > 1 else np.zeros(frames)
    told_F = np.select([lead_F > TIMES_ERROR * error_F, lead_F < 0], [1, -1], default=0)
    said = [
        f"{_WORDS[state]} {_when(first, last, frames)}"
        for state, first, last in _runs(told_F.tolist())
    ]
    unit = f" {measure.unit}" if measure.unit else ""
    gaps = [
        f"{sign * lead_F[frame]:+.{measure.decimals}f}{unit} at frame {frame + 1}"
        for frame in dict.fromkeys((0, frames - 1))
    ]
    how = (
        "one clip, so nothing says how far that holds"
        if clips == 1
        else f"mean of {clips} clips, better only beyond {TIMES_ERROR:g} standard errors"
    )
    against = f"By {measure.label}, against repeating the last frame, the forecast is"
    return Verdict(
        better=tuple((np.flatnonzero(told_F > 0) + 1).tolist()),
        worse=tuple((np.flatnonzero(told_F < 0) + 1).tolist()),
        sentence=f"{against} {_listed(said)} ({', '.join(gaps)}; {how}).",
    )


_WORDS = {1: "better", -1: "worse", 0: "not clearly better"}


def _runs(told: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Stretches of the same verdict: what, first and last frame ahead, counted from 1."""
    first = 1
    for state, same in groupby(told):
        last = first + len(list(same)) - 1
        yield state, first, last
        first = last + 1


def _when(first: int, last: int, frames: int) -> str:
    if (first, last) == (1, frames):
        return "at every frame" if frames > 1 else "at the one frame"
    if last == frames and first < last:
        return f"from frame {first} on"
    if first == 1 and last > 1:
        return f"up to frame {last}"
    return f"at frame {first}" if first == last else f"at frames {first} to {last}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

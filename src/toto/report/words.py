"""Numbers as a person reads them: rounded, with their unit."""

import math


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with `digits` decimals; what is unknown or not finite is n/a."""
    if value is None or not math.isfinite(value):
        return "n/a"
    return f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as percent."""
    return "n/a" if share is None else f"{number(100 * share, digits)} %"


def count(value: float | None) -> str:
    """Write a count in at most four figures: 980, 12.3 k, 1.20 M."""
    if value is None or not math.isfinite(value):
        return "n/a"
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= factor:
            scaled = value / min(factor, 1e3 if suffix == " k" else factor)
            return f"{scaled:.3g}{suffix}" if scaled < 1000 else f"{scaled:,.0f}{suffix}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Write a time as its two largest units: 9.3 s, 2 min 5 s, 3 h 12 min."""
    if seconds is None or not math.isfinite(seconds):
        return "n/a"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(length_bytes: float) -> str:
    """Write a number of bytes in decimal units."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if length_bytes >= factor:
            return f"{length_bytes / factor:.3g} {unit}"
    return f"{length_bytes:.0f} bytes"

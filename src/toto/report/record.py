"""The sections that make a run repeatable: what it took, what was asked, on what it ran."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from toto.report.elements import Html, bar, details, element, join, table
from toto.report.results import StageCost
from toto.report.words import duration, size


def cost(costs: Sequence[StageCost]) -> Html:
    """Show time and memory of each stage, as bars and as numbers."""
    longest_s = max(c.wall_s for c in costs) or 1.0
    largest = max(c.peak_memory_bytes for c in costs) or 1.0
    rows: list[tuple[str, ...]] = [
        (
            c.stage,
            _measured(c.wall_s / longest_s, "trained", duration(c.wall_s)),
            duration(c.cpu_s),
            _measured(c.peak_memory_bytes / largest, "limit", size(c.peak_memory_bytes)),
        )
        for c in costs
    ]
    total = ("total", duration(sum(c.wall_s for c in costs)), duration(sum(c.cpu_s for c in costs)))
    rows.append((*total, size(largest)))
    words = (
        "Wall time is what a clock on the wall shows; processor time adds up all cores, so it can "
        "be longer. Memory is the largest amount held at once. Other work on the same machine "
        "lengthens the times."
    )
    head = ("stage", "wall time", "processor", "memory")
    return join((element("div", table(head, rows), class_="costs"), element("p", words)))


def setup(
    configs: Mapping[str, Mapping[str, Any]], environments: Mapping[str, Mapping[str, Any]]
) -> Html:
    """Show what each stage was asked to do and on what it ran, folded."""
    parts = (
        details("Configuration of each stage", *_configurations(configs)) if configs else "",
        details("Versions and machine", _versions(environments)) if environments else "",
    )
    return join(parts)


def _configurations(configs: Mapping[str, Mapping[str, Any]]) -> list[Html]:
    return [
        details(
            f"{stage}, digest {config.get('digest', 'unknown')}",
            element("pre", json.dumps(config.get("config", config), indent=2, ensure_ascii=False)),
        )
        for stage, config in configs.items()
    ]


def _versions(environments: Mapping[str, Mapping[str, Any]]) -> Html:
    """Tell what all stages share once, and what differs between them with one row a stage."""
    flat = {stage: dict(_flatten(values)) for stage, values in environments.items()}
    names = list(dict.fromkeys(name for values in flat.values() for name in values))
    shared, differing = [], []
    for name in names:
        found = {stage: values[name] for stage, values in flat.items() if name in values}
        if len(set(found.values())) == 1 and len(found) == len(flat):
            shared.append((name, "all", next(iter(found.values()))))
        else:
            differing.extend((name, stage, value) for stage, value in found.items())
    head = ("what", "stage", "value")
    return table(head, [*shared, *differing], words=3)


def _measured(share: float, role: str, words: str) -> Html:
    return element("span", bar(share, role), element("span", words), class_="measured")


def _flatten(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs.extend(_flatten(value, f"{before}{name}."))
        else:
            pairs.append(
                (f"{before}{name}", value if isinstance(value, str) else json.dumps(value))
            )
    return pairs

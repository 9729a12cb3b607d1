"""Whether what `toto generate` reports follows from the files beside it, and those from the clips.

Three steps, each of which can stand alone: the files are the ones that were written; the reported
numbers are what the numbers of single frames give; and these are what the stored tokens give, once
they are painted and set beside the clips again.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from toto.config import from_dict
from toto.jobs.generate import FEATURES, MEASURES, TOKENS, Generate
from toto.jobs.generated_scores import (
    ScoredClip,
    computed_measures,
    forecast_frames,
    measured,
    summary,
)
from toto.jobs.generated_tokens import GeneratedTokens
from toto.jobs.score_files import Entry
from toto.jobs.set_distance import set_distances
from toto.probe.backbone import TOKENIZER
from toto.runtime.durable import sha256_file
from toto.runtime.folder import RunFolder
from toto.tasks import forecasting
from toto.tokenizers import load_tokenizer

CLOSE = 1e-6
"""Share by which sums may differ between machines."""
SHOWN = 6
"""Wrong values that are listed; one number that was changed makes many wrong."""


def read_forecasts(out: Path, *, decode: bool = False) -> Entry:
    """Read a folder of `toto generate` as the ledger has it, and compute its numbers again."""
    verdicts, troubles = [], []
    try:
        troubles = list(differences(out, decode=decode))
        for name, group in RunFolder.open(out).result("generate")["groups"].items():
            told = [f"{name}: {verdict['sentence']}" for verdict in group["verdicts"].values()]
            verdicts += told
    except (ValueError, KeyError, TypeError, OSError) as error:
        troubles = [f"cannot be read: {error}"]
    return Entry(
        run=out, name="forecasts", score=None, troubles=tuple(troubles), verdicts=tuple(verdicts)
    )


def differences(out: Path, *, decode: bool = False) -> Iterator[str]:
    """Say where a folder of `toto generate` contradicts itself, one sentence each.

    Args:
        out: the folder.
        decode: whether to paint the stored tokens and measure them against the clips again; needs
            the run, the data and any weights of LPIPS where they were.

    Raises:
        ValueError: if a file is not what its name promises.
        OSError: if one is not there.
    """
    folder = RunFolder.open(out)
    result = folder.result("generate")
    if "files" not in result:
        raise ValueError(
            f"{out} names no files that its numbers rest on; run `toto generate` again"
        )
    for name, sha256 in result["files"].items():
        if sha256_file(out / name) != sha256:
            yield f"{name} is not the one that was measured: its sha256 differs"
    tokens = GeneratedTokens.load(out / TOKENS)
    told = folder.result(MEASURES)
    clips = [from_dict(ScoredClip, clip) for clip in told["clips"]]
    yield from _apart("groups", result["groups"], summary(clips, told["values"], tokens))
    config = folder.config(Generate)
    if config.distance.components:
        features = safetensors.torch.load((out / FEATURES).read_bytes())
        extractor = result["set_distances"][0]["extractor"]
        again = set_distances(features, extractor=extractor, config=config.distance)
        yield from _apart("set_distances", result["set_distances"], again)
    if decode:
        yield from _decoded(config, clips, told["values"], tokens)


def _decoded(
    config: Generate,
    clips: list[ScoredClip],
    values: Mapping[str, Any],
    tokens: GeneratedTokens,
) -> Iterator[str]:
    tokenizer = load_tokenizer(config.run_folder / TOKENIZER)
    measures = computed_measures(config.perceptual)
    read = config.clips()
    if len(read) != len(clips):
        yield f"{config.data} now gives {len(read)} clips, {len(clips)} were continued"
        return
    for number, (clip, scored) in enumerate(zip(read, clips, strict=True)):
        if ScoredClip.of(clip) != scored:
            yield f"{scored.source} is not the clip that was continued: its pixels differ"
            continue
        limit = tokenizer.decode(tokens.real[number])
        guessed = forecast_frames(tokenizer, tokens.forecast[number])
        for name, methods in measured(clip.frames, limit, guessed, measures).items():
            for method, found in methods.items():
                farthest = np.abs(np.array(found) - np.array(values[name][method][number])).max()
                if not farthest <= forecasting.MEASURES[name].tolerance:
                    yield (
                        f"{name} of {method} of {scored.source} is up to {farthest:.4g} off what "
                        "its tokens give"
                    )


def _apart(where: str, said: Any, found: Any) -> Iterator[str]:
    old, new = dict(_leaves(where, said)), dict(_leaves(where, json.loads(json.dumps(found))))
    pairs = {name: (old.get(name, "absent"), new.get(name, "absent")) for name in {**old, **new}}
    wrong = {name: pair for name, pair in pairs.items() if not _close(*pair)}
    for name, (one, other) in list(wrong.items())[:SHOWN]:
        yield f"{name} is {other!r} by the numbers it rests on, not {one!r}"
    if len(wrong) > SHOWN:
        yield f"{len(wrong) - SHOWN} more values of {where} are wrong"


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one == other


def _leaves(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(f"{where}.{name}", part)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(f"{where}[{number}]", part)
    else:
        yield where, value

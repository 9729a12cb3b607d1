"""The section on forecasts: how clips went on, beside what came and beside what costs nothing."""

import json
from collections.abc import Sequence
from itertools import zip_longest

from toto.report import figures
from toto.report.collect import Media, Report
from toto.report.elements import (
    Html,
    caption,
    data_uri,
    details,
    element,
    figure,
    join,
    key,
    legend,
    picture,
    table,
)
from toto.report.results import ForecastGroup, ForecastVerdict, Generate
from toto.report.words import count, number, size

LARGEST_VIDEO_BYTES = 1_500_000
"""A larger video is named and not embedded: the page stays quick to open."""
METHODS = {
    "forecast": "forecast, mean of its futures",
    "copy last frame": "repeating the last frame it was shown",
    "tokenizer limit": "the real frames through the tokenizer: the best it allows",
}
_STYLES = {True: "pass", False: "fail"}


def forecasts(report: Report, result: Generate) -> Html:
    """Show frames the model invented, next to those that really came."""
    parts = [element("p", _intro(result))]
    for place, (name, group) in enumerate(result.groups.items()):
        parts += _group(name, group, result, place)
    if report.strips or report.forecasts:
        parts.append(_pictures(report, result))
    if result.set_distances:
        parts.append(_set_distances(result))
    sources = ", ".join(_source(source) for source in result.sources)
    rest = f"Clips: {sources}. The ledger computes each number again, from files beside it."
    parts.append(element("p", rest, class_="quiet"))
    return join(parts)


def _intro(result: Generate) -> str:
    settings = (
        ("temperature", None if result.temperature is None else f"{result.temperature:g}"),
        ("seed", None if result.seed is None else str(result.seed)),
        ("tokens a second", None if result.tokens_per_s is None else count(result.tokens_per_s)),
    )
    known = ", ".join(f"{name} {value}" for name, value in settings if value is not None)
    ways = "" if result.futures == 1 else f" in {result.futures} ways, each from other draws"
    text = (
        f"Shown {result.prompt_frames} frames of a clip it was not trained on, the model continues "
        f"them by {result.frames}{ways}, code by code, and the tokenizer paints the codes"
        f"{f' ({known})' if known else ''}."
    )
    if result.prompt_frames + result.frames <= result.window_frames:
        return text
    return (
        f"{text} It sees {result.window_frames} frames at once; when they are full, the newest "
        f"{result.kept_frames} are read again and the older ones are forgotten."
    )


def _group(name: str, group: ForecastGroup, result: Generate, place: int) -> list[Html]:
    panels = [
        figures.closeness(group, measure, result.measures[measure], panel=f"forecast-{place}-{n}")
        for n, measure in enumerate(group.curves)
    ]
    surprise = figures.forecast_surprise(
        group, result.uniform_nats, panel=f"forecast-{place}-surprise"
    )
    methods = list(next(iter(group.curves.values())))
    keys = legend(*(_key(method) for method in methods))
    clips = f"{group.clips} clip{'' if group.clips == 1 else 's'}"
    videos = "" if group.videos == group.clips else f" of {group.videos} videos"
    name_of_first, first = next(iter(group.verdicts.items()))
    mark = _mark(first, result.frames, result.measures[name_of_first].label)
    said = " ".join(verdict.sentence for verdict in group.verdicts.values())
    return [
        element("h3", f"{name[:1].upper()}{name[1:]}: {clips}{videos}"),
        element("p", mark, " ", said, class_="verdict"),
        figure(panels, _closeness_words(), keys=keys),
        _table(group, result),
        _of_clips(group, result),
        figure([surprise], _surprise_words(), keys=_surprise_keys()),
    ]


def _mark(verdict: ForecastVerdict, frames: int, label: str) -> Html:
    """Say in words, not by colour alone, whether the forecast beats what costs nothing."""
    better, worse = len(verdict.better), len(verdict.worse)
    if better:
        where = f"at {better} of {frames} frames"
        words = f"better than repeating the last frame {where}, worse at {worse}, by {label}"
    else:
        words = f"at no frame better than repeating the last frame, by {label}"
    won = better > worse
    return element("span", f"{'✓' if won else '✗'} {words}", class_=f"mark {_STYLES[won]}")


def _key(method: str) -> Html:
    role, dashed = figures.forecast_style(method)
    words = METHODS.get(method, method)
    if dashed:
        words = f"{method} futures, picked knowing what came"
    return key(role, words, "dashed" if dashed else "line")


def _closeness_words() -> Html:
    return caption(
        axes="How close each frame is to the one that really came, by how many frames ahead it is. "
        "PSNR counts squared errors of pixels (3 dB more is half of them), SSIM compares local "
        "patterns (1 is equal). Lines are means, bands one standard deviation over clips.",
        look="The solid blue line against the orange one: only above it does the forecast know "
        "more than the last frame. In these codes none can be expected above green; orange can, "
        "since it repeats real pixels. The dashed line picks each clip's best future after the "
        "fact, so it is no forecast.",
        limits="PSNR and SSIM like blur and dislike a right shape one pixel off; they do not "
        "measure how plausible a forecast looks. Equal frames count as 108 dB, which lifts the "
        "mean where films stand still.",
    )


def _surprise_words() -> Html:
    return caption(
        axes="How little the model expected a token, mean over the patches of a frame: 0 is "
        "certain, the dashed line is what a guess among all codes would give.",
        look="Green is what it makes of the real film, with the real frames before it. Blue is "
        "its own forecast: where it falls far below green, the forecast has settled into what the "
        "model finds easy and not into what films do.",
        limits="Whether the forecast is right: a model can be sure and wrong.",
    )


def _surprise_keys() -> Html:
    return legend(key("limit", "tokens that came"), key("trained", "tokens it drew"))


def _table(group: ForecastGroup, result: Generate) -> Html:
    ahead = _powers(result.frames)
    rows = []
    for name, methods in group.curves.items():
        label = result.measures[name].label
        digits = result.measures[name].decimals
        for method, curve in methods.items():
            cells = (_cell(curve.mean, curve.deviation, n, digits) for n in ahead)
            rows.append((label, method, *cells))
        among = methods["forecast"].deviation_of_futures
        if among is not None:
            cells = (number(among[n - 1], digits) for n in ahead)
            rows.append((label, "deviation among futures", *cells))
    heads = ("measure", "method", *(f"frame {n}" for n in ahead))
    return table(heads, rows, words=2)


def _of_clips(group: ForecastGroup, result: Generate) -> Html:
    methods = list(next(iter(group.of_clips[0].means.values())))
    rows = [
        (clip.source, result.measures[name].label, *(number(means[m], 2) for m in methods))
        for clip in group.of_clips
        for name, means in clip.means.items()
    ]
    heads = ("clip", "measure", *methods)
    title = f"Each of the {group.clips} clips, mean over frames and futures"
    return details(title, table(heads, rows, words=2))


def _powers(frames: int) -> list[int]:
    """1, 2, 4 ... and the last."""
    return sorted({*(2**n for n in range(frames.bit_length())), frames})


def _cell(
    mean: Sequence[float | None], deviation: Sequence[float] | None, ahead: int, digits: int
) -> str:
    said = number(mean[ahead - 1], digits)
    return said if deviation is None else f"{said} ± {number(deviation[ahead - 1], digits)}"


def _pictures(report: Report, result: Generate) -> Html:
    shown = [
        part
        for strip, source in zip_longest(report.strips, result.sources[: len(report.strips)])
        for part in (
            element("p", _source(source or strip.name), class_="quiet"),
            picture(strip, f"Frames of {_source(source or strip.name)}, row by row", plot=True),
        )
    ]
    videos = element("div", *map(_video, report.forecasts), class_="videos")
    words = caption(
        axes="Time runs to the right; +1 is the first frame that was forecast. Rows: the real "
        "frames; the same after tokenizer and back; futures, which know only the frames that were "
        "given; and two maps of surprise, of the real tokens and of the first future's, over the "
        "frames in grey. The videos show the rows side by side, with a blue bar below once they "
        "are forecast.",
        look="Compare the futures with the second row, the best that the codes allow. Things that "
        "move should keep moving, and keep their shape. In the upper map, bright patches are where "
        "something came that the model did not expect.",
        limits="Few clips. A forecast may be plausible and still differ from what came; a future "
        "that surprises its own model little may still be wrong.",
    )
    return figure([element("div", *shown, videos, class_="strips")], words, wide=True)


def _set_distances(result: Generate) -> Html:
    rows = [
        (
            d.method,
            f"{d.first_frame} to {d.last_frame}",
            number(d.value, 3),
            str(d.real_samples),
        )
        for d in result.set_distances
    ]
    words = (
        f"As a set, by {result.set_distances[0].name}: the squared distance between Gaussians of "
        "features of real and of other clips, 0 for equal ones. It is no FVD: extractor, count and "
        "length are others, and it can be compared only within this table."
    )
    heads = ("method", "frames ahead", "distance", "clips of each set")
    return join((element("p", words), table(heads, rows, words=2)))


def _source(source: object) -> str:
    return source if isinstance(source, str) else json.dumps(source)


def _video(media: Media) -> Html:
    if len(media.data) >= LARGEST_VIDEO_BYTES:
        words = (
            f"{media.name} ({size(len(media.data))}) is too large to embed; open it in its folder."
        )
        return element("p", words, class_="quiet")
    source = data_uri(media, "video/mp4")
    return element(
        "video", src=source, controls="", loop="", muted="", playsinline="", aria_label=media.name
    )

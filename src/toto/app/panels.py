"""What each part of the page shows, in words and pictures: values in, HTML out."""

import math
import secrets

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from toto.app.drawing import (
    IMAGINED,
    REAL,
    STRIP_GAP_PX,
    card,
    cards,
    code_colours,
    enlarged,
    film,
    glow,
    marked,
    picture_uri,
    still,
    strip,
    surprise_colours,
)
from toto.app.run import ShownRun
from toto.app.samples import Sample
from toto.app.watched import MASK_CELLS, SHOWN_PX, Closeness, Future, Watched
from toto.probe.attention_map import Gaze
from toto.report import figures
from toto.report.elements import Html, element, join, key, legend
from toto.report.words import count
from toto.tasks.overlay import overlay

NOTHING = 205
"""Grey of a surprise map where the model was shown the frame and not asked."""


def facts(run: ShownRun) -> Html:
    """Say in a line what model this is."""
    config = run.backbone.model.config
    parameters = sum(weights.numel() for weights in run.backbone.model.parameters())
    rows, columns = run.grid
    parts = [
        f"run {run.name}",
        f"{count(parameters)} parameters",
        f"{config.depth} layers",
        f"clips of {run.frames} frames, {rows} x {columns} patches each"
        if run.frames > 1
        else f"images of {rows} x {columns} patches",
    ]
    return element("p", *(element("span", part) for part in parts), class_="facts")


def sample_buttons(samples: list[Sample]) -> Html:
    """Offer the samples as pictures to press, and say whether they are new to the model."""
    buttons = [
        element(
            "button",
            film(sample.frames.numpy(), ""),
            element("span", sample.name, class_="name"),
            type="button",
            class_="sample",
            data_sample=str(number),
        )
        for number, sample in enumerate(samples)
    ]
    new = all(sample.held_out for sample in samples)
    words = "It was trained on none of these." if new else "It may have been trained on these."
    return join((element("div", *buttons, class_="samples"), element("p", words, class_="facts")))


def reading(run: ShownRun, watched: Watched) -> Html:
    """The clip, its tokens, and what is drawn from the tokens alone."""
    frames = watched.frames.numpy()
    seen = card("the clip", film(frames, "the clip"), note=_frames(len(frames)))
    if watched.ids is None or watched.redrawn is None:
        words = "This model reads pixels as they are, patch after patch, and has no tokens."
        return join((cards(seen), element("p", words)))
    ids = watched.ids.numpy()
    close = Closeness.of(watched.redrawn, watched.frames)
    vocabulary = run.backbone.tokenizer.vocab_size
    likeness = f"PSNR {close.psnr_db:.1f} dB"
    if close.ssim is not None:
        likeness += f", SSIM {close.ssim:.2f}"
    return cards(
        seen,
        card(
            "its tokens",
            film(code_colours(ids), "a colour for each token", sharp=True),
            note=f"{ids[0].size} tokens a frame, one of {vocabulary:,} each; one colour, one token",
        ),
        card(
            "drawn from tokens",
            film(watched.redrawn.numpy(), "the clip drawn from its tokens"),
            note=f"{likeness}: what the tokens keep",
        ),
    )


def imagined(
    run: ShownRun, watched: Watched, futures: list[Future], real_nats: Tensor, seen: int
) -> Html:
    """The futures beside what really came, with what the model found surprising.

    Args:
        run: which imagined them.
        watched: the clip.
        futures: ways in which it may go on.
        real_nats: the model's surprise at each token of the clip itself.
        seen: frames of the clip that the model was shown.
    """
    names = ["what it imagines"] if len(futures) == 1 else []
    names = names or [f"future {number}" for number in range(1, len(futures) + 1)]
    real = watched.frames.numpy()
    shown = [("what really came", marked(real, seen, REAL), real_nats[seen:].numpy())]
    shown += [
        (name, marked(future.frames.numpy(), seen, IMAGINED), future.surprise_nats.numpy())
        for name, future in zip(names, futures, strict=True)
    ]
    # One length for all, so that the films stay in step.
    longest = max(len(frames) for _, frames, _ in shown)
    most_nats = math.log(run.backbone.tokenizer.vocab_size)
    films, rows = [], []
    for name, frames, nats in shown:
        maps = np.full((longest, *real_nats.shape[1:], 3), NOTHING, np.uint8)
        maps[seen : seen + len(nats)] = surprise_colours(nats, most_nats)
        whole = np.concatenate([frames, frames[-1:].repeat(longest - len(frames), axis=0)])
        side_px = whole.shape[2] // maps.shape[2]
        squares = maps.repeat(side_px, axis=1).repeat(side_px, axis=2)
        pair = (film(whole, name), film(maps, f"surprise, {name}", sharp=True))
        note = f"surprise: {nats.mean():.1f} nats a token" if len(nats) else ""
        films.append(card(name, *pair, note=note))
        below = strip(squares)
        below[:, : seen * (side_px * maps.shape[2] + STRIP_GAP_PX)] = 0
        rows.append(
            element(
                "div",
                element("span", name, class_="name"),
                still(strip(whole), f"{name}, frame by frame"),
                still(below, f"surprise, {name}, frame by frame", sharp=True),
                class_="row",
            )
        )
    words = {
        "seen": "shown to the model",
        "real": "really came",
        "imagined": "imagined",
        "surprise": f"surprise, from 0 to {most_nats:.1f} nats, which is a blind guess",
    }
    swatches = [
        element("span", element("span", class_=f"swatch {kind}"), said)
        for kind, said in words.items()
    ]
    scale = element("p", *swatches, class_="scale")
    closeness = element("p", _closeness(watched, futures, names, seen), class_="outcome")
    return join((cards(*films), scale, closeness, element("div", *rows, class_="rows")))


def _closeness(watched: Watched, futures: list[Future], names: list[str], seen: int) -> str:
    """Set the futures beside two things that need no model: the last frame, and the tokens."""
    new = min(len(futures[0].surprise_nats), len(watched.frames) - seen)
    if new == 0 or watched.redrawn is None:
        return "All frames of the clip were shown; nobody knows how it goes on."
    coming = watched.frames[seen : seen + new]
    found = [
        f"{name} {Closeness.of(future.frames[seen : seen + new], coming).psnr_db:.1f}"
        for name, future in zip(names, futures, strict=True)
    ]
    kept = Closeness.of(watched.frames[seen - 1 : seen].expand_as(coming), coming)
    best = Closeness.of(watched.redrawn[seen : seen + new], coming)
    return (
        f"How close to what really came, in dB of PSNR over {_frames(new)}: {', '.join(found)}; "
        f"just keeping the last frame {kept.psnr_db:.1f}; the real frames, once they are tokens, "
        f"{best.psnr_db:.1f}. A future may be likely and yet not the one that came."
    )


def looking(watched: Watched, gaze: Gaze, head: int | None, place: tuple[int, int, int]) -> Html:
    """The frames, lit where a patch looks; each patch can be pressed.

    Args:
        watched: the clip.
        gaze: of the patch.
        head: from 0 on; None for the mean of all.
        place: frame, row and column of the patch.
    """
    weights = gaze.patches.mean(0) if head is None else gaze.patches[head]
    start = float(gaze.start.mean() if head is None else gaze.start[head])
    frame, row, column = place
    _, rows, columns = weights.shape
    lights = glow(weights.numpy())
    shown = []
    for number, picture in enumerate(watched.frames.numpy()):
        parts = [still(picture, f"frame {number + 1}")]
        if bool(weights[number].any()):
            parts.append(still(lights[number], "", sharp=True))
        if number == frame:
            box = f"left:{100 * column / columns}%;top:{100 * row / rows}%;"
            box += f"width:{100 / columns}%;height:{100 / rows}%"
            parts.append(element("div", class_="here", style=box))
        unseen = number > frame and not bool(weights[number].any())
        shown.append(
            element(
                "div",
                *parts,
                class_="patches unseen" if unseen else "patches",
                data_frame=str(number),
                data_rows=str(rows),
                data_columns=str(columns),
            )
        )
    own, before, after = (
        float(part.sum()) for part in (weights[frame], weights[:frame], weights[frame + 1 :])
    )
    shares = [f"{100 * own:.0f} % within its own frame"]
    if frame:
        shares.append(f"{100 * before:.0f} % at the frames before")
    if after:
        shares.append(f"{100 * after:.0f} % at the frames after")
    shares.append(f"{100 * start:.0f} % at the clip's start mark")
    words = f"The framed patch looks {', '.join(shares)}."
    grid = element(
        "div",
        *shown,
        class_="frames",
        tabindex="0",
        role="application",
        aria_label="frames; the arrow keys move the patch",
        data_place=f"{frame},{row},{column}",
    )
    return join((grid, element("p", words, class_="outcome")))


def layers(run: ShownRun, watched: Watched, layer: int) -> Html:
    """Every layer's colours of one frame to choose from, and the chosen layer's film."""
    depth = run.backbone.depth
    middle = len(watched.frames) // 2
    buttons = [
        element(
            "button",
            still(colours[middle].numpy(), f"layer {number}", sharp=True),
            element("span", "input" if number == 0 else str(number), class_="name"),
            type="button",
            class_="layer chosen" if number == layer else "layer",
            aria_pressed="true" if number == layer else "false",
            data_layer=str(number),
        )
        for number, colours in sorted(watched.colours.items())
    ]
    name = "what the first layer is given" if layer == 0 else f"layer {layer} of {depth}"
    colours = watched.colours[layer].numpy()
    return join(
        (
            element("div", *buttons, class_="layers"),
            cards(
                card("the clip", film(watched.frames.numpy(), "the clip")),
                card(name, film(colours, f"features of {name} as colours", sharp=True)),
                kind="large",
            ),
            element("div", still(strip(colours, 1), f"{name}, frame by frame", sharp=True),
                    class_="row wide"),
        )
    )  # fmt: skip


def canvas(watched: Watched) -> Html:
    """The first frame, to draw on.

    Each sheet has a number of its own: by that the browser knows that it is new, and clears it.
    """
    picture = picture_uri(watched.frames[0].numpy())
    tools = [
        element("button", words, type="button", class_="tool", data_tool=tool, aria_pressed=pressed)
        for tool, words, pressed in (
            ("draw", "draw", "true"),
            ("erase", "rub out", "false"),
            ("clear", "clear", "false"),
        )
    ]
    board = element(
        "canvas",
        class_="board",
        width=str(MASK_CELLS),
        height=str(MASK_CELLS),
        role="img",
        aria_label="the first frame; draw over what to follow",
    )
    paper = element(
        "div",
        board,
        class_="paper",
        style=f"background-image:url({picture})",
        data_sheet=secrets.token_hex(4),
    )
    return join((paper, element("div", *tools, class_="tools")))


def followed(
    watched: Watched, masks: UInt8[np.ndarray, "T S S"], layer: int, *, guessed: bool
) -> Html:
    """The mask in every frame."""
    frames = watched.frames.numpy()
    drawn = np.stack(
        [
            overlay(enlarged(frame, SHOWN_PX)[None], ids[None], columns=1, scale=1)
            for frame, ids in zip(frames, masks, strict=True)
        ]
    )
    first = "marked for you, until you draw: what moves most" if guessed else "from what you drew"
    note = f"{first}, by the features of layer {layer}; nothing was trained for this"
    return join(
        (
            card("followed", film(drawn, "the mask in every frame"), note=note, kind="single"),
            element("div", still(strip(drawn, 4), "the mask, frame by frame"), class_="row wide"),
        )
    )


def curves(run: ShownRun) -> Html:
    """How the loss fell in training, and how well each frame of a clip is foreseen."""
    result, training = run.result, run.curves.get("loss")
    if training is None:
        return element("p", "This run has logged no loss.", class_="outcome")
    if result is None:
        panels = [
            figures.over_steps(training, name="loss", title="Loss so far", unit="nats a token")
        ]
        return element("div", *panels, class_="curves")
    panels = [figures.pretraining(training, run.curves.get("validation_loss"), result)]
    keys = [key("trained", "training clips"), key("limit", "held-out clips", "dot")]
    if len(result.loss_per_frame) > 1:
        panels.append(figures.loss_per_frame(result))
        keys.append(key("untrained", "the same model, untrained"))
    words = (
        f"{count(result.parameters)} parameters learnt from {count(result.tokens)} tokens in "
        f"{result.steps:,} steps, to guess the next token and nothing else."
    )
    return join(
        (
            element("p", words, class_="outcome"),
            legend(*keys),
            element("div", *panels, class_="curves"),
        )
    )


def _frames(number: int) -> str:
    return "1 picture" if number == 1 else f"{number} frames"

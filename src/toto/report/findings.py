"""The sections on what the model turned out to know: probes, fine-tuning, tracking."""

from toto.report import figures
from toto.report.collect import Report
from toto.report.elements import (
    Html,
    caption,
    details,
    element,
    figure,
    join,
    key,
    legend,
    picture,
    table,
)
from toto.report.opening import verdict_mark
from toto.report.results import Finetune, LayerAtlas, Probe, Task, Track
from toto.report.words import number, percent

PROTOCOLS = {
    "whole": "All weights learned from labels.",
    "stop-gradient": "The backbone went on with the next token, while probes behind its layers "
    "learned the labels.",
    "frozen": "Probes behind the layers of the frozen backbone learned the labels.",
}

TUNED_LOSS = {
    "stop-gradient": "nats, heads and next token",
    "frozen": "nats, summed over heads",
}
"""What the loss of a protocol is a sum of, where it is one."""


def layers(probe: Probe) -> Html:
    """Show what each frozen layer tells about the clips, trained against untrained."""
    intro = (
        f"The network is frozen. On each of its {len(probe.layers)} layers a small classifier is "
        "trained to name what is in the clip; the untrained network gets the same treatment. "
        f"The classifiers, and the untrained network with them, are repeated with "
        f"{len(probe.seeds)} random seeds; the trained network was trained once. The layer and the "
        "pooling are picked on separate selection clips, then scored once on test clips."
    )
    panels = [
        figures.accuracy_per_layer(title, task, probe, name=f"probe-{number}")
        for number, (title, task) in enumerate(probe.tasks.items())
    ]
    keys = legend(
        *(
            key(
                weights,
                f"{weights}, {pooling} pooling",
                "line" if pooling == "attention" else "dashed",
            )
            for weights in ("trained", "untrained")
            for pooling in probe.poolings
        ),
        key("ink", "picked on the selection clips", "ring"),
    )
    words = caption(
        axes="Share of test clips named correctly, in percent, against the layer that is read, "
        "from the input (left) to the output (right). Lines are means over seeds, bands one "
        "standard deviation to either side.",
        look="The distance between the two colours: only that is due to training, since an "
        "untrained network keeps much of its input as well. Often a layer in the middle is best.",
        limits="Whether the network could be fine-tuned to do better, and anything about videos "
        "unlike these.",
    )
    cards = element(
        "div", *(_task(t, task, probe) for t, task in probe.tasks.items()), class_="pair"
    )
    return join((element("p", intro), figure(panels, words, keys=keys), cards))


def atlas(report: Report, result: LayerAtlas) -> Html:
    """Show what several heads read off every layer of the frozen network."""
    clips = ", ".join(f"{n:,} {split}" for split, n in result.clips.items())
    intro = (
        f"{len(result.heads)} kinds of heads on each of {len(result.layers)} layers, at several "
        f"learning rates: {result.heads_tried} heads a seed, {len(result.seeds)} seeds. Layer, "
        "head and rate are picked on the selection clips; the test clips are read once."
    )
    parts = [
        element("p", intro),
        element("p", verdict_mark(result.verdict), " ", result.verdict.sentence, class_="verdict"),
    ]
    if report.atlas_picture is not None:
        words = caption(
            axes="Share of test clips named correctly, in percent, against the layer that is "
            "read. Lines are means over seeds, bands one standard deviation to either side.",
            look="The distance between filled and hollow markers: only that is due to training. "
            "Then which head gets most out of the same layer.",
            limits="Each head's learning rate is picked for each layer on the selection clips.",
        )
        shown = picture(report.atlas_picture, "Accuracy of every head over the layers", plot=True)
        parts.append(figure([shown], words, wide=True))
    parts.append(element("p", f"Clips: {clips}.", class_="quiet"))
    return join(parts)


def finetuning(report: Report, result: Finetune) -> Html:
    """Show what the model scores once it has learned from labels."""
    clips = ", ".join(f"{n:,} {split}" for split, n in result.clips.items())
    chosen = f", read at layer {result.layer}" if len(result.test_accuracies) > 1 else ""
    views = ""
    if result.views not in ("", "1x1"):
        one = percent(result.test_accuracy_one_view)
        views = f" with {result.views} views of each clip, {one} with one"
    weights = "weights of the pre-training" if result.init == "trained" else "fresh weights"
    intro = (
        f"{PROTOCOLS.get(result.protocol, result.protocol)} Attention is {result.attention}; "
        f"it began with {weights} and took {result.steps:,} steps. Test accuracy of "
        f"{result.task}, {result.classes} classes: "
    )
    score = element("b", percent(result.test_accuracy))
    parts = [element("p", intro, score, f"{views}{chosen}; chance {percent(result.chance)}.")]
    curves = report.finetune_curves
    panels = []
    if "loss" in curves:
        unit = TUNED_LOSS.get(result.protocol, "nats")
        panels.append(
            figures.over_steps(
                curves["loss"], name="finetune-loss", title="Training loss", unit=unit
            )
        )
    if "selection_accuracy" in curves:
        panels.append(figures.tuned_accuracy(curves["selection_accuracy"], result))
    if len(result.test_accuracies) > 1:
        panels.append(figures.tuned_layers(result))
    if panels:
        words = caption(
            axes="Loss of the training clips and accuracy on the selection clips, against the "
            "optimiser step. Diamonds are test accuracies, read once at the end; where each layer "
            "has a probe, a ring marks the one that the selection clips chose.",
            look="Accuracy well above the dashed line of chance. Where it falls while the loss "
            "goes on falling, the model learns the training clips by heart.",
            limits="What pre-training is worth: a model tuned from fresh weights would tell "
            "(--init untrained). One seed says little of small differences.",
        )
        blue = "training clips (loss), selection clips (accuracy)"
        keys = legend(key("trained", blue), key("limit", "test clips", "dot"))
        parts.append(figure(panels, words, keys=keys))
    notes = [f"Clips: {clips}."]
    if result.lost:
        notes.append(
            f"Test clips that could not be read, and count as wrong: {len(result.lost):,}."
        )
    if result.skipped_steps:
        notes.append(f"Steps that were passed over: {result.skipped_steps:,}.")
    parts.append(element("p", " ".join(notes), class_="quiet"))
    return join(parts)


def tracking(report: Report, result: Track) -> Html:
    """Show how well features of one frame find the same thing in the next."""
    place = f" on {result.where}" if result.where else ""
    intro = (
        f"Given the outline of each object in the first frame only, later outlines are found "
        f"by comparing features of layer {result.layer}{place}; nothing is trained for it. "
        "J is the overlap with the true region, F the agreement of the outlines, both from 0 to 1."
    )
    rows = [
        (n, number(s.j, 3), number(s.f, 3), number(s.j_and_f, 3)) for n, s in result.scores.items()
    ]
    clips = [(c.source, number(c.j, 3), number(c.f, 3), number(c.j_and_f, 3)) for c in result.clips]
    parts = [element("p", intro), table(("method", "J", "F", "J&F, their mean"), rows)]
    for overlay in report.overlays:
        words = caption(
            axes="Frames of two clips, time to the right, with the followed objects tinted; the "
            "row of true outlines is there to compare.",
            look="The tint should stay on its object as it moves. “First mask kept” in the table "
            "never moves the outline: a method below it does not track.",
            limits="Two clips of middling score; the table is the average. Easy clips say little "
            "about real videos.",
        )
        parts.append(figure([picture(overlay, "Tracked objects, tinted")], words, wide=True))
    if clips:
        head = ("clip", "J", "F", "J&F")
        parts.append(details(f"Scores of each of the {len(clips)} clips", table(head, clips)))
    if result.protocol:
        pairs = [(name, str(value)) for name, value in result.protocol.items()]
        parts.append(details("Protocol", table(("setting", "value"), pairs, words=2)))
    return join(parts)


def _task(title: str, task: Task, probe: Probe) -> Html:
    rows = [
        (weights, str(c.seed), f"{c.pooling}, {_layer_name(probe, c.layer)}",
         percent(c.selection), percent(c.test))
        for weights, choices in task.chosen.items()
        for c in choices
    ]  # fmt: skip
    margin = ""
    if task.verdict.margin_in_sd is not None:
        margin = f"Margin: {number(task.verdict.margin_in_sd, 1)} standard deviations over seeds. "
    clips = ", ".join(f"{n:,} {split}" for split, n in task.clips.items())
    return element(
        "div",
        element("h3", f"{title}: {task.classes} classes, chance {percent(task.chance)}"),
        element("p", verdict_mark(task.verdict), " ", task.verdict.sentence, class_="verdict"),
        table(("weights", "seed", "picked", "selection", "test"), rows, words=3),
        element("p", f"{margin}Clips: {clips}.", class_="quiet"),
    )


def _layer_name(probe: Probe, layer: int) -> str:
    return probe.layers[layer] if 0 <= layer < len(probe.layers) else f"layer {layer}"

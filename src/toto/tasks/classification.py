"""Classification by probes on frozen features, at every layer and with both poolings.

Every probe is trained on `train`; `selection` chooses layer and pooling; `test` is read once, by
all of them for the curves and by the chosen one for the score (docs/paper.md, P0 rows).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from toto.probe.fit import Choice, Features, FitConfig, accuracy, choose, fit_probes, predict
from toto.probe.pool import POOLINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One label that clips carry."""

    name: str
    classes: int

    @property
    def chance(self) -> float:
        """Accuracy of guessing among balanced classes."""
        return 1 / self.classes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeRun:
    """Outcome of one seed for one backbone.

    Attributes:
        seed: of the probes, and of an untrained backbone's weights.
        test: accuracy on the test split, by task, pooling and layer, [G 2 Z].
        choices: by task, what the selection split chose.
        scores: by task, the chosen probe's accuracy on the test split.
        predicted: by task, the chosen probe's class for every test clip, [G N].
    """

    seed: int
    test: Float[Tensor, "G 2 Z"]
    choices: tuple[Choice, ...]
    scores: tuple[float, ...]
    predicted: Int64[Tensor, "G N"]


def probe_once(
    train: Features,
    selection: Features,
    test: Features,
    tasks: Sequence[Task],
    config: FitConfig,
    *,
    seed: int,
) -> ProbeRun:
    """Fit all probes of one backbone with one seed, choose, and score."""
    probes = fit_probes(train, [task.classes for task in tasks], config, seed=seed)
    selected = accuracy(predict(probes, selection), selection.labels)
    predicted_2ZGN = predict(probes, test)
    scored_2ZG = accuracy(predicted_2ZGN, test.labels)
    choices = tuple(choose(selected[:, :, task]) for task in range(len(tasks)))
    picks = [(POOLINGS.index(choice.pooling), choice.layer) for choice in choices]
    return ProbeRun(
        seed=seed,
        test=scored_2ZG.permute(2, 0, 1),
        choices=choices,
        scores=tuple(float(scored_2ZG[p, z, g]) for g, (p, z) in enumerate(picks)),
        predicted=torch.stack([predicted_2ZGN[p, z, g] for g, (p, z) in enumerate(picks)]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether training helped, by the chosen probes' test scores over the seeds.

    Attributes:
        trained_mean: of the trained backbone, in [0, 1].
        trained_sd: over the seeds (n - 1).
        untrained_mean: of the same backbone with fresh weights, another for each seed.
        untrained_sd: over the seeds.
        margin_in_sd: difference of the means over the larger of the two deviations.
        beats_untrained: by more than two of those deviations.
        beats_chance: mean above chance by more than two deviations of the trained scores.
        sentence: the same in words.
    """

    trained_mean: float
    trained_sd: float
    untrained_mean: float
    untrained_sd: float
    margin_in_sd: float
    beats_untrained: bool
    beats_chance: bool
    sentence: str


def judge(task: Task, trained: Sequence[float], untrained: Sequence[float]) -> Verdict:
    """Compare the scores of the seeds.

    Raises:
        ValueError: if there are fewer than two seeds, which have no deviation.
    """
    fewest = min(len(trained), len(untrained))
    if fewest < 2:
        raise ValueError(f"{task.name}: a deviation needs at least 2 seeds, got {fewest}")
    ours, fresh = torch.tensor(trained).double(), torch.tensor(untrained).double()
    deviation = max(float(ours.std()), float(fresh.std()), 1e-9)
    margin = (float(ours.mean()) - float(fresh.mean())) / deviation
    beats_untrained = margin > 2
    over_chance = float(ours.mean()) - task.chance
    beats_chance = over_chance > 2 * max(float(ours.std()), 1e-9)
    words = [
        f"{task.name}: trained {100 * ours.mean():.1f} +- {100 * ours.std():.1f} %, "
        f"untrained {100 * fresh.mean():.1f} +- {100 * fresh.std():.1f} %, "
        f"chance {100 * task.chance:.1f} %.",
        f"Trained is {abs(margin):.1f} standard deviations "
        f"{'above' if margin > 0 else 'below'} untrained over {len(trained)} seeds"
        + (", more than the two asked for" if beats_untrained else ", which shows no gain")
        + ("." if beats_chance else "; it is not above chance."),
    ]
    return Verdict(
        trained_mean=float(ours.mean()),
        trained_sd=float(ours.std()),
        untrained_mean=float(fresh.mean()),
        untrained_sd=float(fresh.std()),
        margin_in_sd=margin,
        beats_untrained=beats_untrained,
        beats_chance=beats_chance,
        sentence=" ".join(words),
    )

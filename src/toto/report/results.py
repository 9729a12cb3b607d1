"""What each stage leaves in `results/`, as named values, so that the page never handles raw JSON.

Shapes of the files only: a field with a default may be absent from a file, one that no page shows
is not listed. Losses are in nats a token, accuracies and scores in [0, 1].
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestedSource:
    """One folder or generator of clips."""

    name: str
    clips: int
    frames: int
    duration_s: float
    lost: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A clip that was lost, or read only in part."""

    path: str
    reason: str
    status: str = ""
    """Refused, quarantined, missing; empty for a damaged clip, which is used."""
    stage: str = ""
    """Which check stopped it; empty for a damaged clip, which no check stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ingest:
    """`data/results/ingest.json`."""

    sources: tuple[IngestedSource, ...]
    lost: tuple[Problem, ...] = ()
    damaged: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenizer:
    """`tokenizer/results/tokenizer.json`: quality on frames it was not trained on."""

    name: str
    vocab_size: int
    patch_px: int
    psnr_db: float
    perplexity: float
    used_codes: int
    frames: int
    parameters: int
    psnr_db_mean_colour: float | None = None
    """The trivial answer: each patch painted in its mean colour, 24 bits a patch."""
    psnr_db_grey: float | None = None
    """The hand-made tokenizer that keeps one grey level a patch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedSource:
    """How one source looks in tokens."""

    name: str
    clips: int
    frames: int
    tokens: int
    used_codes: int
    perplexity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenize:
    """`shards/results/tokenize.json`."""

    vocab_size: int
    grid: tuple[int, int]
    sources: tuple[TokenizedSource, ...]
    histogram: tuple[int, ...]
    """How often each code occurs, code 0 first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """`pretrain/results/pretrain.json`."""

    parameters: int
    steps: int
    tokens: int
    validation_loss: float | None
    """None where the run was given no held-out shards."""
    unit: str = "nats a token"
    """Of all losses here; a model of continuous patches has a squared error."""
    uniform_loss: float | None = None
    """The loss of a guess that holds every code equally likely: log of the vocabulary."""
    unigram_loss: float | None = None
    """The loss of a guess that knows only how often each code occurs."""
    zero_loss: float | None = None
    """The squared error of a guess of each patch's own mean."""
    loss_per_frame: tuple[float | None, ...] = ()
    loss_per_frame_untrained: tuple[float | None, ...] = ()
    loss_per_position_first: tuple[float | None, ...] = ()
    """Of each place of the first frame, row after row."""
    loss_per_position_later: tuple[float | None, ...] = ()
    """The same, mean over the frames after it."""
    tokens_per_s: float | None = None
    precision: str = ""

    @property
    def guesses(self) -> tuple[tuple[str, float], ...]:
        """What the guesses score that look at nothing before, the crudest first."""
        known = (
            ("a uniform guess", self.uniform_loss),
            ("code frequencies only", self.unigram_loss),
            ("each patch's own mean", self.zero_loss),
        )
        return tuple((name, loss) for name, loss in known if loss is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The layer and pooling that one seed picked on the selection clips, and its test accuracy."""

    seed: int
    pooling: str
    layer: int
    selection: float
    test: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The comparison of the chosen probes over all seeds."""

    trained_mean: float
    untrained_mean: float
    beats_untrained: bool
    beats_chance: bool
    sentence: str
    trained_sd: float | None = None
    untrained_sd: float | None = None
    margin_in_sd: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One classification task read off the frozen layers."""

    classes: int
    chance: float
    clips: dict[str, int]
    """How many clips each split has."""
    test: dict[str, dict[str, tuple[tuple[float, ...], ...]]]
    """Test accuracy by weights ("trained", "untrained"), pooling, seed and layer."""
    chosen: dict[str, tuple[Choice, ...]]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """`probe/results/probe.json`."""

    seeds: tuple[int, ...]
    layers: tuple[str, ...]
    poolings: tuple[str, ...]
    tasks: dict[str, Task]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerAtlas:
    """`layers/results/study_layers.json`, which `toto study layers` writes."""

    classes: int
    chance: float
    clips: dict[str, int]
    """How many clips each split has."""
    seeds: tuple[int, ...]
    layers: tuple[str, ...]
    heads: tuple[str, ...]
    heads_tried: int
    """Of each backbone and seed: layers x heads x learning rates."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune:
    """`finetune/results/finetune.json`."""

    protocol: str
    attention: str
    init: str
    """The run's weights ("trained"), or fresh ones."""
    task: str
    classes: int
    chance: float
    clips: dict[str, int]
    """How many clips each split has."""
    steps: int
    layer: int
    """That was chosen on the selection split, where there was a choice."""
    test_accuracy: float
    test_accuracies: dict[str, float]
    """By layer."""
    test_accuracy_one_view: float | None = None
    views: str = ""
    """How often a test clip is read, as clips x squares."""
    lost: tuple[str, ...] = ()
    """Test clips that could not be read; they count as wrong."""
    skipped_steps: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BestRate:
    """The learning rate with the lowest loss of one width."""

    log2_lr: int
    loss: float
    between: float | None
    """The same between the rates that were tried, as a power of two."""
    at_edge: bool
    """Whether it was the lowest or the highest that was tried, so that the best may lie beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Learning rates over widths, under one parametrisation."""

    best: dict[str, BestRate | None]
    """By width; None where no rate was finite."""
    lost_by_keeping: dict[str, float | None]
    """By width, what the narrowest one's best rate costs it."""
    moved: int | None
    """Powers of two between the best rates; None where a width has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MupStudy:
    """`mup/results/study_mup.json`, which `toto study mup` writes."""

    data: str
    unit: str
    widths: tuple[int, ...]
    base_width: int
    depth: int
    steps: int
    seeds: int
    mup: Sweep
    standard: Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackScore:
    """Region similarity J, boundary accuracy F, and their mean."""

    j: float
    f: float
    j_and_f: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedClip:
    """The scores of one clip."""

    source: str
    j: float
    f: float
    j_and_f: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """`track/results/track.json`."""

    layer: int | str
    clips: tuple[TrackedClip, ...]
    scores: dict[str, TrackScore]
    protocol: dict[str, Any]
    where: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastMeasure:
    """How close frames are to frames, in words."""

    label: str
    unit: str
    higher_is_closer: bool
    decimals: int
    """To be shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastCurve:
    """A measure by how far ahead it is."""

    mean: tuple[float | None, ...]
    """Over clips and futures."""
    deviation: tuple[float, ...] | None = None
    """Over clips; None for one clip."""
    deviation_of_futures: tuple[float, ...] | None = None
    """Among the futures of a clip; None where it has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastVerdict:
    """Whether the forecast beats repeating the last frame, by frames ahead, counted from 1."""

    better: tuple[int, ...]
    worse: tuple[int, ...]
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastClip:
    """One clip, mean over its futures and frames."""

    source: str
    means: dict[str, dict[str, float]]
    """By measure and method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastGroup:
    """Clips that are scored together."""

    clips: int
    videos: int
    """That the clips are from."""
    curves: dict[str, dict[str, ForecastCurve]]
    """By measure and method."""
    verdicts: dict[str, ForecastVerdict]
    """By measure."""
    surprise_nats: dict[str, ForecastCurve]
    """Of the tokens that were drawn ("forecast") and of those that came ("real")."""
    of_clips: tuple[ForecastClip, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ForecastDistance:
    """How far the clips of a method are from the real ones, as a set."""

    name: str
    method: str
    first_frame: int
    last_frame: int
    value: float
    real_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """`generate/results/generate.json`."""

    prompt_frames: int
    frames: int
    futures: int
    window_frames: int
    """That the model sees at once."""
    kept_frames: int
    """Of a full window, what the next one begins with."""
    uniform_nats: float
    """Surprise of a guess that holds every code equally likely."""
    measures: dict[str, ForecastMeasure]
    groups: dict[str, ForecastGroup]
    set_distances: tuple[ForecastDistance, ...] = ()
    tokens_per_s: float | None = None
    temperature: float | None = None
    seed: int | None = None
    sources: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """One line of `stages.jsonl`: what one finished stage took."""

    stage: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: float

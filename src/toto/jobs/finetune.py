"""`toto finetune`: what a pre-trained run gains from labels: as a whole, or by probes alone."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toto.jobs.labelled_splits import SplitNames
from toto.models.attention import Direction
from toto.probe.classifier import HeadConfig
from toto.runtime.checkpoint_commit import Retention
from toto.runtime.devices import distributed, interruptible
from toto.runtime.parallel import Parallel
from toto.tasks.classification import Task
from toto.tasks.ledger import Views
from toto.tasks.published import PUBLISHED
from toto.train.augmentation import AugmentationConfig
from toto.train.health import Health
from toto.train.mixing import MixingConfig
from toto.train.optimizer import AdamWConfig

Protocol = Literal["whole", "stop-gradient", "frozen"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune:
    """Fine-tune a pre-trained run on labelled shards."""

    run_folder: Path
    """Folder of the pre-training run, or of another fine-tuning."""
    shards: str
    """Folder or address with the labelled token sets."""
    splits: SplitNames = field(default_factory=SplitNames)
    """Which of them train, choose and are reported."""
    task: Task
    """The label to learn."""
    protocol: Protocol = "whole"
    """`whole`: the labels train all weights. `stop-gradient`: the backbone goes on with the next
    token, and probes behind every layer learn the labels, whose gradient stops before it; the
    selection split chooses the layer. `frozen`: the same, and the backbone stays as it is."""
    attention: Direction = "bidirectional"
    """Whether a place attends to all others or to those before it. The next token can only be
    learnt `causal`."""
    init: Literal["trained", "untrained"] = "trained"
    """The run's weights, or fresh ones of the same model: what pre-training is worth."""
    head: HeadConfig = field(default_factory=HeadConfig)
    layer: int = 0
    """Which block's stream is read, counted from 1. 0: by a whole model's head the last, by probes
    every one."""
    frames: int = 0
    """Frames that are read of each clip, from a random place in training and from the middle in
    evaluation; 0: all of them, where clips are equally long."""
    views: Views = field(default_factory=Views)
    """Of each test clip, whose probabilities are averaged; one view is reported beside them. 3
    squares must have been cut (`toto tokenize --test-crops 3`)."""
    context: int = 0
    """Longest sequence, in tokens; 0: the run's."""
    rope_base: float = 0.0
    """Of the rotary positions; 0: the run's."""
    epochs: int = 100
    warmup_epochs: int = 5
    batch: int = 1024
    """Clips a step, over all ranks."""
    lr: float = 2e-3
    floor: float = 0.0
    """Last rate as a share of the peak."""
    layer_decay: float = 1.0
    """By what the learning rate falls from each layer to the one below it."""
    head_lr_scale: float = 1.0
    """What multiplies the learning rate of heads."""
    optimizer: AdamWConfig = field(default_factory=AdamWConfig)
    clip_norm: float = 1.0
    """Longest gradient; 0 clips none. Under `stop-gradient` those of the backbone and of each
    probe are clipped apart, or labels would set how far the backbone goes."""
    drop_path: float = 0.0
    """Stochastic depth: how often the last block's branches are left out for a sample; it rises
    linearly from 0 at the first block."""
    label_smoothing: float = 0.0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    published: str = ""
    """Which of the paper's values the score stands beside in the ledger, such as `T7-base`; none
    unless the data are the paper's."""
    log_every: int = 10
    save_every: int = 1000
    evaluate_every: int = 1
    """Epochs from one reading of the selection split to the next."""
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the processor computes it natively."""
    seed: int = 0
    """Of fresh weights, the clips' order, and everything that is drawn."""
    retention: Retention = field(default_factory=Retention)
    health: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "log_every", "save_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("layer", "frames", "context", "rope_base", "clip_norm", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be 0 or more")
        for name in ("label_smoothing", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in 0..1, 1 left out")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay {self.layer_decay} must lie in 0..1, 0 left out")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}"
            )
        if self.protocol == "stop-gradient" and self.attention != "causal":
            raise ValueError(
                "attention 'bidirectional' would show the backbone the token it has to predict; "
                "protocol 'stop-gradient' needs --attention causal"
            )
        if self.protocol == "stop-gradient" and self.layer:
            raise ValueError(
                f"layer {self.layer}: protocol 'stop-gradient' probes all layers and chooses; "
                "leave it 0"
            )
        if self.protocol == "frozen" and self.drop_path:
            raise ValueError(
                f"drop_path {self.drop_path} would change what a frozen backbone says; leave it 0"
            )
        if self.published and self.published not in PUBLISHED:
            raise ValueError(f"published {self.published!r} is none of {', '.join(PUBLISHED)}")
        if self.health.rewind_after:
            raise ValueError(
                f"rewind_after {self.health.rewind_after}: fine-tuning does not go back; leave it 0"
            )

    def run(self, out: Path, parallel: Parallel | None = None) -> dict[str, Any]:
        """Train in `out`, or go on with what is there; a finished run is not done again.

        Under torchrun the ranks share each batch, and rank 0 writes. What it leaves opens again
        with `toto.load`, and as the `run_folder` of `toto probe` and of this verb.

        Args:
            out: the run folder.
            parallel: how the model is spread over the ranks; another at each start if need be.

        Raises:
            ValueError: if run and shards do not belong together, or do not fit what is asked.
            StoppedError: if it was asked to stop; it has saved.
        """
        from toto.jobs.finetuning import Finetuning  # which is made of this config

        with distributed() as ranks, interruptible() as interruption:
            return Finetuning(self, out, ranks, parallel or Parallel()).train(interruption)

"""`toto pretrain`: train the decoder on shards to predict the next token, or the next patch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toto.data.layout import LayoutConfig
from toto.jobs.sequences import objective_of
from toto.jobs.training import parse_branch
from toto.models import DecoderConfig
from toto.runtime.checkpoint_commit import Retention
from toto.runtime.devices import distributed, interruptible
from toto.runtime.parallel import Parallel
from toto.tokenizers.patches import PatchNormalisation
from toto.train.health import Health
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One part of the mixture."""

    name: str
    """Folder of the shard below the shards' folder."""
    weight: float
    """Share of the sequences; the shares need not sum to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """Pre-train a decoder on the next token, or the next patch."""

    shards: str
    """Folder that `toto tokenize` wrote, or the address it was copied to, such as s3://..."""
    model: DecoderConfig
    mixture: tuple[Source, ...]
    held_out: tuple[str, ...] = ()
    """Shards for validation; never trained on. Those that are not there are left out."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    patches: PatchNormalisation = field(default_factory=PatchNormalisation)
    """How pixels are scaled; of no effect where the model reads ids."""
    hop: int = 1
    """Kept frames from the start of one sample of a video to the next: 1 takes a sample at every
    frame, 16 samples that do not overlap. Not in the paper."""
    optimizer: AdamWConfig = field(default_factory=AdamWConfig)
    steps: int = 1_000_000
    batch: int = 256
    """Sequences a step, over all ranks."""
    lr: float = 3e-4
    warmup: int = 2000
    clip_norm: float = 1.0
    """Longest gradient; not in the paper, 1.0 is LLaMA's."""
    log_every: int = 10
    save_every: int = 1000
    validate_every: int = 1000
    precision: str = "auto"
    """`fp32`, `bf16`, or `auto`: bf16 where the processor computes it natively."""
    float8: bool = False
    """Whether the blocks' matrices multiply in FP8, everything else in `precision`. It needs a GPU
    that has it (Hopper and later) and the extra `fp8`, and pays at widths from 2,000 on, compiled.
    Not in the paper."""
    seed: int = 0
    retention: Retention = field(default_factory=Retention)
    branch: str = ""
    """RUN@STEP, another run's checkpoint to begin with: its weights and moments, while steps,
    learning rate and data are this config's from step 0 on. Model and optimizer must have its
    shapes; data, context and schedule may differ. Give another seed to see other samples."""
    health: Health = field(default_factory=Health)

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "hop",
            "log_every",
            "save_every",
            "validate_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not self.mixture:
            raise ValueError("the mixture names no source")
        # Refused here and not at the first step, when the run folder would hold this config.
        self.schedule()
        self.health.require_checkpoints(self.save_every)
        objective_of(self.model, self.patches)
        if self.float8 and self.precision == "fp32":
            raise ValueError("float8 takes its inputs in bf16; leave precision at 'auto' or 'bf16'")
        if self.branch:
            parse_branch(self.branch)

    def schedule(self) -> WarmupCosine:
        """Learning rate of each step.

        Raises:
            ValueError: if the warm-up leaves no step.
        """
        return WarmupCosine(peak=self.lr, warmup=self.warmup, steps=self.steps)

    def run(self, out: Path, parallel: Parallel | None = None) -> dict[str, Any]:
        """Train in `out`, or go on with what is there; a finished run is not done again.

        Under torchrun the ranks share each batch, and rank 0 writes.

        Args:
            out: the run folder.
            parallel: how the model is spread over the ranks; another at each start if need be.

        Raises:
            ValueError: if shards are missing, differ among each other, or do not fit the model.
            StoppedError: if it was asked to stop; it has saved.
        """
        from toto.jobs.pretraining import Pretraining  # which is made of this config

        with distributed() as ranks, interruptible() as interruption:
            return Pretraining(self, out, ranks, parallel or Parallel()).train(interruption)

"""`toto tokenizer train`: train a discrete VAE, a VQ-VAE or a VQGAN on images and clips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.jobs.progress import bar, console
from toto.jobs.tokenizer_measures import measure_tokenizer, side_by_side
from toto.jobs.training import StoppedError, Training
from toto.jobs.training_frames import TrainingFrames
from toto.metrics.tokens import code_counts, perplexity, used_codes
from toto.metrics.video import psnr_db
from toto.report.tokenizer_curve import draw_curve
from toto.runtime.devices import compute, device, interruptible, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tokenizers import DVAEConfig, VQGANConfig, VQVAEConfig, save_tokenizer
from toto.train.average import Average
from toto.train.learner import FrameBatch, Learner
from toto.train.loop import Step, train_steps
from toto.train.optimizer import AdamWConfig
from toto.train.quantisation import QuantisationConfig
from toto.train.relaxation import RelaxationConfig
from toto.train.schedule import WarmupCosine
from toto.video.write import write_png

COLLAPSED = 0.05
"""Perplexity, as a share of what the held-out frames could reach, below which codes collapsed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTraining:
    """Train a tokenizer and measure it on held-out frames."""

    sources: TrainingFrames = field(default_factory=TrainingFrames)
    model: DVAEConfig | VQVAEConfig | VQGANConfig = field(default_factory=DVAEConfig)
    method: RelaxationConfig | QuantisationConfig = field(default_factory=RelaxationConfig)
    """Relaxation trains the discrete VAE, quantisation the two that have a codebook."""
    steps: int = 20_000
    batch: int = 32
    """Frames a step."""
    mirror: bool = False
    """Show half of the batches mirrored."""
    lr: float = 1e-4
    lr_floor: float = 0.0125
    """Last rate as a share of the first; published for the discrete VAE: 1e-4 to 1.25e-6."""
    warmup_share: float = 0.05
    clip_norm: float = 100.0
    """Longest gradient that is not cut. The bound's is long; a squared error's needs about 1."""
    optimizer: AdamWConfig = field(
        default_factory=lambda: AdamWConfig(betas=(0.9, 0.999), weight_decay=1e-4)
    )
    average_decay: float = 0.999
    """Of the moving average of the weights, which is what is measured and saved."""
    half: bool = False
    """Round the weights to fp16 at the end and store them so."""
    measure_every: int = 500
    measure_frames: int = 64
    """Held-out frames, spread evenly, that are measured during the run; at its end all are."""
    save_every: int = 1000
    log_every: int = 10
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "save_every", "log_every", "measure_every", "measure_frames")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay {self.average_decay} must lie in [0, 1)")
        if isinstance(self.model, DVAEConfig) != isinstance(self.method, RelaxationConfig):
            raise ValueError(
                f"{type(self.method).__name__} does not train a {type(self.model).__name__}: "
                "relaxation trains the discrete VAE, quantisation the VQ-VAE and the VQGAN"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Train, save the tokenizer into `out`, and measure it on all held-out frames.

        Raises:
            ValueError: if there is nothing to train on, its squares do not divide into the
                tokenizer's patches, or training diverged.
            StoppedError: if it was asked to stop; it has saved.
        """
        with RunFolder.create(out, self) as folder, interruptible() as interruption:
            if folder.has_result("tokenizer"):
                return folder.result("tokenizer")
            place = device()
            precision = resolve_precision(self.precision, place)
            torch.manual_seed(self.seed)
            model: Any = self.model.build().to(place)
            if self.sources.side_px % model.patch_px:
                raise ValueError(
                    f"squares of {self.sources.side_px} px do not divide into the tokenizer's "
                    f"patches of {model.patch_px} px; choose another --sources.side-px"
                )
            frames, held_out = self.sources.read(np.random.default_rng(self.seed))
            frames = frames.to(place)
            learner: Learner = self.method.build(model, frames, steps=self.steps, seed=self.seed)
            optimizer = self.optimizer.build(model)
            average = Average(model, self.average_decay)
            training = Training(
                folder=folder,
                config=self,
                model=model,
                optimizer=optimizer,
                carried={"learner": learner, "average": average},
            )
            done = training.resume()
            chosen = held_out[_spread(len(held_out), self.measure_frames)].to(place)

            def objective(model: Any, batch: FrameBatch) -> Tensor:
                with compute(precision, place):
                    return learner.objective(model, batch)

            schedule = WarmupCosine(
                peak=self.lr,
                warmup=round(self.warmup_share * self.steps),
                steps=self.steps,
                floor=self.lr_floor,
            )
            steps = train_steps(
                model,
                objective,
                self._batches(frames, done),
                optimizer,
                schedule,
                steps=range(done, self.steps),
                clip_norm=self.clip_norm,
            )
            collapsed = False
            with bar("tokenizer", self.steps, done=done) as progress:
                for step in _until_divergence(steps, done, schedule):
                    average.update(model, step.number)
                    progress.advance(note=f"loss {step.loss.item():.4f}")
                    last = step.number == self.steps
                    measured: dict[str, Any] = {}
                    if step.number > learner.start and (
                        last or step.number % self.measure_every == 0
                    ):
                        measured = self._measures(average.model, learner, chosen, step.number)
                        if measured["collapsed"] and not collapsed:
                            _say_collapse(step.number, measured["perplexity"], model.vocab_size)
                        collapsed = measured["collapsed"]
                    if measured or last or step.number % self.log_every == 0:
                        loss = step.loss.item()
                        folder.log(step=step.number, loss=loss, lr=step.lr, **measured)
                    if interruption.stopped or step.number % self.save_every == 0:
                        training.save(step.number)
                    if interruption.stopped and step.number < self.steps:
                        raise StoppedError(f"stopped at step {step.number}; saved in {out}")
            tokenizer: Any = average.model.cpu()
            if self.half:
                tokenizer = tokenizer.half().float()
            save_tokenizer(tokenizer, out, half=self.half)
            result = measure_tokenizer(tokenizer, held_out)
            logged = folder.metrics()
            result["collapsed_steps"] = [row["step"] for row in logged if row.get("collapsed")]
            write_png(out / "reconstructions.png", side_by_side(tokenizer, held_out))
            draw_curve(logged, out / "training.png", f"{tokenizer.name} on {len(frames):,} frames")
            folder.write_result("tokenizer", result)
            return result

    def _batches(self, frames: UInt8[Tensor, "N H W 3"], first: int) -> Iterator[FrameBatch]:
        """Batches from step `first` on; each is a function of (seed, step) alone."""
        step = first
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            chosen = torch.randint(len(frames), (self.batch,), generator=generator)
            batch = frames[chosen.to(frames.device)]
            if self.mirror and torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(2)
            yield FrameBatch(frames=batch, step=step)
            step += 1

    def _measures(
        self, model: Any, learner: Learner, frames: UInt8[Tensor, "B H W 3"], step: int
    ) -> dict[str, float | bool]:
        """Quality, use of codes and terms of the loss, on held-out frames."""
        ids = model.encode(frames)
        counts = code_counts(ids, model.vocab_size)
        found = perplexity(counts)
        # Codes need a moment to spread: the first tenth of a run is not judged.
        judged = step > self.steps // 10
        return {
            "psnr_db": float(psnr_db(frames, model.decode(ids)).mean()),
            "perplexity": found,
            "used_codes": used_codes(counts),
            "collapsed": judged and is_collapsed(found, model.vocab_size, ids.numel()),
            **learner.measures(model, frames, step),
        }


def is_collapsed(found: float, vocab_size: int, places: int) -> bool:
    """Whether a perplexity is below 5 % of what so many places could show."""
    return found < COLLAPSED * min(vocab_size, places)


def _until_divergence(
    steps: Iterator[Step], done: int, schedule: Callable[[int], float]
) -> Iterator[Step]:
    """Pass steps on; a gradient that is not finite becomes a line that the user can act on."""
    number = done
    try:
        for step in steps:
            number = step.number
            yield step
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        raise ValueError(
            f"training diverged: the gradient of step {number + 1} is not finite, at a learning "
            f"rate of {schedule(number):.3g}; lower --lr and begin again in another --out"
        ) from error


def _say_collapse(step: int, found: float, vocab_size: int) -> None:
    console.print(
        f"the codebook has collapsed: at step {step} its perplexity is {found:.1f} of "
        f"{vocab_size} codes; lower the learning rate"
    )


def _spread(count: int, wanted: int) -> Tensor:
    """Places of at most `wanted` of so many frames, evenly apart."""
    return torch.linspace(0, count - 1, min(count, wanted)).long()

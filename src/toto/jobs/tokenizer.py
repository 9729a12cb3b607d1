"""`toto tokenizer train`: train a discrete VAE on the real frames of a data folder."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.jobs.progress import bar, console
from toto.jobs.training import StoppedError, Training
from toto.metrics.tokens import code_counts, perplexity, used_codes
from toto.metrics.video import psnr_db
from toto.runtime.devices import compute, device, interruptible, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tokenizers import DVAE, DVAEConfig, save_tokenizer
from toto.train.loop import train_steps
from toto.train.objectives import RelaxedFrames, bound_terms, relaxed_bound
from toto.train.optimizer import AdamWConfig
from toto.train.schedule import WarmupCosine, cosine, ramp
from toto.video.collection import Collection, Part
from toto.video.decode import Decoder
from toto.video.write import write_png


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerTraining:
    """Train the discrete VAE by Gumbel-softmax; the schedules are the published ones, scaled."""

    data: Path
    """Folder that `toto ingest` wrote."""
    model: DVAEConfig = field(default_factory=DVAEConfig)
    steps: int = 20_000
    batch: int = 32
    """Frames a step."""
    lr: float = 1e-4
    lr_floor: float = 0.0125
    """Last rate as a share of the first; published 1e-4 to 1.25e-6."""
    optimizer: AdamWConfig = field(
        default_factory=lambda: AdamWConfig(betas=(0.9, 0.999), weight_decay=1e-4)
    )
    temperature_end: float = 1 / 16
    temperature_share: float = 0.125
    """Share of the run over which the temperature falls from 1; published 150,000 of 1,200,000."""
    kl_weight: float = 6.6
    kl_share: float = 0.004
    """Share of the run over which the divergence gains its weight; published 5,000 updates."""
    balance_weight: float = 0.0
    """Weight of the codes' balance; 0 is the published recipe, short runs need some."""
    sharpness: float | None = None
    """Start the codes on patches of the data (`DVAE.place_codes`); None starts at random."""
    clip_frames: int = 3000
    """Frames cut from the real clips."""
    digit_frames: int = 3000
    """Frames taken from moving digits."""
    save_every: int = 1000
    log_every: int = 10
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if max(self.clip_frames, self.digit_frames) < 10:
            raise ValueError(
                f"clip_frames {self.clip_frames} and digit_frames {self.digit_frames}: at least 10 "
                "of one, since a tenth as many are held out"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Train, save the tokenizer into `out`, and measure it on held-out frames.

        Raises:
            ValueError: if the data folder is not one.
            StoppedError: if it was asked to stop; it has saved.
        """
        with RunFolder.create(out, self) as folder, interruptible() as interruption:
            if folder.has_result("tokenizer"):
                return folder.result("tokenizer")
            place = device()
            precision = resolve_precision(self.precision, place)
            collection = Collection(self.data)
            random = np.random.default_rng(self.seed)
            frames = self._frames(collection, "pretrain", random)
            held_out = self._frames(collection, "held-out", random, share=0.1)
            torch.manual_seed(self.seed)
            model = self.model.build()
            if self.sharpness is not None:
                generator = torch.Generator().manual_seed(self.seed)
                sample = frames[torch.randperm(len(frames), generator=generator)[:128]]
                model.place_codes(sample, sharpness=self.sharpness, generator=generator)
            model = model.to(place)
            optimizer = self.optimizer.build(model)
            training = Training(folder=folder, config=self, model=model, optimizer=optimizer)
            done = training.resume()
            folder.rewind(done)
            schedule = WarmupCosine(
                peak=self.lr, warmup=self.steps // 20, steps=self.steps, floor=self.lr_floor
            )

            def objective(model: torch.nn.Module, batch: RelaxedFrames) -> Tensor:
                with compute(precision, place):
                    return relaxed_bound(model, batch)

            batches = self._batches(frames.to(place), done)
            with bar("tokenizer", self.steps, done=done) as progress:
                for step in train_steps(
                    model,
                    objective,
                    batches,
                    optimizer,
                    schedule,
                    steps=range(done, self.steps),
                    clip_norm=100.0,
                ):
                    progress.advance(note=f"loss {step.loss.item():.3f}")
                    if step.number % self.log_every == 0 or step.number == self.steps:
                        self._log(folder, model, step.number, step.loss.item(), step.lr, held_out)
                    if interruption.stopped or step.number % self.save_every == 0:
                        training.save(step.number)
                    if interruption.stopped and step.number < self.steps:
                        raise StoppedError(f"stopped at step {step.number}; saved in {out}")
            model = model.cpu().eval().requires_grad_(False)
            save_tokenizer(model, out)
            result = measure_tokenizer(model, held_out)
            write_png(out / "reconstructions.png", _side_by_side(model, held_out))
            folder.write_result("tokenizer", result)
            _warn_of_collapse(result)
            return result

    def _frames(
        self, collection: Collection, part: Part, random: np.random.Generator, share: float = 1.0
    ) -> UInt8[Tensor, "N H W 3"]:
        """Random crops of real frames, and random frames of moving digits."""
        side_px, chosen = collection.config.side_px, []
        with Decoder() as decoder:
            backgrounds = collection.backgrounds(decoder, part)
            for _ in range(round(share * self.clip_frames)):
                frames = backgrounds[random.integers(len(backgrounds))]
                frame = frames[random.integers(len(frames))]
                top, left = random.integers(frame.shape[0] - side_px + 1, size=2)
                chosen.append(frame[top : top + side_px, left : left + side_px])
            digits = collection.digits(decoder, "pretrain" if part == "pretrain" else "selection")
        wanted = round(share * self.digit_frames)
        # Four frames a clip: neighbours differ little, and making a clip costs a millisecond.
        for index in range(-(-wanted // 4)):
            clip = digits[index].clip.frames
            chosen += list(clip[random.permutation(len(clip))[:4]].numpy())
        return torch.from_numpy(np.stack(chosen))

    def _batches(self, frames: UInt8[Tensor, "N H W 3"], first: int) -> Iterator[RelaxedFrames]:
        """Batches from step `first` on; each is a function of (seed, step) alone."""
        step = first
        while True:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            chosen = torch.randint(len(frames), (self.batch,), generator=generator)
            yield self._relaxed(frames[chosen.to(frames.device)], step)
            step += 1

    def _relaxed(self, frames: UInt8[Tensor, "B H W 3"], step: int) -> RelaxedFrames:
        share = step / self.steps
        return RelaxedFrames(
            frames=frames,
            temperature=cosine(1.0, self.temperature_end, share / self.temperature_share),
            kl_weight=ramp(self.kl_weight, share / self.kl_share),
            balance_weight=self.balance_weight,
            seed=self.seed * 1_000_003 + step,
        )

    @torch.no_grad()
    def _log(
        self,
        folder: RunFolder,
        model: DVAE,
        step: int,
        loss: float,
        lr: float,
        held_out: UInt8[Tensor, "N H W 3"],
    ) -> None:
        """Log the loss of the step, and the terms and the use of codes on held-out frames."""
        place = next(model.parameters()).device
        relaxed = self._relaxed(held_out[:64].to(place), step)
        terms = bound_terms(model, relaxed)
        counts = code_counts(terms.codes, model.vocab_size)
        folder.log(
            step=step,
            loss=loss,
            nll=terms.nll.item(),
            kl=terms.divergence.item(),
            temperature=relaxed.temperature,
            kl_weight=relaxed.kl_weight,
            lr=lr,
            perplexity=perplexity(counts),
            used_codes=used_codes(counts),
        )


def measure_tokenizer(model: DVAE, frames: UInt8[Tensor, "N H W 3"]) -> dict[str, Any]:
    """Reconstruction and use of codes on frames that training has not seen.

    PSNR is the mean over frames, in dB; `psnr_db_mean_colour` is what painting each patch in its
    mean colour would reach, with 24 bits a patch.
    """
    ids = model.encode(frames)
    counts = code_counts(ids, model.vocab_size)
    return {
        "name": model.name,
        "vocab_size": model.vocab_size,
        "patch_px": model.patch_px,
        "psnr_db": float(psnr_db(frames, model.decode(ids)).mean()),
        "psnr_db_mean_colour": float(psnr_db(frames, _mean_colour(frames, model.patch_px)).mean()),
        "perplexity": perplexity(counts),
        "used_codes": used_codes(counts),
        "frames": len(frames),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _mean_colour(frames: UInt8[Tensor, "T H W 3"], patch_px: int) -> UInt8[Tensor, "T H W 3"]:
    pixels = frames.permute(0, 3, 1, 2).float()
    small = torch.nn.functional.avg_pool2d(pixels, patch_px)
    large = torch.nn.functional.interpolate(small, scale_factor=patch_px)
    return large.round().byte().permute(0, 2, 3, 1)


def _side_by_side(model: DVAE, frames: UInt8[Tensor, "N H W 3"], count: int = 12) -> np.ndarray:
    """Real frames on top, their reconstructions below, enlarged to be seen."""
    chosen = frames[torch.linspace(0, len(frames) - 1, count).long()]
    rows = [
        np.concatenate(list(part.numpy()), axis=1)
        for part in (chosen, model.decode(model.encode(chosen)))
    ]
    return np.concatenate(rows).repeat(2, axis=0).repeat(2, axis=1)


def _warn_of_collapse(result: dict[str, Any]) -> None:
    share = result["perplexity"] / result["vocab_size"]
    if share < 0.02:
        console.print(
            f"the codebook has collapsed: perplexity {result['perplexity']:.1f} of "
            f"{result['vocab_size']} codes; lower the learning rate or raise balance_weight"
        )

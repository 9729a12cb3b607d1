"""`toto tokenizer stats`: how one tokenizer uses its codes, and what changes its tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.jobs.measured_frames import MeasuredFrames, MeasuredSource
from toto.jobs.progress import bar
from toto.jobs.token_measures import (
    NOISE_SEED,
    NOISE_SIGMAS,
    STABILITY_FRAMES,
    STILL_FRAMES,
    STILL_IMAGES,
    Counted,
    clip_flips,
    describe,
    draws,
    halves_distance,
    ngram_counts,
    reconstruction,
    require_fit,
    stability,
    stability_cost,
    still_flips,
)
from toto.report.token_plots import draw_comparison, draw_ngrams, draw_stability
from toto.report.token_tables import row_label
from toto.runtime.folder import RunFolder
from toto.tokenizers import SHIPPED, Tokenizer, load_tokenizer

SHOWN = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerStats(MeasuredSource):
    """Count n-grams of tokens, and measure reconstruction, flicker and stability."""

    tokenizer: str = SHIPPED
    """Folder of a tokenizer, or the name of one that comes with the package."""

    def run(self, out: Path) -> dict[str, Any]:
        """Write `results/tokenizer_stats.json`, and the pictures into `out`.

        Raises:
            ValueError: if the tokenizer or the frames cannot be opened or do not fit each other.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        require_fit(tokenizer, self.side_px)
        self.require_files()
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("tokenizer_stats"):
                return folder.result("tokenizer_stats")
            frames, clips = self.read()
            result = self._measure(out, tokenizer, frames, clips)
            label = f"{tokenizer.name}, {tokenizer.vocab_size:,} codes"
            draw_ngrams(out / "ngrams.png", {tokenizer.name: result}, result["frames"])
            draw_stability(out / "stability.png", label, result)
            folder.write_result("tokenizer_stats", result)
            return result

    def _measure(
        self,
        out: Path,
        tokenizer: Tokenizer,
        frames: MeasuredFrames,
        clips: MeasuredFrames | None,
    ) -> dict[str, Any]:
        chosen, others = frames.some(STABILITY_FRAMES), clips is not None and clips is not frames
        still = min(STILL_IMAGES, len(frames.frames))
        total = (
            (1 + draws(tokenizer)) * len(frames.frames)
            + (len(clips.frames) if clips is not None and others else 0)
            + still * STILL_FRAMES * len(NOISE_SIGMAS)
            + stability_cost(tokenizer, len(chosen))
        )
        with bar("measure", total) as progress:
            counted = Counted(tokenizer, progress)
            ids = counted.encode(frames.frames)
            drawn = counted.decode(ids) if draws(tokenizer) else None
            moving, about_clips = None, None
            if clips is not None:
                clip_ids = counted.encode(clips.frames) if others else ids
                moving = clip_flips(clip_ids, clips.lengths)
                about_clips = {**clips.summary(), "tokens": clip_ids.numel()}
            progress.advance(0, note="comparing pictures")
            close = None if drawn is None else reconstruction(frames, drawn)
            halves = halves_distance(frames)
            progress.advance(0, note="counting n-grams")
            ngrams = ngram_counts(ids, tokenizer.vocab_size)
            progress.advance(0, note="still clips")
            flips = {f"{sigma:g}": still_flips(counted, frames, sigma) for sigma in NOISE_SIGMAS}
            progress.advance(0, note="small changes")
            kept = stability(counted, frames.frames[chosen], ids[chosen])
        result = {
            "tokenizer": describe(tokenizer),
            "frames": {**frames.summary(), "tokens": ids.numel()},
            "clips": about_clips,
            "ngrams": ngrams,
            "reconstruction": close,
            "frechet_dct_halves": halves,
            "flips": {
                "still": flips,
                "still_images": still,
                "still_frames": STILL_FRAMES,
                "noise_seed": NOISE_SEED,
                "clips": moving,
            },
            "stability": {"kept": kept, "frames": len(chosen)},
        }
        if drawn is not None:
            shown = frames.some(SHOWN)
            label = row_label(tokenizer.name, result)
            rows = {"original": frames.frames[shown].numpy(), label: drawn[shown].numpy()}
            draw_comparison(out / "reconstructions.png", rows, result["frames"])
        return result

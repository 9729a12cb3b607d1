"""`toto tokenize`: turn a data folder into token shards, one a source and split."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from toto.data.shards import ClipRecord, Description, Shard, ShardWriter, write_shard
from toto.jobs.progress import Bar, bar
from toto.metrics.tokens import perplexity, used_codes
from toto.runtime.devices import Precision
from toto.runtime.folder import RunFolder
from toto.tokenizers import SHIPPED, Tokenizer, load_tokenizer, save_tokenizer
from toto.tokenizers.fused import Encode, fast_encode
from toto.types import TokenGrid
from toto.video.collection import Collection, Part
from toto.video.datasets.moving_digits import MovingDigits, Split
from toto.video.decode import Decoder
from toto.video.transforms import RESIZE_FILTER

SPLITS: tuple[Split, ...] = ("pretrain", "train", "selection", "test")
PARTS: tuple[Part, ...] = ("pretrain", "held-out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenize:
    """Tokenise the real clips and the moving digits of a data folder."""

    data: Path
    """Folder that `toto ingest` wrote."""
    tokenizer: str = SHIPPED
    """Folder of a tokenizer, or the name of one that comes with the package."""
    crops: int = 4
    """Square crops taken of every real video, at random places; each is a clip of its own."""
    keep_frames: bool = False
    """Whether the frames are stored beside the tokens, for models that read patches; at 8 px a
    token they are 96 times as large."""
    precision: Precision = "fp32"
    """In which the tokenizer computes. bf16 is for a dVAE only: twice as fast on a CPU that has it,
    and other codes at near ties; the shards say which it was."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ValueError(f"crops {self.crops} must be at least 1")

    def run(self, out: Path) -> dict[str, Any]:
        """Write the shards into `out`; those that are whole already are kept.

        Raises:
            ValueError: if the data or the tokenizer cannot be opened.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder, Decoder() as decoder:
            if folder.has_result("tokenize"):
                return folder.result("tokenize")
            collection, tokenizer = Collection(self.data), load_tokenizer(self.tokenizer)
            encode = fast_encode(tokenizer, self.precision)
            save_tokenizer(tokenizer, out / "tokenizer")
            side_px = collection.config.side_px
            if side_px % tokenizer.patch_px:
                raise ValueError(
                    f"clips of {side_px} px do not divide into the tokenizer's patches of "
                    f"{tokenizer.patch_px} px; ingest with another --collection.side-px"
                )
            side = side_px // tokenizer.patch_px
            description = Description(
                tokenizer=tokenizer.name,
                tokenizer_digest=tokenizer.digest(),
                vocab_size=tokenizer.vocab_size,
                patch_px=tokenizer.patch_px,
                grid=(side, side),
                kind="video",
                precision=self.precision,
                resize_filter=RESIZE_FILTER,
                decoder=f"PyAV {av.__version__}",
            )
            counts = collection.config.digit_clips
            wanted: dict[Split, int] = {split: getattr(counts, split) for split in SPLITS}
            total = self.crops * len(collection.videos) + sum(wanted.values())
            with bar("tokenize", total) as progress:
                self._real(out / "clips", collection, encode, description, decoder, progress)
                for split, count in wanted.items():
                    shard = out / "moving-digits" / split
                    if count and not shard.exists():
                        digits = collection.digits(decoder, split)
                        clips = self._digit_clips(
                            digits, count, encode, description.vocab_size, progress
                        )
                        write_shard(shard, description, clips)
                    elif count:
                        progress.advance(count)
            result = summarise(out, tokenizer)
            folder.write_result("tokenize", result)
            return result

    def _real(
        self,
        out: Path,
        collection: Collection,
        encode: Encode,
        description: Description,
        decoder: Decoder,
        progress: Bar,
    ) -> None:
        """Tokenise each real video at several crops, once; share the frames out to the parts."""
        missing: list[Part] = [part for part in PARTS if not (out / part).exists()]
        if not missing:
            progress.advance(self.crops * len(collection.videos))
            return
        with ExitStack() as stack:
            writers: dict[Part, ShardWriter] = {
                part: stack.enter_context(ShardWriter(out / part, description)) for part in missing
            }
            for number, row in enumerate(collection.videos):
                collection.require_unchanged(row)
                random = np.random.default_rng([self.seed, number])
                for crop in range(self.crops):
                    # The first crop is the middle: held-out forecasts show the whole scene.
                    x, y = (0.5, 0.5) if crop == 0 else random.random(2).tolist()
                    decoded = decoder.read(
                        collection.path(row),
                        stride=collection.config.stride,
                        side_px=collection.config.side_px,
                        crop_x=x,
                        crop_y=y,
                    )
                    frames = torch.from_numpy(decoded.frames)
                    ids = encode(frames)
                    for part, writer in writers.items():
                        span = collection.part(len(ids), part)
                        if span.start == span.stop or (part == "held-out" and crop > 0):
                            continue
                        record = ClipRecord(
                            source=row.path,
                            source_sha256=row.sha256,
                            frame_indices=tuple(decoded.indices[span].tolist()),
                            times_s=tuple(decoded.times_s[span].tolist()),
                            side_px=collection.config.side_px,
                            crop=(x, y),
                        )
                        grid = TokenGrid(ids=ids[span], vocab_size=description.vocab_size)
                        writer.add(grid, record, frames[span] if self.keep_frames else None)
                    progress.advance()
            for writer in writers.values():
                if writer.clips:
                    writer.commit()

    def _digit_clips(
        self,
        digits: MovingDigits,
        count: int,
        encode: Encode,
        vocab_size: int,
        progress: Bar,
        batch: int = 16,
    ) -> Iterator[tuple[TokenGrid, ClipRecord, Tensor | None]]:
        """Make, tokenise and label the clips of a split; with their frames, if they are kept."""
        for first in range(0, count, batch):
            made = [digits[index] for index in range(first, min(first + batch, count))]
            encoded = encode(torch.cat([digit.clip.frames for digit in made]))
            for digit, ids in zip(made, encoded.split(digits.config.frames), strict=True):
                record = ClipRecord(
                    source=digit.clip.source,
                    source_sha256=None,
                    frame_indices=tuple(range(len(ids))),
                    times_s=tuple(digit.clip.times_s.tolist()),
                    side_px=digits.config.side_px,
                    crop=(0.5, 0.5),
                    labels={"digit": digit.digit, "motion": digit.motion},
                )
                grid = TokenGrid(ids=ids, vocab_size=vocab_size)
                yield grid, record, digit.clip.frames if self.keep_frames else None
            progress.advance(len(made))


def summarise(out: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Count tokens and codes of all shards below `out`."""
    shards = {
        path.parent.relative_to(out).as_posix(): Shard(path.parent)
        for path in sorted(out.glob("*/*/tokens.json"))
    }
    total, sources = torch.zeros(tokenizer.vocab_size, dtype=torch.int64), []
    for name, shard in shards.items():
        counts = torch.from_numpy(shard.histogram())
        total += counts
        sources.append(
            {
                "name": name,
                "clips": len(shard.clips),
                "frames": int(shard.lengths.sum()),
                "tokens": int(counts.sum()),
                "used_codes": used_codes(counts),
                "perplexity": perplexity(counts),
            }
        )
    grid = next(iter(shards.values())).description.grid
    return {
        "vocab_size": tokenizer.vocab_size,
        "grid": list(grid),
        "sources": sources,
        "histogram": total.tolist(),
    }

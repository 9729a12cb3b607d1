"""`toto tokenize`: turn ingested data folders into certified token shards.

The plan is a pure function of manifests and config, each shard is made by one worker and counts
once its receipt is on disk. So the same input gives the same bytes, whatever the number of workers
and however often it was killed.
"""

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import torch

from toto.data.records import Description
from toto.data.shards import sweep
from toto.data.token_set import TokenSet, write_index
from toto.jobs.ingest import Workers
from toto.jobs.progress import bar
from toto.jobs.shard_tasks import ShardTask, plan_shards
from toto.jobs.shard_work import DecodeShards, EncodeShards, Receipt, read_receipt
from toto.jobs.stages import Died, compose
from toto.jobs.workers import over_processes
from toto.metrics.tokens import perplexity, used_codes
from toto.runtime.devices import Precision, device
from toto.runtime.folder import RunFolder
from toto.tasks.views import crop_shares
from toto.tokenizers import SHIPPED, Tokenizer, load_tokenizer, save_tokenizer
from toto.video.block_list import BlockList
from toto.video.collection import MANIFEST, TRAINING_SPLITS, Collection
from toto.video.manifest import Row, write_manifest
from toto.video.transforms import RESIZE_FILTER


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeWorkers(Workers):
    """How the work is shared out; nothing that is written depends on it."""

    ray: str | None = None
    """`local`, or the address of a Ray cluster whose machines all see the data and `--out`; needs
    the extra `scale`. Actors then decode on CPUs and encode beside them, or on GPUs."""
    decoders: int = 0
    """Actors that decode, with Ray; 0 takes one for each CPU that is left."""
    gpus_per_encoder: float = 0.0
    """Of each encoding actor, with Ray; 0 encodes on CPUs."""
    encoders: int = 0
    """Actors that encode, with Ray; 0 takes one a GPU, or one a core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenize:
    """Tokenise the clips of one or more data folders, real and made."""

    data: tuple[Path, ...]
    """Folders that `toto ingest` wrote."""
    tokenizer: str = SHIPPED
    """Folder of a tokenizer, or the name of one that comes with the package."""
    crops: int = 1
    """Random squares taken of every clip of a training split, each a sample of its own."""
    test_crops: int = 1
    """Squares of every clip of other splits: 1, the middle, or 3, the middle and both ends of the
    longer side, for evaluation by as many views."""
    stride: int | None = None
    """Every how many-th frame of a video is kept; None takes what it was ingested with, 4 in the
    paper."""
    side_px: int | None = None
    """Side of the squares; None takes what the data was ingested with, 128 in the paper."""
    block: tuple[Path, ...] = ()
    """Block lists, written by `toto data block`; copies of what they hold are left out of the
    training splits."""
    keep_frames: bool = False
    """Whether the frames are stored beside the tokens, for models that read patches; at 8 px a
    token they are 96 times as large."""
    precision: Precision = "fp32"
    """In which the tokenizer computes. bf16 is for a dVAE only: twice as fast on a CPU that has it,
    and other codes at near ties; the shards say which it was."""
    shard_frames: int = 8192
    """Frames of a shard, and so the work that a killed worker repeats at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("crops", "shard_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        for name in ("stride", "side_px"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        crop_shares(self.test_crops)
        if not self.data:
            raise ValueError("no data: give --data with folders that `toto ingest` wrote")

    def run(self, out: Path, workers: TokenizeWorkers | None = None) -> dict[str, Any]:
        """Write the shards into `out`; those that are whole already are kept.

        Args:
            out: a folder that every worker sees.
            workers: how the work is shared out.

        Raises:
            ValueError: if the data or the tokenizer cannot be opened, or no clip is left.
            DiskFullError: if a shard does not fit; the same command goes on once there is room.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("tokenize"):
                return folder.result("tokenize")
            return _Run(self, out, workers or TokenizeWorkers()).tokenize(folder)


class _Run:
    """One run of a tokenise job, over its folder."""

    def __init__(self, job: Tokenize, out: Path, workers: TokenizeWorkers) -> None:
        self.job, self.out, self.workers = job, out, workers
        # Full paths: workers may run from another folder.
        self.folders = [folder.resolve() for folder in job.data]
        self.collections = [Collection(folder) for folder in self.folders]
        self.tokenizer = load_tokenizer(job.tokenizer)
        self.blocked = self._blocked()
        self.tasks = plan_shards(
            self.collections,
            self.blocked,
            crops=job.crops,
            test_crops=job.test_crops,
            stride=job.stride,
            side_px=job.side_px,
            # Frames are hundreds of times as large as their tokens.
            shard_frames=max(1, job.shard_frames // (16 if job.keep_frames else 1)),
            seed=job.seed,
        )
        if not self.tasks:
            raise ValueError(f"{self.folders[0]}: no clip is left to tokenise")
        self.description = self._description()

    def tokenize(self, folder: RunFolder) -> dict[str, Any]:
        save_tokenizer(self.tokenizer, self.out / "tokenizer")
        sweep(self.out)
        receipts = {task.name: read_receipt(self.out, task) for task in self.tasks}
        todo = [task for task in self.tasks if receipts[task.name] is None]
        clips = {task.name: _clips(task) for task in self.tasks}
        done = sum(clips[name] for name, receipt in receipts.items() if receipt)
        began, tokens, length_s, lost = time.perf_counter(), 0, 0.0, len(self.blocked)
        with (
            bar("tokenize", sum(clips.values()), done=done) as progress,
            closing(self._outcomes(todo)) as outcomes,
        ):
            for number, receipt in outcomes:
                task = todo[number]
                if isinstance(receipt, Died):
                    raise RuntimeError(
                        f"a worker died twice over shard {task.name}: {receipt.reason}; the "
                        "same command tries again, the others are kept"
                    )
                receipts[task.name] = receipt
                tokens += receipt.tokens
                length_s += receipt.duration_s
                lost += len(receipt.lost)
                speed = tokens / (time.perf_counter() - began)
                note = f"{length_s / 3600:.2f} h  {speed:,.0f} tokens/s"
                progress.advance(clips[task.name], f"{note}  {lost} lost" if lost else note)
        finished = {name: receipt for name, receipt in receipts.items() if receipt}
        whole = {task.source for task in self.tasks if finished[task.name].clips}
        for source in sorted(whole):
            write_index(self.out / source)
        rows = list(self._rows(finished))
        write_manifest(self.out / MANIFEST, rows)
        result = summarise(self.out, self.tokenizer)
        result["losses"] = _losses(rows)
        folder.write_result("tokenize", result)
        return result

    def _outcomes(
        self, todo: Sequence[ShardTask]
    ) -> Generator[tuple[int, Receipt | Died], None, None]:
        decode = DecodeShards(data=tuple(map(str, self.folders)))
        encode = EncodeShards(
            out=str(self.out.resolve()),
            tokenizer=str((self.out / "tokenizer").resolve()),
            description=self.description,
            keep_frames=self.job.keep_frames,
            precision=self.job.precision,
        )
        if self.workers.ray is not None:
            from toto.jobs.ray_workers import over_ray

            yield from over_ray(
                decode,
                encode,
                todo,
                address=self.workers.ray,
                decoders=self.workers.decoders or None,
                encoders=self.workers.encoders or None,
                gpus_per_encoder=self.workers.gpus_per_encoder,
            )
            return
        count = min(self.workers.count, max(1, len(todo)))
        yield from over_processes(compose(decode, encode), todo, workers=count)

    def _blocked(self) -> dict[tuple[int, int], str]:
        """Clips that a block list holds a copy of, by folder and row, with the reason."""
        found: dict[tuple[int, int], str] = {}
        for path in self.job.block:
            block_list = BlockList.open(path)
            for data, collection in enumerate(self.collections):
                for number, row in enumerate(collection.rows):
                    # An evaluation clip is a copy of itself, and may be tokenised as one.
                    if row.status != "ok" or row.split not in TRAINING_SPLITS:
                        continue
                    reason = block_list.match(row)
                    if reason is not None:
                        found.setdefault((data, number), reason)
        return found

    def _description(self) -> Description:
        sides = {task.side_px for task in self.tasks}
        side_px = sides.pop()
        if sides:
            raise ValueError(
                f"the data folders were ingested for squares of {side_px} and {sides.pop()} px; "
                "choose one with --side-px"
            )
        if side_px % self.tokenizer.patch_px:
            raise ValueError(
                f"clips of {side_px} px do not divide into the tokenizer's patches of "
                f"{self.tokenizer.patch_px} px; choose another --side-px"
            )
        side = side_px // self.tokenizer.patch_px
        return Description(
            tokenizer=self.tokenizer.name,
            tokenizer_digest=self.tokenizer.digest(),
            vocab_size=self.tokenizer.vocab_size,
            patch_px=self.tokenizer.patch_px,
            grid=(side, side),
            kind="video",
            precision=self.job.precision,
            device=device().type,
            resize_filter=RESIZE_FILTER,
            decoder=f"PyAV {av.__version__}",
        )

    def _rows(self, receipts: dict[str, Receipt]) -> Iterator[Row]:
        """One row for each that ingest wrote, with what became of it since."""
        lost: dict[tuple[int, str], tuple[str, str]] = {}
        for task in self.tasks:
            for clip, stage, reason in receipts[task.name].lost:
                lost[task.data, clip] = (stage, reason)
        for data, collection in enumerate(self.collections):
            for number, row in enumerate(collection.rows):
                if (data, number) in self.blocked:
                    reason = self.blocked[data, number]
                    yield replace(row, status="blocked", stage="guard", reason=reason)
                elif row.status == "ok" and (data, row.clip) in lost:
                    stage, reason = lost[data, row.clip]
                    yield replace(row, status="quarantined", stage=stage, reason=reason)
                else:
                    yield row


def summarise(out: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Count tokens and codes of all token sets below `out`."""
    sets = {
        path.parent.relative_to(out).as_posix(): TokenSet(path.parent)
        for path in sorted(out.glob("*/*/index.json"))
    }
    if not sets:
        raise ValueError(f"{out}: every clip was lost; manifest.parquet says why")
    total, sources = torch.zeros(tokenizer.vocab_size, dtype=torch.int64), []
    for name, tokens in sets.items():
        counts = torch.from_numpy(tokens.histogram())
        total = total + counts
        sources.append(
            {
                "name": name,
                "clips": len(tokens.lengths),
                "frames": int(tokens.lengths.sum()),
                "tokens": int(counts.sum()),
                "used_codes": used_codes(counts),
                "perplexity": perplexity(counts),
            }
        )
    grid = next(iter(sets.values())).description.grid
    return {
        "vocab_size": tokenizer.vocab_size,
        "grid": list(grid),
        "sources": sources,
        "histogram": total.tolist(),
    }


def _clips(task: ShardTask) -> int:
    return len(task.clips) if task.digits is None else task.digits.end - task.digits.first


def _losses(rows: Sequence[Row]) -> dict[str, int]:
    lost = [row for row in rows if row.status != "ok"]
    return dict(sorted(Counter(f"{row.status} ({row.stage})" for row in lost).items()))

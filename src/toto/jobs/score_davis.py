"""`toto score davis`: J and F of masks that any method wrote in the official layout.

The numbers are those of the benchmark's own code. What that code does not notice, or ends on
without a word, is an error here: a missing, extra or wrong-sized frame, a missing sequence, an id
that no object has, the truth scored against itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from toto.jobs.progress import bar
from toto.metrics.segmentation import VOID, SequenceScore, decay, objects_of, recall, score_sequence
from toto.video.datasets.davis import Davis
from toto.video.decode import Decoder
from toto.video.masks import mask_files, read_mask, sequences_below


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDavis:
    """Score masks against the annotated ones, as DAVIS's semi-supervised evaluation does.

    A folder of masks has a folder for each sequence, with a palette or grey PNG for each frame.
    Frames 1 to T-2 are scored: the first is given and the last left out. Truth of DAVIS-2016, 0 and
    255, is read as one object.
    """

    gt: Path
    """The annotated masks: their folder, or the root of DAVIS with its `Annotations`."""
    pred: Path
    """The masks to score."""
    merge_objects: bool = False
    """Whether all objects of a sequence count as one, in both: DAVIS-2016's task."""
    sequences: tuple[str, ...] = ()
    """Those to score; by default all of the truth, which then must be all of `pred` too."""
    year: int = 2017
    """Whose list names the sequences, where `gt` is a root that has lists."""
    split: str = "val"
    """Which list."""
    resolution: str = "480p"
    """Folder below `Annotations`."""
    json: bool = False
    """Print one line of JSON, not a table."""

    def run(self) -> dict[str, Any]:
        """Score every sequence.

        Raises:
            ValueError: if masks are missing, too many, of another size, no masks, or hold an id
                that no object has; the message names the sequence and the frame.
        """
        truth, names = self._truth()
        if self.pred.is_dir() and self.pred.resolve() == truth.resolve():
            raise ValueError(f"--pred {self.pred} is the truth itself; give a method's masks")
        there = sequences_below(self.pred)
        if missing := sorted(set(names) - set(there)):
            raise ValueError(f"{self.pred} has no sequence {missing[0]}; all {len(names)} count")
        if not self.sequences and (extra := sorted(set(there) - set(names))):
            raise ValueError(
                f"{self.pred} has a sequence {extra[0]} that {truth} has not; "
                "name those to score with --sequences"
            )
        scores: dict[str, SequenceScore] = {}
        with Decoder() as decoder, bar("score", len(names)) as progress:
            for name in names:
                scores[name] = score_folder(
                    decoder, truth / name, self.pred / name, merge_objects=self.merge_objects
                )
                progress.advance(note=name)
        return {"merged": self.merge_objects, **summary(scores)}

    def _truth(self) -> tuple[Path, list[str]]:
        """Find the folder of the annotated masks, and which sequences are scored."""
        folder = self.gt / "Annotations" / self.resolution
        if not folder.is_dir():
            folder, found = self.gt, sequences_below(self.gt)
        elif (self.gt / "ImageSets").is_dir():
            listed = Davis(root=self.gt, year=self.year, resolution=self.resolution).entries()
            found = [entry.clip for entry in listed if entry.split == self.split]
            if not found:
                raise ValueError(f"{self.gt} lists no sequence of {self.year}'s {self.split}")
        else:
            found = sequences_below(folder)
        if unknown := sorted(set(self.sequences) - set(found)):
            raise ValueError(f"{folder} has no sequence {unknown[0]}; it has {', '.join(found)}")
        return folder, sorted(self.sequences or found)


def score_folder(
    decoder: Decoder, truth: Path, predicted: Path, *, merge_objects: bool = False
) -> SequenceScore:
    """Score one sequence: a folder of masks against a folder of masks.

    Raises:
        ValueError: if a mask is missing, too many, broken or of another size, or holds an id that
            no object has.
    """
    wanted, given = mask_files(truth), mask_files(predicted)
    if missing := [name for name in wanted if name not in given]:
        raise ValueError(
            f"{predicted} has no {missing[0]}.png, one of {len(missing)} that are missing; every "
            f"frame of {truth} needs a mask"
        )
    if extra := [name for name in given if name not in wanted]:
        raise ValueError(f"{predicted} has {extra[0]}.png, a frame that {truth} has not; remove it")
    true_ids = _stack(decoder, wanted.values(), None)
    found_ids = _stack(decoder, given.values(), true_ids.shape[1:])
    one_object = set(np.unique(true_ids).tolist()) <= {0, VOID}  # DAVIS-2016
    if one_object:
        true_ids = (true_ids == VOID).astype(np.uint8)
        found_ids = np.where(found_ids == VOID, 1, found_ids).astype(np.uint8)
    if merge_objects:
        true_ids = ((true_ids > 0) & (true_ids != VOID)).astype(np.uint8)
        found_ids = (found_ids > 0).astype(np.uint8)
    objects = objects_of(true_ids[0])
    if not objects:
        raise ValueError(f"{truth}: the first mask has no object to score")
    inner = found_ids[1:-1]
    if inner.size and inner.max() > len(objects):
        frame, highest = int(np.argmax(inner.max(axis=(1, 2)) > len(objects))), len(objects)
        raise ValueError(
            f"{predicted}/{[*given][1 + frame]}.png has id {inner[frame].max()}, the truth's first "
            f"mask ids up to {highest}"
            + ("; --merge-objects scores them as one" if highest == 1 else "")
        )
    try:
        return score_sequence(found_ids, true_ids, objects)
    except ValueError as error:
        raise ValueError(f"{truth}: {error}") from error


def summary(scores: dict[str, SequenceScore]) -> dict[str, Any]:
    """Put scores into the words of the official tables; means are over objects, not sequences.

    Returns:
        Numbers in [0, 1], decays in [-1, 1]: of all, and of each sequence with its objects.
    """
    of_frames = {
        "j": [score.j_of_frames for score in scores.values()],
        "f": [score.f_of_frames for score in scores.values()],
    }
    whole: dict[str, float] = {}
    for letter, arrays in of_frames.items():
        whole[f"{letter}_mean"] = _mean(array.mean(axis=1) for array in arrays)
        whole[f"{letter}_recall"] = _mean(recall(array) for array in arrays)
        whole[f"{letter}_decay"] = _mean(decay(array) for array in arrays)
    return {
        "j_and_f_mean": (whole["j_mean"] + whole["f_mean"]) / 2,
        **whole,
        "objects": sum(len(score.objects) for score in scores.values()),
        "sequences": {
            name: {
                "j": float(score.j.mean()),
                "f": float(score.f.mean()),
                "j_and_f": float(score.j_and_f.mean()),
                "scored_frames": score.j_of_frames.shape[1],
                "objects": {
                    str(one): {
                        "j": float(score.j[place]),
                        "f": float(score.f[place]),
                        "j_recall": float(recall(score.j_of_frames)[place]),
                        "j_decay": float(decay(score.j_of_frames)[place]),
                        "f_recall": float(recall(score.f_of_frames)[place]),
                        "f_decay": float(decay(score.f_of_frames)[place]),
                    }
                    for place, one in enumerate(score.objects)
                },
            }
            for name, score in scores.items()
        },
    }


def score_table(result: dict[str, Any]) -> str:
    """Lay a summary out for people: percent, one line a sequence, all of them last."""
    rows = [
        (name, *(100 * row[key] for key in ("j", "f", "j_and_f")))
        for name, row in result["sequences"].items()
    ]
    rows.append(("all objects", *(100 * result[f"{key}_mean"] for key in ("j", "f", "j_and_f"))))
    width = max(len(name) for name, *_ in rows) + 2
    lines = [f"{'%':<{width}}{'J':>7}{'F':>7}{'J&F':>7}"]
    lines += [f"{name:<{width}}{j:7.2f}{f:7.2f}{both:7.2f}" for name, j, f, both in rows]
    shares = [f"{key[0].upper()} {key[2:]}" for key in _SHARES]
    lines.append(
        ", ".join(
            f"{words} {100 * result[key]:.2f}" for words, key in zip(shares, _SHARES, strict=True)
        )
    )
    return "\n".join(lines)


_SHARES = ("j_recall", "j_decay", "f_recall", "f_decay")


def _stack(
    decoder: Decoder, files: Iterable[Path], size: tuple[int, ...] | None
) -> UInt8[np.ndarray, "T H W"]:
    """Read masks of one size.

    Raises:
        ValueError: if one is of another; the message names it.
    """
    masks: list[np.ndarray] = []
    for path in files:
        mask = read_mask(decoder, path)
        size = size or mask.shape
        if mask.shape != size:
            raise ValueError(
                f"{path} has {mask.shape[1]}x{mask.shape[0]} px, not {size[1]}x{size[0]}; "
                "masks are scored at the size of the truth"
            )
        masks.append(mask)
    return np.stack(masks)


def _mean(of_objects: Iterable[np.ndarray]) -> float:
    return float(np.concatenate([*of_objects]).mean())

"""`toto track`: follow digits through held-out clips by label propagation, and score it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from toto.config import to_dict
from toto.jobs.progress import bar
from toto.jobs.score_files import write_score
from toto.metrics.segmentation import score_sequence
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.propagate import Propagation
from toto.probe.protocols import PROTOCOLS
from toto.runtime.devices import device
from toto.runtime.folder import RunFolder
from toto.tasks.answers import Measured
from toto.tasks.ledger import Model, Protocol, Selection, Split
from toto.tasks.overlay import compared, film
from toto.tasks.tracking import MaskedClip, Tracking, copy_first_mask, track_clip
from toto.tokenizers.base import digest_of
from toto.types import Clip
from toto.video.collection import Collection
from toto.video.datasets.moving_digits import MovingDigits
from toto.video.decode import Decoder
from toto.video.write import write_mp4, write_png


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """Track moving digits with a model's features, from the first frame's mask alone."""

    run_folder: Path
    """Folder of the pre-training run."""
    data: Path
    """Folder that `toto ingest` wrote."""
    protocol: str = "demo"
    """Name of a propagation protocol; `toto list` shows them."""
    selection_clips: int = 12
    """Clips that choose the layer."""
    test_clips: int = 24
    """Other clips, of other digits, that are scored."""

    def __post_init__(self) -> None:
        if self.selection_clips < 1 or self.test_clips < 1:
            raise ValueError(
                f"selection_clips {self.selection_clips} and test_clips {self.test_clips} "
                "must be at least 1"
            )
        if self.protocol not in PROTOCOLS:
            raise ValueError(
                f"protocol {self.protocol!r} is unknown; there are: {', '.join(sorted(PROTOCOLS))}"
            )

    def run(self, out: Path) -> dict[str, Any]:
        """Choose a layer, track, score; write masks over frames as a picture and a video.

        Raises:
            ValueError: if the run or the data folder cannot be opened.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("track"):
                return folder.result("track")
            protocol = PROTOCOLS[self.protocol].propagation
            backbone = open_backbone(self.run_folder)
            backbone.model.to(device())
            collection = Collection(self.data)
            with Decoder() as decoder:
                selection = _masked(collection.digits(decoder, "selection"), self.selection_clips)
                test = _masked(collection.digits(decoder, "test"), self.test_clips)
            fresh = backbone.untrained(0)
            layers = range(backbone.depth + 1)
            with bar("track", 2 * len(layers) + 3) as progress:
                chosen: dict[str, int] = {}
                for kind, source in (("trained", backbone), ("untrained", fresh)):
                    by_layer = []
                    for layer in layers:
                        scores = Tracking(clips=selection, propagation=protocol).evaluate(
                            _layer(source, layer)
                        )
                        by_layer.append(dict(scores)["j_and_f"])
                        progress.advance(note=f"{kind}, layer {layer}")
                    chosen[kind] = int(np.argmax(by_layer))
                followed = {
                    "trained": _follow(_layer(backbone, chosen["trained"]), test, protocol),
                    "untrained": _follow(_layer(fresh, chosen["untrained"]), test, protocol),
                    "first mask kept": [
                        copy_first_mask(clip.masks[0], len(clip.masks)) for clip in test
                    ],
                }
                progress.advance(3)
            clips = {kind: _scores(found, test) for kind, found in followed.items()}
            models = {
                "trained": _model(f"{self.run_folder}", backbone.digest(), trained=True),
                "untrained": _model(
                    f"fresh, seed 0, in the sizes of {self.run_folder}", fresh.digest()
                ),
                "first mask kept": _model(
                    "none: the first mask stays", digest_of("first mask", {})
                ),
            }
            chose, reported = _split("selection", selection), _split("test", test)
            for kind, rows in clips.items():
                picked = None
                if kind in chosen:
                    picked = Selection.on(
                        chose,
                        _sources(selection),
                        reported=_sources(test),
                        among={"layers": len(layers)},
                        chosen=[f"layer {chosen[kind]}"],
                    )
                self._enter(folder, kind, rows, models[kind], reported, picked)
            result = {
                "where": "moving digits",
                "protocol": {"name": self.protocol, **to_dict(protocol)},
                "layer": chosen["trained"],
                "layer_untrained": chosen["untrained"],
                "selection_clips": len(selection),
                "clips": clips["trained"],
                "scores": {
                    kind: {
                        name: float(np.mean([row[name] for row in rows]))
                        for name in ("j", "f", "j_and_f")
                    }
                    for kind, rows in clips.items()
                },
            }
            names = [clip.clip.source.replace("/", "-") for clip in test]
            masks: dict[str, Any] = dict(zip(names, followed["trained"], strict=True))
            np.savez_compressed(out / "masks.npz", **masks)
            words = f"layer {chosen['trained']} of the run, under {self.protocol}"
            self._show(out, test, followed["trained"], clips["trained"], words)
            folder.write_result("track", result)
            return result

    def _enter(
        self,
        folder: RunFolder,
        kind: str,
        rows: list[dict[str, Any]],
        model: Model,
        reported: Split,
        selection: Selection | None,
    ) -> None:
        """Write a method's scores into the ledger, with those of every clip."""
        ids = [row["source"] for row in rows]
        for metric in ("j", "f", "j_and_f"):
            write_score(
                folder,
                f"{self.protocol}-{kind.replace(' ', '-')}-{metric}",
                Measured.gathered(ids, [[(row["source"], row[metric]) for row in rows]]),
                metric=metric,
                protocol=Protocol.of(self.protocol, PROTOCOLS[self.protocol]),
                model=model,
                reported=reported,
                seeds=(0,),
                selection=selection,
            )

    def _show(
        self,
        out: Path,
        test: list[MaskedClip],
        followed: list[np.ndarray],
        rows: list[dict[str, Any]],
        words: str,
    ) -> None:
        """Draw the clips of middling score: neither the best nor the worst."""
        order = np.argsort([row["j_and_f"] for row in rows])
        middle = order[len(order) // 2]
        pictures = []
        for index in (middle, order[len(order) // 4]):
            frames = test[index].clip.frames.numpy()
            said = f"{words}: clip {index}, J&F {100 * rows[index]['j_and_f']:.1f} %"
            pictures.append(
                compared(frames, followed[index], test[index].masks, said, len(frames), scale=2)
            )
        write_png(out / "overlay.png", np.concatenate(pictures))
        frames = test[middle].clip.frames.numpy()
        write_mp4(out / "overlay.mp4", film(frames, followed[middle], words, scale=4), fps=6)


def _model(name: str, digest: str, *, trained: bool = False) -> Model:
    return Model(name=name, weights_sha256=(digest,), trained=trained)


def _sources(clips: Sequence[MaskedClip]) -> list[str]:
    return [one.clip.source for one in clips]


def _split(name: str, clips: Sequence[MaskedClip]) -> Split:
    """Describe clips by their frames and masks."""
    whole = hashlib.sha256()
    for one in clips:
        for part in (one.clip.frames.numpy(), one.masks):
            whole.update(f"{one.clip.source} {part.shape}\n".encode())
            whole.update(np.ascontiguousarray(part).tobytes())
    return Split.of(f"moving digits, {name}", whole.hexdigest(), _sources(clips))


def _masked(digits: MovingDigits, count: int) -> list[MaskedClip]:
    """The first clips of a split whose digit is seen well in the first frame and never hidden."""
    found: list[MaskedClip] = []
    index = 0
    while len(found) < count:
        made = digits[index]
        index += 1
        if made.masks[0].sum() >= 30 and not made.hidden.any():
            found.append(MaskedClip(clip=made.clip, masks=made.masks))
    return found


def _layer(backbone: Backbone, layer: int) -> Callable[[Clip], Tensor]:
    def features(clip: Clip) -> Tensor:
        return backbone.features(clip.frames, [layer])[layer].float().cpu()

    return features


def _follow(
    features: Callable[[Clip], Tensor], clips: list[MaskedClip], protocol: Propagation
) -> list[np.ndarray]:
    return [
        track_clip(features(clip.clip), clip.masks[0], clip.objects, protocol, clip.masks.shape[1:])
        for clip in clips
    ]


def _scores(followed: list[np.ndarray], clips: list[MaskedClip]) -> list[dict[str, Any]]:
    rows = []
    for ids, clip in zip(followed, clips, strict=True):
        score = score_sequence(ids, clip.masks, clip.objects)
        rows.append(
            {
                "source": clip.clip.source,
                "j": float(score.j.mean()),
                "f": float(score.f.mean()),
                "j_and_f": float(np.mean(score.j_and_f)),
            }
        )
    return rows

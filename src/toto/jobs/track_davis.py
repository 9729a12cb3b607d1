"""`toto track --davis ROOT`: follow the objects of DAVIS from their first masks, and score it."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toto.config import to_dict
from toto.jobs.davis_features import TRAINED, WITH_LAYERS, Features, Source, open_sources
from toto.jobs.progress import Bar, bar
from toto.jobs.score_davis import score_folder, summary
from toto.jobs.score_files import write_score
from toto.metrics.segmentation import VOID, SequenceScore, objects_of
from toto.probe.protocols import PROTOCOLS, Protocol
from toto.runtime.devices import device, resolve_precision
from toto.runtime.folder import RunFolder
from toto.tasks.answers import Measured
from toto.tasks.ledger import Model, Selection, Split
from toto.tasks.ledger import Protocol as LedgerProtocol
from toto.tasks.overlay import compared, film
from toto.tasks.tracking import track_frames
from toto.video.datasets.davis import Davis
from toto.video.decode import Decoder
from toto.video.masks import mask_files, read_mask, write_mask
from toto.video.reading import frame_files
from toto.video.transforms import RESIZE_FILTER, resize_whole
from toto.video.write import write_mp4, write_png


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackDavis:
    """Track DAVIS-2016 or 2017 under frozen protocols, with a model's features and baselines.

    Each sequence's first mask is carried to its end; nothing is trained. The masks are written in
    the official layout, and the scores are those of `toto score davis` on them.
    """

    davis: Path
    """Root of DAVIS, with `JPEGImages` and `Annotations`."""
    protocol: tuple[str, ...] = ("dino-480",)
    """Names of protocols; `toto list` shows them."""
    features: tuple[Features, ...] = ("run",)
    """`run`, `untrained` (the same model with fresh weights), `tokenizer` (its encoder's vectors
    before codes are chosen), `rgb` (raw pixels), `encoder` and `untrained-encoder`."""
    run_folder: Path | None = None
    """Folder of the pre-training run; `rgb` and encoders need none."""
    encoder: Path | None = None
    """Folder of an encoder of pictures that transformers saved, for `encoder` and
    `untrained-encoder`."""
    normalised: bool = False
    """Whether that one's features go through its last norm, as in DINO's own protocol."""
    layer: int | None = None
    """Layer of the models; what it was chosen on is for whoever chose it to say."""
    choose_on: tuple[str, ...] = ()
    """Sequences that choose the layer instead, by J&F; they are not among those reported."""
    sequences: tuple[str, ...] = ()
    """Those to report; by default all of the split."""
    cell_px: int | None = None
    """Pixels a cell of the protocol's frames, where its number is not wanted: 16 with `dino-480`
    for a model of such patches. None takes the protocol's."""
    year: int = 2017
    """Whose lists name the sequences."""
    split: str = "val"
    """Which list."""
    resolution: str = "480p"
    """Folder of the frames."""
    precision: str = "auto"
    """In which the model computes; see `toto pretrain`."""
    seed: int = 0
    """Of the fresh weights."""

    def __post_init__(self) -> None:
        for name in self.protocol:
            if name not in PROTOCOLS:
                known = ", ".join(sorted(PROTOCOLS))
                raise ValueError(f"protocol {name!r} is unknown; there are: {known}")
        if not self.protocol or not self.features:
            raise ValueError("give at least one --protocol and one of --features")
        layered = any(kind in WITH_LAYERS for kind in self.features)
        if layered and (self.layer is None) == (not self.choose_on):
            raise ValueError(
                f"layer {self.layer} and choose_on {self.choose_on}: give one of them; choosing "
                "the layer on the sequences that are reported would flatter"
            )
        if both := sorted(set(self.choose_on) & set(self.sequences)):
            raise ValueError(f"sequence {both[0]} cannot both choose the layer and be reported")

    def run(self, out: Path) -> dict[str, Any]:
        """Track, write masks, score them; a second call goes on at the first missing sequence.

        Raises:
            ValueError: if DAVIS or the run cannot be opened, or a sequence's masks do not fit.
        """
        reported = self._sequences()
        sources = self._sources()
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("track"):
                return folder.result("track")
            with Decoder() as decoder:
                rows = [
                    self._row(decoder, folder, name, source, reported)
                    for name in self.protocol
                    for source in sources
                ]
            result = {
                "sequences": list(reported),
                "resize": RESIZE_FILTER,
                "precision": resolve_precision(self.precision, device()),
                "rows": rows,
            }
            folder.write_result("track", result)
            return result

    def _sequences(self) -> list[str]:
        entries = Davis(root=self.davis, year=self.year, resolution=self.resolution).entries()
        there = {entry.clip for entry in entries if entry.split == self.split}
        for name in (*self.sequences, *self.choose_on):
            if name not in there:
                raise ValueError(f"{self.davis} has no sequence {name} in {self.split}")
        reported = self.sequences or tuple(there - set(self.choose_on))
        if not reported:
            raise ValueError("no sequence is left to report; name fewer in --choose-on")
        return sorted(reported)

    def _sources(self) -> list[Source]:
        sources = open_sources(
            self.features,
            run=self.run_folder,
            encoder=self.encoder,
            normalised=self.normalised,
            precision=resolve_precision(self.precision, device()),
            seed=self.seed,
        )
        for source in sources:
            if source.depth is not None and not 0 <= (self.layer or 0) <= source.depth:
                raise ValueError(f"layer {self.layer} is not in 0..{source.depth} of the model")
        return sources

    def _row(
        self, decoder: Decoder, folder: RunFolder, name: str, source: Source, reported: list[str]
    ) -> dict[str, Any]:
        """Track all sequences with one source under one protocol, and score what was written."""
        out, protocol = folder.path, PROTOCOLS[name]
        if self.cell_px is not None:
            protocol = replace(protocol, cell_px=self.cell_px)
        _require_same_weights(folder, f"begun-{name}-{source.kind}", source)
        layer, by_layer = None, {}
        if source.depth is not None:
            layer = self.layer
        if source.depth is not None and layer is None:
            layer, by_layer = self._choose(decoder, out, name, protocol, source)
        masks = out / "masks" / name / source.kind
        with bar(f"{name}, {source.kind}", len(reported)) as progress:
            for sequence in reported:
                self._track(decoder, masks, sequence, protocol, source, layer, progress)
        scores = {one: score_folder(decoder, self._truth(one), masks / one) for one in reported}
        self._enter(folder, name, protocol, source, layer, scores, tried=len(by_layer))
        scored = summary(scores)
        words = source.kind if layer is None else f"{source.kind}, layer {layer}"
        overlays = out / "overlays" / f"{name}-{source.kind}"
        self._show(decoder, overlays, masks, scored, f"{words}, under {name}")
        chosen = f"on {', '.join(self.choose_on)}" if by_layer else "given"
        return {
            "protocol": {"name": name, **to_dict(protocol)},
            "features": source.kind,
            "weights": source.weights,
            "layer": layer,
            "layer_chosen": None if layer is None else chosen,
            "choice": by_layer,
            "masks": str(masks.relative_to(out)),
            "scores": scored,
        }

    def _enter(
        self,
        folder: RunFolder,
        name: str,
        protocol: Protocol,
        source: Source,
        layer: int | None,
        scores: dict[str, SequenceScore],
        *,
        tried: int,
    ) -> None:
        """Write the scores into the ledger, with those of every object."""
        numbers = {
            f"{sequence}/{one}": {"j": score.j[k], "f": score.f[k], "j_and_f": score.j_and_f[k]}
            for sequence, score in scores.items()
            for k, one in enumerate(score.objects)
        }
        ids, selection = [*numbers], None
        reported = Split.of(f"davis {self.split}", self._masks_sha256([*scores]), ids)
        if tried:
            # Nothing is followed in those that choose but what is in their masks.
            chose = Split.of("choose_on", self._masks_sha256(self.choose_on), self.choose_on)
            selection = Selection.on(
                chose,
                self.choose_on,
                reported=[*scores],
                among={"layers": tried},
                chosen=[f"layer {layer}"],
            )
        for metric in ("j", "f", "j_and_f"):
            found = [(one, float(value[metric])) for one, value in numbers.items()]
            write_score(
                folder,
                f"{name}-{source.kind}-{metric}",
                Measured.gathered(ids, [found]),
                metric=metric,
                protocol=LedgerProtocol.of(
                    name,
                    {
                        **to_dict(protocol),
                        "layer": layer,
                        "features": source.kind,
                        "precision": resolve_precision(self.precision, device()),
                        "resize": RESIZE_FILTER,
                        "resolution": self.resolution,
                    },
                ),
                model=Model(
                    name=source.weights,
                    weights_sha256=(source.digest,),
                    trained=source.kind in TRAINED,
                ),
                reported=reported,
                seeds=(self.seed,),
                selection=selection,
            )

    def _masks_sha256(self, sequences: Sequence[str]) -> str:
        """Hash the annotated masks that decide a score, with their names."""
        whole = hashlib.sha256()
        for sequence in sorted(sequences):
            for name, path in mask_files(self._truth(sequence)).items():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                whole.update(f"{sequence}/{name} {digest}\n".encode())
        return whole.hexdigest()

    def _choose(
        self, decoder: Decoder, out: Path, name: str, protocol: Protocol, source: Source
    ) -> tuple[int, dict[str, float]]:
        """Find the layer with the best J&F on the sequences that choose."""
        assert source.depth is not None
        layers = range(source.depth + 1)
        by_layer = {}
        with bar(f"{name}, layer", len(layers) * len(self.choose_on)) as progress:
            for layer in layers:
                masks = out / "choice" / name / source.kind / f"layer-{layer}"
                for sequence in self.choose_on:
                    self._track(decoder, masks, sequence, protocol, source, layer, progress)
                scored = {
                    one: score_folder(decoder, self._truth(one), masks / one)
                    for one in self.choose_on
                }
                by_layer[str(layer)] = summary(scored)["j_and_f_mean"]
        return max(layers, key=lambda layer: by_layer[str(layer)]), by_layer

    def _track(
        self,
        decoder: Decoder,
        masks: Path,
        sequence: str,
        protocol: Protocol,
        source: Source,
        layer: int | None,
        progress: Bar,
    ) -> None:
        """Write the masks of a sequence, unless they are there."""
        progress.advance(0, note=sequence)
        if not (masks / sequence).is_dir():
            frames = self._frames(sequence)
            first = read_mask(decoder, self._truth(sequence) / f"{frames[0].stem}.png")
            if set(np.unique(first).tolist()) <= {0, VOID}:  # DAVIS-2016
                first = (first == VOID).astype(np.uint8)
            objects = objects_of(first)
            if not objects:
                raise ValueError(f"{self._truth(sequence)}: the first mask has no object to follow")
            features = _features(decoder, frames, first.shape, protocol, source, layer)
            # Under another name until it is whole: a killed run goes on with this sequence.
            begun = masks / f".{sequence}"
            shutil.rmtree(begun, ignore_errors=True)
            found = track_frames(features, first, objects, protocol)
            for file, ids in zip(frames, found, strict=True):
                write_mask(begun / f"{file.stem}.png", ids)
            begun.rename(masks / sequence)
        progress.advance()

    def _show(
        self, decoder: Decoder, to: Path, masks: Path, scored: dict[str, Any], words: str
    ) -> None:
        """Draw the sequence of middling score: as a video, and eight frames above the truth."""
        by_score = sorted(scored["sequences"], key=lambda one: scored["sequences"][one]["j_and_f"])
        sequence = by_score[len(by_score) // 2]
        files = self._frames(sequence)
        frames = np.stack([decoder.read_image(file) for file in files])
        found, true = (
            np.stack([read_mask(decoder, path) for path in mask_files(folder).values()])
            for folder in (masks / sequence, self._truth(sequence))
        )
        if set(np.unique(true).tolist()) <= {0, VOID}:
            true = (true == VOID).astype(np.uint8)
        score = scored["sequences"][sequence]["j_and_f"]
        words = f"{words}: {sequence}, J&F {100 * score:.1f} %"
        write_mp4(to.with_suffix(".mp4"), film(frames, found, words), fps=24)
        picked = np.linspace(0, len(files) - 1, 8).round().astype(int)
        frames, found, true = (each[picked, ::2, ::2] for each in (frames, found, true))
        picture = compared(frames, found, true, words, columns=4, scale=1)
        write_png(to.with_suffix(".png"), picture)

    def _frames(self, sequence: str) -> list[Path]:
        return frame_files(self.davis / "JPEGImages" / self.resolution / sequence)

    def _truth(self, sequence: str) -> Path:
        return self.davis / "Annotations" / self.resolution / sequence


def _require_same_weights(folder: RunFolder, name: str, source: Source) -> None:
    """Refuse to go on with masks of other weights: a run may have trained on in between.

    Raises:
        ValueError: if the folder was begun with others.
    """
    said = {"weights_sha256": source.digest}
    if folder.has_result(name) and folder.result(name) != said:
        raise ValueError(
            f"{folder.path} has masks of other weights of {source.weights}; choose another --out"
        )
    folder.write_result(name, said)


@torch.no_grad()
def _features(
    decoder: Decoder,
    files: list[Path],
    size: tuple[int, ...],
    protocol: Protocol,
    source: Source,
    layer: int | None,
) -> Iterator[Tensor]:
    """Give the features of each frame, resized so that its cells are the protocol's."""
    rows, columns = protocol.grid(*size)
    side_px = source.cell_px or protocol.cell_px
    of_frame = source.of_frame(side_px, layer)
    for file in files:
        frame = decoder.read_image(file)
        if frame.shape[:2] != size:
            raise ValueError(
                f"{file} has {frame.shape[1]}x{frame.shape[0]} px, its sequence's first mask "
                f"{size[1]}x{size[0]}"
            )
        shown = resize_whole(frame, (rows * side_px, columns * side_px))
        yield of_frame(torch.from_numpy(shown)).cpu()


def cross_table(result: dict[str, Any]) -> str:
    """Lay out J&F, J and F of every source under every protocol, in percent."""
    names = list(dict.fromkeys(row["protocol"]["name"] for row in result["rows"]))
    kinds = list(dict.fromkeys(row["features"] for row in result["rows"]))
    cells = {
        (row["features"], row["protocol"]["name"]): " / ".join(
            f"{100 * row['scores'][key]:.1f}" for key in ("j_and_f_mean", "j_mean", "f_mean")
        )
        + ("" if row["layer"] is None else f" (layer {row['layer']})")
        for row in result["rows"]
    }
    width = 2 + max(map(len, [*cells.values(), *names]))
    lines = [f"{'J&F / J / F, %':<16}" + "".join(f"{name:<{width}}" for name in names)]
    for kind in kinds:
        lines.append(f"{kind:<16}" + "".join(f"{cells[kind, name]:<{width}}" for name in names))
    lines.append(f"{len(result['sequences'])} sequences; what chose the layer is in the result")
    return "\n".join(line.rstrip() for line in lines)

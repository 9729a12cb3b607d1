"""`toto stream`: a video's frames through a model one by one, and what each of them takes."""

import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from toto.jobs.progress import bar
from toto.probe.backbone import Backbone, open_backbone
from toto.probe.stream import Stream
from toto.runtime.devices import device, resolve_precision
from toto.runtime.durable import write_bytes
from toto.runtime.folder import RunFolder
from toto.tokenizers.patches import patch_side_px
from toto.video.decode import Decoder, Span

PIECE_FRAMES = 16
FEATURES = "features.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamVideo:
    """Push a video's frames through a run's model one by one, as a camera would bring them."""

    run_folder: Path
    """Folder of the pre-training run."""
    video: Path
    """A file; its frames are cut to squares of the side that the run was trained on."""
    every: int = 1
    """Every how many-th frame is taken."""
    frames: int | None = None
    """How many are taken at most; None for all."""
    layers: tuple[int, ...] | None = None
    """Whose features are kept, 0 (embedding) to depth; None: the middle of the depth."""
    window_frames: int | None = None
    """How many frames a token sees; None: all that the context holds."""
    precision: str = "fp32"
    """fp32, bf16, or auto: bf16 where the device computes it natively."""

    def __post_init__(self) -> None:
        for name in ("every", "frames", "window_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be at least 1")

    def run(self, out: Path) -> dict[str, Any]:
        """Write the mean features of every frame and what it took; return the summary.

        Raises:
            ValueError: if the run or the video cannot be opened, or the model cannot stream.
        """
        with RunFolder.create(out, self, tensorboard=False) as folder:
            if folder.has_result("stream"):
                return folder.result("stream")
            place = device()
            precision = resolve_precision(self.precision, place)
            backbone = open_backbone(self.run_folder, precision=precision).to(place)
            layers = (backbone.depth // 2,) if self.layers is None else self.layers
            stream = Stream(backbone, layers, window_frames=self.window_frames)
            side_px = _side_px(self.run_folder, backbone)
            found = self._pushed(stream, side_px)
            frame_s = found["tokenizer_s"] + found["model_s"]
            write_bytes(out / FEATURES, safetensors.torch.save(found))
            tokens = backbone.layout.frame_tokens
            result = {
                "video": str(self.video),
                "side_px": side_px,
                "device": str(place),
                "precision": precision,
                "frames": stream.frames,
                "frame_tokens": tokens,
                "tokens": tokens * stream.frames,
                "layers": list(stream.layers),
                "window_frames": stream.window_frames,
                "latency_ms": {
                    "tokenizer": _summary_ms(found["tokenizer_s"]),
                    "model": _summary_ms(found["model_s"]),
                    "frame": _summary_ms(frame_s),
                },
                "frames_per_s": stream.frames / float(frame_s.sum()),
            }
            folder.write_result("stream", result)
            return result

    def _pushed(self, stream: Stream, side_px: int) -> dict[str, torch.Tensor]:
        """Push every frame; give its time, its mean features by layer, and what it took."""
        pooled: dict[int, list[torch.Tensor]] = {layer: [] for layer in stream.layers}
        times_s: list[float] = []
        took_s: list[tuple[float, float]] = []
        span = Span(stride=self.every, frames=self.frames)
        with Decoder() as decoder:
            expected = _frames(decoder.probe(self.video).frames_claimed, span)
            pieces = decoder.stream(self.video, [span], side_px=side_px, piece_frames=PIECE_FRAMES)
            frames = chain.from_iterable(zip(p.frames, p.times_s, strict=True) for p in pieces)
            with bar("stream", expected) as progress:
                for frame, time_s in frames:
                    began_s = time.perf_counter()
                    encoded = stream.encode(torch.from_numpy(frame))
                    encoded_s = time.perf_counter()
                    features = stream.push_encoded(encoded)
                    # Bringing them here waits for a GPU to be done.
                    means = {k: v.float().mean((0, 1)).cpu() for k, v in features.items()}
                    done_s = time.perf_counter()
                    for layer, mean in means.items():
                        pooled[layer].append(mean)
                    times_s.append(float(time_s))
                    took_s.append((encoded_s - began_s, done_s - encoded_s))
                    progress.advance(note=f"{1000 * (done_s - began_s):.1f} ms a frame")
        tokenizer_s, model_s = torch.tensor(took_s, dtype=torch.float64).T
        return {
            **{f"layer-{layer}": torch.stack(means) for layer, means in pooled.items()},
            "times_s": torch.tensor(times_s, dtype=torch.float64),
            "tokenizer_s": tokenizer_s.contiguous(),
            "model_s": model_s.contiguous(),
        }


def _side_px(run: Path, backbone: Backbone) -> int:
    """Side of the frames that a run's tokens were made from.

    Raises:
        ValueError: if they were no squares.
    """
    values = backbone.model.config.patch_values
    patch_px = patch_side_px(values) if values else backbone.tokenizer.patch_px
    rows, columns = RunFolder.open(run).result("model")["grid"]
    if rows != columns:
        raise ValueError(
            f"{run} was trained on grids of {rows} x {columns} tokens, and videos are cut to "
            "squares here; push frames of that shape with toto.load(run).stream()"
        )
    return rows * patch_px


def _frames(claimed: int | None, span: Span) -> int | None:
    """How many frames a span will have, as far as the container's word goes."""
    if claimed is None:
        return span.frames
    there = -(-claimed // span.stride)
    return there if span.frames is None else min(there, span.frames)


def _summary_ms(took_s: torch.Tensor) -> dict[str, float]:
    median, high = np.quantile(1000 * took_s.numpy(), [0.5, 0.95])
    return {"median": float(median), "p95": float(high)}


def as_text(result: dict[str, Any]) -> str:
    """Say a run's summary for people."""
    lines = [f"{'':<12}{'median':>10}{'95 %':>10}"]
    lines += [
        f"{part:<12}{took['median']:>7.1f} ms{took['p95']:>7.1f} ms"
        for part, took in result["latency_ms"].items()
    ]
    lines.append(
        f"{result['frames']:,} frames of {result['frame_tokens']} tokens, {result['tokens']:,} in "
        f"all; {result['frames_per_s']:.1f} frames/s without decoding"
    )
    return "\n".join(lines)

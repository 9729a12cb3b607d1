"""Videos and pictures that the project makes: generated clips, figures, test media."""

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.runtime.durable import make_folder, write_bytes


def write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """Write an H.264 file that browsers play, whole or not at all.

    A side of odd length gets its last row or column twice: the 4:2:0 format has even sides only.

    Args:
        path: the file; an older one is replaced.
        frames: sRGB bytes.
        fps: frames a second.

    Raises:
        ValueError: if the frames are not [T H W 3] bytes or fps is not in [0.001, 1000].
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"{path}: frames are uint8 [T H W 3], got {_kind(frames)}")
    if not 0.001 <= fps <= 1000:
        raise ValueError(f"{path}: fps must be in [0.001, 1000], got {fps}")
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rate = Fraction(fps).limit_denominator(60_000)
    # In a file of its own first: moving the index to the front needs one that can be read back.
    with tempfile.TemporaryDirectory(prefix="toto-write-") as folder:
        unfinished = Path(folder, "video.mp4")
        options = {"movflags": "+faststart"}
        with av.open(str(unfinished), "w", format="mp4", container_options=options) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "18"})
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for image in even:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        data = unfinished.read_bytes()
    make_folder(path.parent)
    write_bytes(path, data)


def write_png(path: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        ValueError: if the picture is not [H W 3] bytes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{path}: a picture is uint8 [H W 3], got {_kind(image)}")
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    make_folder(path.parent)
    write_bytes(path, data.getvalue())


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"

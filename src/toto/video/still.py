"""Still images in the decode child: the header is checked, then the pixels become sRGB bytes.

Pillow opens a stranger's file here and nowhere else, and only with the one plugin that the file's
first bytes call for.
"""

import os
import warnings
from typing import Any

# The child can import nothing once it is confined, so what Pillow would fetch at first use is
# named here, though only `Image` is used below.
import numpy as np
import PIL.BmpImagePlugin
import PIL.ImagePalette
import PIL.JpegImagePlugin
import PIL.MpoImagePlugin
import PIL.PngImagePlugin
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin  # noqa: F401
from numpy.typing import NDArray
from PIL import ExifTags, Image

from toto.video.refused import Refused
from toto.video.sniff import describe, image_of, read_head

Image.preinit()
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_still(
    fd: int, limits: dict[str, Any], *, as_stored: bool = False
) -> tuple[str, NDArray[np.uint8]]:
    """Decode the first picture of an image file.

    Args:
        fd: the file.
        limits: what it may cost.
        as_stored: whether pixels come as the bytes that a mask stores and not as colours.

    Returns:
        The format's name, and upright sRGB bytes [H W 3], see `Decoder.read_image`.

    Raises:
        Refused: if it is no image, is broken or cut off, or is larger than the limits.
    """
    head = read_head(fd)
    kind = image_of(head)
    if kind is None:
        raise Refused("sniff", describe(head, wanted="an image"))
    canvas = _webp_canvas(head)
    if canvas is not None:
        _require_room(*canvas, limits["max_pixels"])
    # From twice this on Pillow refuses before a plugin makes room; we refuse the rest.
    Image.MAX_IMAGE_PIXELS = limits["max_pixels"]
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        with (
            open(fd, "rb", closefd=False) as file,
            warnings.catch_warnings(action="ignore"),
            Image.open(file, formats=[kind]) as image,
        ):
            _require_room(image.width, image.height, limits["max_pixels"])
            image.load()
            if as_stored:
                return kind, _stored(image)
            return kind, np.array(_rgb(_upright(image)))
    except (MemoryError, Refused):
        raise
    except Image.DecompressionBombError as error:
        most = limits["max_pixels"]
        reason = f"its header claims more than twice the pixels allowed, max_pixels is {most}"
        raise Refused("limits", reason) from error
    except Exception as error:
        words = str(error) if isinstance(error, OSError) else repr(error)
        raise Refused("decode", f"the {kind} image cannot be read: {words}") from error


def _require_room(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise Refused("limits", f"{width} x {height} pixels, max_pixels is {most}")


def _webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP claims: Pillow before 13 makes room for them on opening it."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None

    def number(start: int, stop: int) -> int:
        return int.from_bytes(head[start:stop], "little")

    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + number(24, 27), 1 + number(27, 30)
    if kind == b"VP8L":
        return 1 + number(21, 25) % 2**14, 1 + (number(21, 25) >> 14) % 2**14
    return number(26, 28) % 2**14, number(28, 30) % 2**14


def _stored(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode not in {"P", "L", "1"}:
        raise Refused("decode", f"a mask has one byte a pixel, this image is {image.mode}")
    return np.repeat(np.asarray(image).astype(np.uint8)[..., None], 3, axis=2)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - EXIF that cannot be parsed says nothing; viewers agree
        turn = None
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Sixteen bits of grey; Pillow's own conversion would clip them at 255.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")

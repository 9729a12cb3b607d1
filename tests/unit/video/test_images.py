from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.video.datasets.image_folder import ImageFolder, read_images
from toto.video.decode import DecodeLimits, Decoder, VideoRefusedError
from toto.video.sniff import describe, image_of
from toto.video.transforms import resize_crop


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.jpg", "progressive.jpg"])
def test_pixels_are_those_of_a_decode_in_this_process(
    name: str, decoder: Decoder, tmp_path: Path
) -> None:
    options = {"a.webp": {"lossless": True}, "progressive.jpg": {"progressive": True}}
    path = tmp_path / name
    Image.fromarray(scene()).save(path, **options.get(name, {}))
    got = decoder.read_image(path)
    np.testing.assert_array_equal(got, np.asarray(Image.open(path).convert("RGB")))
    if not name.endswith("jpg"):
        np.testing.assert_array_equal(got, scene())


def test_the_child_resizes_stills_as_this_process_does(decoder: Decoder, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    got = decoder.read_image(tmp_path / "a.png", side_px=16, crop_x=0.25, crop_y=1.0)
    np.testing.assert_array_equal(got, resize_crop(scene(), 16, 0.25, 1.0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(
    orientation: int, decoder: Decoder, tmp_path: Path
) -> None:
    a, stored = scene(), {}
    # How a camera stores the picture `a`, by the definition of each value: where row 0, column 0 of
    # what is stored belong in what is seen.
    stored[1], stored[2], stored[3], stored[4] = a, a[:, ::-1], a[::-1, ::-1], a[::-1]
    turned = a.transpose(1, 0, 2)
    stored[5], stored[6] = turned, turned[::-1]
    stored[7], stored[8] = turned[::-1, ::-1], turned[:, ::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)
    np.testing.assert_array_equal(decoder.read_image(path), a)


def test_exif_that_makes_no_sense_turns_nothing(decoder: Decoder, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(decoder.read_image(tmp_path / "a.png"), scene())


@pytest.mark.parametrize(
    ("mode", "pixel", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (200, 128), (100, 100, 100)),
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("I;16", 0x8040, (0x80, 0x80, 0x80)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    mode: str, pixel: tuple[int, ...] | int, seen: tuple[int, ...], decoder: Decoder, tmp_path: Path
) -> None:
    Image.new(mode, (8, 6), pixel).save(tmp_path / "a.png")
    got = decoder.read_image(tmp_path / "a.png")
    assert got.shape == (6, 8, 3)
    assert (got == seen).all()


def test_palettes_and_cmyk_become_rgb(decoder: Decoder, tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 100, 50])
    palette.save(tmp_path / "p.png")
    assert decoder.read_image(tmp_path / "p.png")[0, 0].tolist() == [200, 100, 50]
    palette.save(tmp_path / "clear.png", transparency=1)
    assert decoder.read_image(tmp_path / "clear.png")[0, 0].tolist() == [0, 0, 0]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    red, green, blue = decoder.read_image(tmp_path / "c.jpg")[0, 0].tolist()
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


def test_of_an_animation_the_first_frame_is_read(decoder: Decoder, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    for name in ("a.webp", "a.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert decoder.read_image(tmp_path / name)[0, 0].tolist() == [255, 0, 0]


def test_each_kind_of_file_has_its_own_door(decoder: Decoder, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.jpg")
    with pytest.raises(VideoRefusedError, match="a JPEG image, not a video"):
        decoder.read(tmp_path / "a.jpg")
    Image.fromarray(scene()).save(tmp_path / "a.gif")
    with pytest.raises(VideoRefusedError, match="a GIF image; JPEG, PNG, WebP and BMP are read"):
        decoder.read_image(tmp_path / "a.gif")


def test_a_square_must_make_sense(decoder: Decoder) -> None:
    with pytest.raises(ValueError, match="side_px must be at least 1, got 0"):
        decoder.read_image("never-opened.png", side_px=0)


def test_images_do_not_wear_a_child_out_as_videos_do(tmp_path: Path) -> None:
    Image.fromarray(scene(4, 4)).save(tmp_path / "a.png")
    with Decoder(DecodeLimits(files_per_child=1, images_per_child=4)) as decoder:
        pids = [(decoder.read_image(tmp_path / "a.png"), decoder.pid)[1] for _ in range(5)]
    assert len(set(pids[:4])) == 1
    assert pids[4] != pids[0]


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\0\0\0\x20ftypisom", "a video (mov), not an image"),
        (b"\0\0\0\x20ftypavif", "an AVIF or HEIC image; JPEG, PNG, WebP and BMP are read"),
        (b"<svg xmlns", "an XML or HTML file, not an image"),
        (b"a,b\n1,2\n", "a text file, not an image"),
        (b"\x7fELF\x02\x01", "of no known image format"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_image_is_named(head: bytes, words: str) -> None:
    assert image_of(head) is None
    assert words in describe(head, wanted="an image")


def folder_of(root: Path, count: int) -> ImageFolder:
    (root / "b").mkdir()
    for number in range(count):
        folder = root / "b" if number % 2 else root
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:02}.png")
    return ImageFolder(root=root)


def test_a_folder_lists_images_by_name_or_by_bytes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "nameless").write_bytes((tmp_path / "00.png").read_bytes())
    names = [file.relative_to(tmp_path).as_posix() for file in folder.files()]
    assert names == ["00.png", "02.png", "b/01.png", "nameless", "page.jpg"]


def test_a_limit_takes_files_evenly_or_by_seed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10)
    everything = folder.files()
    assert folder.files(limit=5) == everything[::2]
    assert folder.files(limit=99) == everything
    chosen = folder.files(limit=5, seed=1)
    assert chosen == folder.files(limit=5, seed=1) != folder.files(limit=5, seed=2)
    assert sorted(set(chosen)) == sorted(chosen)
    with pytest.raises(ValueError, match="limit 0 must be at least 1"):
        folder.files(limit=0)


def test_bad_images_are_listed_and_the_others_kept(decoder: Decoder, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 4)
    (tmp_path / "01.png").write_text("<html>")
    seen = []
    images, refused = read_images(
        decoder, folder.files(), side_px=4, over=lambda files: (seen.append(f) or f for f in files)
    )
    assert images.shape == (4, 4, 4, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]
    assert [one.path.name for one in refused] == ["01.png"]
    assert "an HTML page, not an image" in refused[0].reason
    assert seen == folder.files()


def test_folders_without_an_image_are_refused(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder; point to a folder with images"):
        ImageFolder(root=tmp_path / "gone").files()
    with pytest.raises(ValueError, match="has no image; JPEG, PNG, WebP and BMP are read"):
        ImageFolder(root=tmp_path).files()
    (tmp_path / "a.jpg").write_text("<html>")
    with pytest.raises(ValueError, match=r"none of 1 files is an image .*a\.jpg: an HTML page"):
        read_images(decoder, ImageFolder(root=tmp_path).files(), side_px=8)


def test_real_photographs_are_read(decoder: Decoder, data_root: Path) -> None:
    files = ImageFolder(root=data_root / "imagenet-sample-256").files(limit=20)
    images, refused = read_images(decoder, files, side_px=64)
    assert (len(images), refused) == (20, [])
    assert images.std(axis=(1, 2, 3)).min() > 10

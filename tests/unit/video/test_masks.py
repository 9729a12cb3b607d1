from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toto.video.decode import Decoder, VideoRefusedError
from toto.video.masks import mask_files, palette, read_mask, sequences_below, write_mask


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


IDS = (np.arange(6 * 9) % 5).reshape(6, 9).astype(np.uint8)


def test_what_is_written_is_read_and_has_the_colours_of_davis(
    decoder: Decoder, tmp_path: Path
) -> None:
    write_mask(tmp_path / "a" / "00000.png", IDS)
    np.testing.assert_array_equal(read_mask(decoder, tmp_path / "a" / "00000.png"), IDS)
    image = Image.open(tmp_path / "a" / "00000.png")
    assert image.mode == "P"
    shown = np.asarray(image.convert("RGB"))
    assert shown[0, :5].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
    ]
    assert palette()[[8, 255]].tolist() == [[64, 0, 0], [224, 224, 192]]


def test_grey_masks_are_read_as_they_are(decoder: Decoder, tmp_path: Path) -> None:
    Image.fromarray(IDS * 60).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(decoder, tmp_path / "grey.png"), IDS * 60)
    Image.fromarray(IDS > 2).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(decoder, tmp_path / "bits.png"), IDS > 2)


def test_rejects_a_picture_in_colours(decoder: Decoder, tmp_path: Path) -> None:
    Image.fromarray(IDS).convert("RGB").save(tmp_path / "a.png")
    with pytest.raises(VideoRefusedError, match="a mask has one byte a pixel, this image is RGB"):
        read_mask(decoder, tmp_path / "a.png")


def test_rejects_ids_that_are_not_bytes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a mask is uint8 \[H W\], got int64 \[6, 9\]"):
        write_mask(tmp_path / "a.png", IDS.astype(np.int64))


def test_frames_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("00002", "00000", "00001"):
        write_mask(tmp_path / f"{name}.png", IDS)
    (tmp_path / ".00003.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert [*mask_files(tmp_path)] == ["00000", "00001", "00002"]


def test_rejects_a_folder_without_masks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no mask; a sequence is a folder of PNGs"):
        mask_files(tmp_path)
    with pytest.raises(ValueError, match="no folder of masks; a sequence is a folder of PNGs"):
        mask_files(tmp_path / "nowhere")


def test_rejects_a_folder_without_sequences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no sequence; give one that has a folder for each"):
        sequences_below(tmp_path)
    with pytest.raises(ValueError, match="is no folder; give one that has"):
        sequences_below(tmp_path / "nowhere")

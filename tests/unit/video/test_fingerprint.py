"""Fingerprints: what they forget, what they keep, and which frames have none."""

import numpy as np
import pytest
import scipy.fft
from made_pictures import film, jpeg, letterboxed, part, pillarboxed, thumbnails

from toto.video.fingerprint import (
    FRAME_BYTES,
    VERSION,
    WHOLE,
    Crop,
    cropped,
    fingerprint,
    flipped,
    informative,
    key_matrix,
    keys,
    pack_signs,
    spectra,
    vectors,
)


def waves(frames: np.ndarray) -> np.ndarray:
    return spectra(fingerprint(thumbnails(frames)))


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (vectors(one) * vectors(other)).sum(axis=-1)


def bits(one: np.ndarray, other: np.ndarray) -> list[int]:
    return [bin(int(a ^ b)).count("1") for a, b in zip(one, other, strict=True)]


def test_a_fingerprint_is_its_version_and_128_bytes_a_frame() -> None:
    found = fingerprint(thumbnails(film(0, frames=3)))
    assert (found[0], len(found)) == (VERSION, 1 + 3 * FRAME_BYTES)
    assert FRAME_BYTES == 128


def test_no_frames_are_a_fingerprint_that_says_nothing() -> None:
    found = fingerprint(np.empty((0, 64, 64), np.uint8))
    assert found == bytes([VERSION])
    assert spectra(found).shape == (0, 16, 16)


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"made of \[N 64 64\] pixels, not \(1, 32, 64\)"):
        fingerprint(np.zeros((1, 32, 64), np.uint8))


@pytest.mark.parametrize(
    "data", [b"", b"\x02" + bytes(128), bytes([VERSION]) + bytes(127)], ids=["none", "2", "short"]
)
def test_bytes_that_are_no_fingerprint_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no fingerprint of version 1; ingest the data again"):
        spectra(data)


def test_coefficients_are_those_of_the_cosine_transform() -> None:
    frame = thumbnails(film(0, frames=1))[0]
    expected = scipy.fft.dctn(frame.astype(float), norm="forward")[:16, :16]
    weight = np.hypot(*np.mgrid[:16, :16])
    expected *= weight / np.abs(expected * weight).max()
    found = spectra(fingerprint(frame[None]))[0] * weight
    # Seven levels of the square root: half a level, from either side of the root.
    np.testing.assert_allclose(found, expected, atol=1 / 7)
    near = np.sqrt(np.abs(found)) - np.sqrt(np.abs(expected))
    assert np.abs(near).max() <= 0.5 / 7 + 1e-3
    assert (np.sign(found) * np.sign(expected))[np.abs(expected) > 0.03].min() == 1


@pytest.mark.parametrize("level", [0, 17, 128, 255])
def test_plain_frames_have_no_detail(level: int) -> None:
    draw = np.random.default_rng(level)
    noise = draw.integers(-2, 3, (4, 64, 64))  # what compression leaves of a plain colour
    frames = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert not informative(spectra(fingerprint(frames))).any()


def test_skies_and_fades_have_no_detail() -> None:
    ramp = np.linspace(0, 255, 64)
    sky, vignette = np.add.outer(ramp, ramp) / 2, 255 * np.outer(np.hanning(64), np.hanning(64))
    faded = 128 + (thumbnails(film(1, frames=1))[0] - 128.0) / 20
    frames = np.stack([sky, vignette, faded]).astype(np.uint8)
    assert informative(spectra(fingerprint(frames))).tolist() == [False, False, False]


def test_pictures_have_detail() -> None:
    assert informative(waves(film(1, frames=20))).all()


def test_a_frame_reads_the_same_alone_as_in_a_film() -> None:
    frames = thumbnails(film(2))
    assert fingerprint(frames)[1 + FRAME_BYTES :][:FRAME_BYTES] == fingerprint(frames[1:2])[1:]


def test_the_spectrum_of_the_mirror_image_needs_no_pixels() -> None:
    frames = film(3)
    assert likeness(flipped(waves(frames)), waves(frames[:, :, ::-1])).min() > 0.999
    assert likeness(waves(frames), waves(frames[:, :, ::-1])).max() < 0.5


def test_the_whole_frame_is_the_crop_that_changes_nothing() -> None:
    found = waves(film(4))
    np.testing.assert_allclose(cropped(found, WHOLE), found, atol=1e-5)


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 80, 80), Crop(30, 30, 70, 70), Crop(10, 0, 75, 100), Crop(5, 20, 90, 70)]
)
def test_the_spectrum_of_a_crop_needs_no_pixels(crop: Crop) -> None:
    frames = film(5, frames=10)
    copies = waves(part(frames, *crop))
    assert likeness(cropped(waves(frames), crop), copies).min() > 0.9
    assert likeness(waves(frames), copies).mean() < 0.6


def test_key_matrices_give_the_keys_of_crops() -> None:
    found, crop = waves(film(6)), Crop(20, 0, 80, 90)
    waves_of_key = found.reshape(len(found), -1) @ key_matrix(crop)
    assert (pack_signs(waves_of_key) == keys(cropped(found, crop))).all()


def test_every_sign_is_one_bit_of_the_key() -> None:
    signs = np.random.default_rng(0).random((50, 64)) < 0.5
    packed = pack_signs(np.where(signs, 1, -1).astype(np.float32))
    assert bits(packed[:-1], packed[1:]) == (signs[:-1] != signs[1:]).sum(axis=1).tolist()


def test_keys_outlive_compression_and_tell_pictures_apart() -> None:
    frames = film(7, frames=20)
    found = keys(waves(frames))
    assert max(bits(found, keys(waves(jpeg(frames, 15))))) <= 8
    assert min(bits(found, np.roll(found, 1))) > 12


@pytest.mark.parametrize("boxed", [letterboxed, pillarboxed])
def test_black_bars_do_not_matter(boxed) -> None:
    frames = film(8)
    not_quite_black = np.maximum(jpeg(boxed(frames), 20), 12)
    for copy in (boxed(frames), not_quite_black):
        assert likeness(waves(copy), waves(frames)).min() > 0.85


def test_a_bar_must_be_black_in_all_frames() -> None:
    frames = film(9)
    frames[:4, :30] = 0
    found = likeness(waves(frames), waves(film(9)))
    assert found[4] > 0.999
    assert found[:4].max() < 0.9


def test_a_dark_edge_is_no_bar() -> None:
    frame = film(12, frames=1)
    dark = (frame * np.clip(np.arange(160) / 100, 0, 1)[:, None] ** 2).astype(np.uint8)
    # Brighter, fewer of its lines are black; were they a bar, the rest would be stretched.
    brighter = np.clip(dark * 1.6, 0, 255).astype(np.uint8)
    assert likeness(waves(dark), waves(brighter))[0] > 0.9

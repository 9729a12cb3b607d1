"""The search for copies: which are found, and what is not taken for one."""

from pathlib import Path

import numpy as np
import pytest
from made_pictures import (
    film,
    jpeg,
    letterboxed,
    part,
    picture,
    pillarboxed,
    scaled,
    thumbnails,
)
from PIL import Image

from toto.video.copies import CROPS, Copy, CopyIndex, fit
from toto.video.fingerprint import WHOLE, Crop, fingerprint, keys, spectra

KNOWN = 12


def printed(frames: np.ndarray) -> bytes:
    return fingerprint(thumbnails(frames))


@pytest.fixture(scope="module")
def index() -> CopyIndex:
    return CopyIndex([printed(film(seed)) for seed in range(KNOWN)])


COPIES = {
    "the same": (lambda f: f, False, None),
    "re-encoded": (lambda f: jpeg(f, 20), False, None),
    "small": (lambda f: jpeg(f[:, ::3, ::2], 60), False, None),
    "darker": (lambda f: scaled(f, 0.6), False, None),
    "brighter": (lambda f: scaled(f, 1.2), False, None),
    "letterboxed": (letterboxed, False, None),
    "pillarboxed": (pillarboxed, False, None),
    "twice as fast": (lambda f: f[::2], False, None),
    "trimmed": (lambda f: f[2:4], False, None),
    "flipped": (lambda f: f[:, :, ::-1], True, None),
    "90 %": (lambda f: jpeg(part(f, 5, 5, 90, 90)), False, Crop(5, 5, 90, 90)),
    "80 % in a corner": (lambda f: jpeg(part(f, 20, 0, 80, 80)), False, Crop(20, 0, 80, 80)),
    "70 %": (lambda f: jpeg(part(f, 15, 15, 70, 70)), False, Crop(15, 15, 70, 70)),
    "off the grid": (lambda f: jpeg(part(f, 3, 12, 86, 79)), False, Crop(3, 12, 86, 79)),
    "narrow": (lambda f: part(f, 22, 0, 56, 100), False, Crop(22, 0, 56, 100)),
    "flipped, 80 %": (lambda f: part(f, 0, 20, 80, 80)[:, :, ::-1], True, Crop(0, 20, 80, 80)),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_and_described(index: CopyIndex, kind: str) -> None:
    change, mirrored, crop = COPIES[kind]
    for seed in (3, 7):
        found = index.find(printed(change(film(seed))))
        assert [copy.clip for copy in found] == [seed]
        assert found[0].flipped == mirrored
        assert found[0].likeness > 0.8
        assert np.abs(np.subtract(found[0].crop, crop or WHOLE)).max() <= 4
        assert found[0].cropped == (crop is not None)


def test_other_films_are_no_copies(index: CopyIndex) -> None:
    assert not any(index.find(printed(film(seed))) for seed in range(50, 70))


def test_a_copy_says_what_it_is() -> None:
    copy = Copy(clip=0, likeness=0.9312, frames=4, flipped=True, crop=Crop(0, 20, 80, 79))
    assert str(copy) == (
        "flipped copy of a part (80 x 79 % at 0, 20 %), likeness 0.93, 4 frames agree"
    )
    copy = Copy(clip=0, likeness=1.0, frames=1, flipped=False, crop=Crop(1, 0, 99, 100))
    assert str(copy) == "copy, likeness 1.00, 1 frame agrees"


def test_one_picture_in_common_is_no_copy_and_two_are(index: CopyIndex) -> None:
    other, known = film(60), film(4)
    assert not index.find(printed(np.concatenate([known[:1], other[1:]])))
    found = index.find(printed(np.concatenate([known[:2], other[2:]])))
    assert [(copy.clip, copy.frames) for copy in found] == [(4, 2)]


def test_long_videos_need_more_in_common() -> None:
    opening = film(61, frames=4)
    one, other = (np.concatenate([opening, film(seed, frames=16)]) for seed in (62, 63))
    index = CopyIndex([printed(one)])
    assert not index.find(printed(other))
    assert index.find(printed(np.concatenate([opening, film(63, frames=12)])))


def test_a_short_clip_is_found_in_a_long_video() -> None:
    index = CopyIndex([printed(film(64))])
    long = np.concatenate([film(65, frames=30), film(64), film(66, frames=30)])
    assert [copy.frames for copy in index.find(printed(long))] == [5]


def test_black_frames_are_nothing_in_common() -> None:
    black = np.zeros((4, 160, 160), np.uint8)
    black[:, 0, 0] = 1  # not one same byte string either
    one, other = (np.concatenate([black, film(seed, frames=2)]) for seed in (67, 68))
    index = CopyIndex([printed(one), printed(black)])
    assert not index.find(printed(other))
    assert not index.find(printed(black))
    assert [copy.frames for copy in index.find(printed(one))] == [2]


def test_one_picture_must_be_very_like_and_the_others_may_be_less() -> None:
    image = picture(1)[None]
    less, more = (
        printed((share * image + (1 - share) * picture(2)).astype(np.uint8))
        for share in (0.62, 0.9)
    )
    alike = [fit(spectra(one)[0], spectra(printed(image))[0], WHOLE)[0] for one in (less, more)]
    assert 0.8 < alike[0] < 0.9 < alike[1]
    images, films = (CopyIndex([printed(np.repeat(image, n, axis=0))]) for n in (1, 2))
    assert [len(images.find(one)) for one in (less, more)] == [0, 1]
    assert [len(films.find(one + two[1:])) for one, two in ((less, less), (less, more))] == [0, 1]


def test_an_image_is_found_in_a_video(index: CopyIndex) -> None:
    assert [copy.clip for copy in index.find(printed(film(5)[2:3]))] == [5]


def test_a_clip_is_not_a_copy_of_itself_beside_itself(index: CopyIndex) -> None:
    assert index.find(printed(film(6)), beside=6) == []
    twice = CopyIndex([printed(film(6)), printed(film(6))])
    assert [copy.clip for copy in twice.find(printed(film(6)), beside=0)] == [1]


def test_a_picture_that_is_its_own_mirror_image_is_reported_once() -> None:
    frames = film(70)
    frames[:, :, 80:] = frames[:, :, :80][:, :, ::-1]
    assert len(CopyIndex([printed(frames)]).find(printed(frames))) == 1


def test_without_crops_only_whole_frames_are_found() -> None:
    index = CopyIndex([printed(film(1))], crops=(WHOLE,))
    assert index.find(printed(jpeg(film(1))[:, :, ::-1]))
    assert not index.find(printed(part(film(1), 0, 0, 70, 70)))


@pytest.mark.parametrize("fingerprints", [[], [None], [fingerprint(np.empty((0, 64, 64), "u1"))]])
def test_nothing_is_found_among_nothing(fingerprints: list[bytes | None]) -> None:
    index = CopyIndex(fingerprints)
    assert index.find(printed(film(1))) == []
    assert index.find(None) == []


def test_the_search_finds_every_key_within_seven_bits(index: CopyIndex) -> None:
    draw = np.random.default_rng(0)
    wanted = keys(spectra(printed(film(2))))
    entry = 2 * 5 * len(CROPS)  # the whole first frame of film 2
    for distance in range(8):
        flips = draw.choice(64, distance, replace=False)
        near = wanted[:1] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
        _, entries = index._alike_in_a_chunk(near)
        assert entry in entries


def test_crops_lie_within_the_frame() -> None:
    assert len(set(CROPS)) == len(CROPS)
    assert CROPS[0] == WHOLE
    for crop in CROPS:
        assert crop.left >= 0
        assert crop.left + crop.width <= 100
        assert crop.top >= 0
        assert crop.top + crop.height <= 100


def test_photographs_are_found_flipped_and_cropped(data_root: Path) -> None:
    files = sorted((data_root / "imagenet-sample-256").glob("*.jpg"))[::8]
    photos = [Image.open(file).convert("L").resize((160, 160)) for file in files]
    known, others = photos[::2], photos[1::2]
    index = CopyIndex([printed(np.asarray(photo)[None]) for photo in known])
    found = {"flipped": 0, "cropped": 0}
    for number, photo in enumerate(known):
        frames = jpeg(np.asarray(photo)[None])
        for kind, copy in (
            ("flipped", frames[:, :, ::-1]),
            ("cropped", part(frames, 10, 10, 80, 80)),
        ):
            found[kind] += any(one.clip == number for one in index.find(printed(copy)))
    assert min(found.values()) >= 0.9 * len(known)
    assert not any(index.find(printed(np.asarray(photo)[None])) for photo in others)

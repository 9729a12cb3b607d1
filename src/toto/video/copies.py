"""Find the frames of a clip among those of many others, flipped and cropped ones too.

Each known frame is entered under the keys of its crops; a clip's frames are looked up by near keys
(multi-index hashing: Norouzi, Punjani and Fleet, 2012), and each candidate is compared in full
while its crop is fitted. Videos need several frames that agree, so one title card is no copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt64

from toto.video.fingerprint import (
    FREQUENCIES,
    WHOLE,
    Crop,
    cropped,
    flipped,
    informative,
    key_matrix,
    keys,
    pack_signs,
    resampled,
    spectra,
    vectors,
)

LIKENESS = 0.9
"""Product of two frames' vectors from which they are one picture; every copy has such a pair."""
LIKENESS_AGREEING = 0.8
"""The same for the other frames of a video, which only have to agree."""
LEAST_FRAMES = 2
"""Frames of a video that must agree, where both clips have as many."""
LEAST_SHARE = 0.25
"""Share of the frames of the shorter clip that must agree."""
KEY_DISTANCE = 12
"""Bits in which a copy's key may differ from the nearest crop's key."""

_CHUNKS, _CHUNK_BITS = 4, 16
_NEAR = np.array([0, *(1 << bit for bit in range(_CHUNK_BITS))], np.uint16)
_ONES = np.array([bin(word).count("1") for word in range(1 << _CHUNK_BITS)], np.uint8)
_TRIED = 8  # candidates a frame that are compared in full, nearest keys first
# Likeness at the crop that was entered, and after the first, coarse fit: copies have it (all but
# 0.1 %), other pictures seldom.
_WORTH_FITTING, _WORTH_REFINING = 0.4, 0.6
_LEAST_SIDE = 50
_NUDGES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)])
_BATCH = 4096


def _crops() -> tuple[Crop, ...]:
    """Crops that are looked for; between them, the fit of the crop finds the way."""
    places = {90: (0, 0.5, 1), 80: (0, 0.25, 0.5, 0.75, 1), 70: (0, 0.25, 0.5, 0.75, 1)}
    square = [
        Crop(round((100 - side) * x), round((100 - side) * y), side, side)
        for side, steps in places.items()
        for x in steps
        for y in steps
    ]
    strips = [(round((100 - side) * x), side) for side in (75, 56) for x in (0, 0.5, 1)]
    return (
        WHOLE,
        *square,
        *(Crop(left, 0, side, 100) for left, side in strips),
        *(Crop(0, top, 100, side) for top, side in strips),
    )


CROPS = _crops()


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """Another clip that shows the same pictures."""

    clip: int
    """Its number in the index."""
    likeness: float
    """Of the pictures that agree, the median: 1 is the same picture."""
    frames: int
    """How many agree."""
    flipped: bool
    crop: Crop
    """Which part of the known clip's frames the copy shows."""

    @property
    def cropped(self) -> bool:
        """Whether it shows clearly less than the whole."""
        return min(self.crop.width, self.crop.height) <= 96

    def __str__(self) -> str:
        kind = "flipped copy" if self.flipped else "copy"
        part = f" of a part ({self.crop})" if self.cropped else ""
        counted = "1 frame agrees" if self.frames == 1 else f"{self.frames} frames agree"
        return f"{kind}{part}, likeness {self.likeness:.2f}, {counted}"


class CopyIndex:
    """Fingerprints of known clips, ready to be searched."""

    def __init__(
        self, fingerprints: Sequence[bytes | None], *, crops: Sequence[Crop] = CROPS
    ) -> None:
        """Enter all frames that have detail under the keys of their crops.

        Takes about 24 bytes a crop and 1 kB a frame: 3 GB for a million frames with `CROPS`.

        Args:
            fingerprints: one a clip; clips are known by their place in this sequence.
            crops: parts of the known frames that copies may show.

        Raises:
            ValueError: if one of them is no fingerprint of this version.
        """
        waves = [spectra(one) if one else np.empty((0, 16, 16), np.float32) for one in fingerprints]
        kept = [informative(one) for one in waves]
        self._crops = tuple(crops)
        self._spectra = np.concatenate(
            [one[good] for one, good in zip(waves, kept, strict=True)]
            or [np.empty((0, 16, 16), np.float32)]
        )
        self._frames = np.array([good.sum() for good in kept], np.int64)
        self._clip = np.repeat(np.arange(len(kept)), self._frames)
        self._keys = self._all_keys()
        chunks = self._keys.view(np.uint16).reshape(-1, _CHUNKS)
        self._order = [
            np.argsort(chunks[:, c], kind="stable").astype(np.uint32) for c in range(_CHUNKS)
        ]
        counts = [np.bincount(chunks[:, c], minlength=1 << _CHUNK_BITS) for c in range(_CHUNKS)]
        self._first = [np.concatenate([[0], np.cumsum(one)]) for one in counts]

    def find(self, fingerprint: bytes | None, *, beside: int | None = None) -> list[Copy]:
        """Known clips that a clip is a copy of, the most alike first.

        Args:
            fingerprint: of the clip; None finds nothing.
            beside: leave this clip of the index out, being the clip itself.

        Raises:
            ValueError: if these bytes are no fingerprint of this version.
        """
        if not fingerprint:
            return []
        waves = spectra(fingerprint)
        waves = waves[informative(waves)]
        if not (len(waves) and len(self._keys)):
            return []
        found: dict[tuple[int, bool], dict[int, tuple[float, Crop]]] = {}
        for mirrored, seen in ((False, waves), (True, flipped(waves))):
            for frame, entry in self._near(seen, beside):
                known, crop = entry // len(self._crops), self._crops[entry % len(self._crops)]
                likeness, crop = fit(seen[frame], self._spectra[known], crop)
                agreeing = found.setdefault((int(self._clip[known]), mirrored), {})
                if likeness >= max(LIKENESS_AGREEING, agreeing.get(frame, (0.0, crop))[0]):
                    agreeing[frame] = (likeness, crop)
        copies = [
            _copy(clip, mirrored, list(agreeing.values()))
            for (clip, mirrored), agreeing in found.items()
            if self._is_copy([likeness for likeness, _ in agreeing.values()], len(waves), clip)
        ]
        copies.sort(key=lambda copy: (-copy.frames, -copy.likeness, copy.clip))
        # A picture that is its own mirror image is found both ways.
        return list({copy.clip: copy for copy in reversed(copies)}.values())[::-1]

    def _is_copy(self, likenesses: list[float], frames: int, clip: int) -> bool:
        shorter = min(frames, int(self._frames[clip]))
        needed = max(min(LEAST_FRAMES, shorter), LEAST_SHARE * shorter)
        return len(likenesses) >= needed and max(likenesses) >= LIKENESS

    def _all_keys(self) -> UInt64[np.ndarray, " E"]:
        """Keys of every crop of every frame, frame by frame."""
        flat = self._spectra.reshape(len(self._spectra), FREQUENCIES**2)
        found = np.empty((len(flat), len(self._crops)), np.uint64)
        matrices = [key_matrix(crop) for crop in self._crops]
        for start in range(0, len(flat), _BATCH):
            for number, matrix in enumerate(matrices):
                found[start : start + _BATCH, number] = pack_signs(
                    flat[start : start + _BATCH] @ matrix
                )
        return found.ravel()

    def _near(
        self, waves: Float32[np.ndarray, "N 16 16"], beside: int | None
    ) -> list[tuple[int, int]]:
        """Pairs of a frame and an entry worth comparing: the nearest of each known clip."""
        wanted = keys(waves)
        frames, entries = self._alike_in_a_chunk(wanted)
        words = (wanted[frames] ^ self._keys[entries]).view(np.uint16).reshape(-1, _CHUNKS)
        distance = _ONES[words].sum(axis=1)
        clip = self._clip[entries // len(self._crops)]
        good = distance <= KEY_DISTANCE
        if beside is not None:
            good &= clip != beside
        frames, entries, distance, clip = frames[good], entries[good], distance[good], clip[good]
        pairs: list[tuple[int, int]] = []
        tried: dict[int, set[int]] = {}
        for at in np.lexsort((entries, distance, frames)):
            frame, known = int(frames[at]), int(clip[at])
            clips = tried.setdefault(frame, set())
            if known not in clips and len(clips) < _TRIED:
                clips.add(known)
                pairs.append((frame, int(entries[at])))
        return pairs

    def _alike_in_a_chunk(
        self, wanted: UInt64[np.ndarray, " N"]
    ) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
        """Frames and entries that differ in at most one bit of some quarter of their keys.

        Finds all within 7 bits, and most of those a few bits further away.
        """
        all_frames, all_entries = [], []
        chunks = wanted.view(np.uint16).reshape(-1, _CHUNKS)
        for c in range(_CHUNKS):
            buckets = (chunks[:, c, None] ^ _NEAR).ravel()
            begin = self._first[c][buckets]
            sizes = self._first[c][buckets.astype(np.int64) + 1] - begin
            # Places begin, begin + 1, ... of each bucket, one after the other.
            shift = begin - (np.cumsum(sizes) - sizes)
            places = np.arange(sizes.sum()) + np.repeat(shift, sizes)
            all_entries.append(self._order[c][places].astype(np.int64))
            all_frames.append(np.repeat(np.arange(len(wanted)).repeat(len(_NEAR)), sizes))
        return np.concatenate(all_frames), np.concatenate(all_entries)


def fit(
    seen: Float32[np.ndarray, "16 16"], known: Float32[np.ndarray, "16 16"], crop: Crop
) -> tuple[float, Crop]:
    """Move a crop of a known frame until it looks most like a frame, from near the right place.

    Returns:
        Their likeness, in [-1, 1], and the crop; not fitted further once they are clearly unlike.
    """
    target = vectors(seen)
    best, likeness = crop, float(vectors(cropped(known, crop)) @ target)
    if likeness < _WORTH_FITTING:
        return likeness, best
    for step in (4, 2, 1):
        while True:
            near = _nudged(best, step)
            down = np.stack([resampled(one.top, one.height) for one in near])
            across = np.stack([resampled(one.left, one.width) for one in near])
            alike = vectors(down @ known @ across.swapaxes(1, 2)) @ target
            if not alike.max() > likeness + 1e-4:
                break
            best, likeness = near[int(alike.argmax())], float(alike.max())
        if likeness < _WORTH_REFINING:
            break
    return likeness, best


def _nudged(crop: Crop, step: int) -> list[Crop]:
    """Crops a step away from one: moved, grown or shrunk along one axis."""
    near = [crop]
    for move, grow in (_NUDGES * step).tolist():
        if _fits(crop.left + move, crop.width + grow):
            near.append(crop._replace(left=crop.left + move, width=crop.width + grow))
        if _fits(crop.top + move, crop.height + grow):
            near.append(crop._replace(top=crop.top + move, height=crop.height + grow))
    return near


def _fits(start: int, length: int) -> bool:
    return start >= 0 and length >= _LEAST_SIDE and start + length <= 100


def _copy(clip: int, mirrored: bool, agreeing: list[tuple[float, Crop]]) -> Copy:
    agreeing = sorted(agreeing)
    likeness, crop = agreeing[len(agreeing) // 2]
    return Copy(clip=clip, likeness=likeness, frames=len(agreeing), flipped=mirrored, crop=crop)

"""Random sequences of masks with everything that DAVIS's rules must decide."""

from collections.abc import Iterator

import numpy as np

from toto.metrics.segmentation import VOID, objects_of


def blob(rng: np.random.Generator, height: int, width: int, kind: str) -> np.ndarray:
    """A mask of one kind: empty, full, speckle, a rectangle or an ellipse that may be cut off."""
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(-3, height), rng.integers(-3, width)
    rows, columns = rng.integers(2, height), rng.integers(2, width)
    if kind == "full":
        mask[:] = True
    elif kind == "speckle":
        mask[:] = rng.random(mask.shape) < rng.random()
    elif kind == "rectangle":
        mask[max(0, top) : top + rows, max(0, left) : left + columns] = True
    elif kind == "ellipse":
        y, x = np.mgrid[:height, :width]
        mask[:] = ((y - top) / rows) ** 2 + ((x - left) / columns) ** 2 < 0.3
    return mask


KINDS = ["empty", "full", "speckle", *["rectangle"] * 3, *["ellipse"] * 5]


def sequences(count: int, largest_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield predicted and annotated ids [T H W].

    Objects vanish, enter after the first frame under an id below or above the others, leave with
    it, or fill the image; some truth is void; predictions are shifted truth or nonsense.
    """
    rng = np.random.default_rng(0)
    for _ in range(count):
        frames, objects = int(rng.integers(3, 12)), int(rng.integers(1, 5))
        height, width = rng.integers(8, largest_px, 2)
        truth = np.zeros((frames, height, width), np.uint8)
        predicted = truth.copy()
        for t in range(frames):
            for one in range(1, objects + 1):
                there = blob(rng, height, width, rng.choice(KINDS))
                truth[t][there] = one
                if rng.random() < 0.7:
                    found = np.roll(there, rng.integers(-3, 4, 2), (0, 1))
                else:
                    found = blob(rng, height, width, rng.choice(KINDS))
                predicted[t][found] = one
            if rng.random() < 0.2:
                truth[t][blob(rng, height, width, "rectangle")] = VOID
        if rng.random() < 0.2:
            truth[0][truth[0] == 1] = 0
        if rng.random() < 0.2:
            truth[0][truth[0] == objects] = 0
        if rng.random() < 0.2:
            truth[1:][truth[1:] == objects] = 0
        if not objects_of(truth[0]):
            truth[0, 0, 0] = objects
        inner = predicted[1:-1]
        inner[inner > len(objects_of(truth[0]))] = 0
        yield predicted, truth

"""`toto track --davis` against a naive reading of its protocols, pixel by pixel, small frames."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_dense import dense
from PIL import Image

from toto.jobs.track_davis import TrackDavis
from toto.probe.protocols import PROTOCOLS, Protocol
from toto.video.decode import Decoder
from toto.video.masks import mask_files, read_mask, write_mask
from toto.video.transforms import resize_whole

HEIGHT, WIDTH, FRAMES = 46, 75, 7


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two speckled squares that slide over a speckled ground; a third enters later."""
    rng = np.random.default_rng(0)

    def speckle(height: int, width: int) -> np.ndarray:
        return (
            rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), np.uint8)
            .repeat(3, axis=0)
            .repeat(3, axis=1)[:height, :width]
        )

    ground, things = speckle(HEIGHT, WIDTH), [speckle(16, 16), speckle(14, 20), speckle(9, 9)]
    for t in range(FRAMES):
        frame, ids = ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
        places = [(4, 5 + 3 * t), (28 - t, 50 - 3 * t), (2, 60)]
        for one, (thing, (top, left)) in enumerate(zip(things, places, strict=True), start=1):
            if one < 3 or t > 3:
                where = (slice(top, top + len(thing)), slice(left, left + thing.shape[1]))
                frame[where], ids[where] = thing, one
        name = f"{t:05d}"
        folder = tmp_path / "davis" / "JPEGImages" / "480p" / "squares"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=95)
        annotations = tmp_path / "davis" / "Annotations" / "480p" / "squares"
        write_mask(annotations / f"{name}.png", ids)
    return tmp_path / "davis"


def enlarged(cells: np.ndarray, rows: int, columns: int, how: str) -> np.ndarray:
    """A map of cells as a map of pixels, each pixel looked up alone."""
    height, width = cells.shape
    found = np.empty((rows, columns))
    for y in range(rows):
        for x in range(columns):
            v, u = (y + 0.5) * height / rows, (x + 0.5) * width / columns
            if how == "nearest":
                found[y, x] = cells[int(v), int(u)]
                continue
            v, u = max(v - 0.5, 0), max(u - 0.5, 0)
            top, left = int(v), int(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dv, du = v - top, u - left
            found[y, x] = (1 - dv) * ((1 - du) * cells[top, left] + du * cells[top, right]) + dv * (
                (1 - du) * cells[below, left] + du * cells[below, right]
            )
    return found


def naive(frames: list[np.ndarray], first: np.ndarray, protocol: Protocol) -> list[np.ndarray]:
    """The masks of frames 1 to T-1 under a protocol, with raw pixels as features."""
    config, cell = protocol.propagation, protocol.cell_px
    rows, columns = protocol.grid(HEIGHT, WIDTH)
    features = np.empty((len(frames), rows, columns, 3 * cell * cell))
    for t, frame in enumerate(frames):
        small = resize_whole(frame, (rows * cell, columns * cell)) / 255
        small = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        for y in range(rows):
            for x in range(columns):
                patch = small[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell]
                features[t, y, x] = patch.transpose(2, 0, 1).ravel()
    mask = np.empty((rows, columns, 3))
    for one in range(3):
        mask[..., one] = enlarged((first == one).astype(float), rows, columns, config.mask_resize)
    labels, gap = dense(features, mask, config)
    assert gap > 1e-6
    found = []
    for soft in labels[1:]:
        fine = (HEIGHT, WIDTH)
        if protocol.ids_at == "frames":
            fine = (rows * cell, columns * cell)
        maps = np.stack([enlarged(soft[..., i], *fine, config.mask_enlarge) for i in range(3)])
        if config.normalise_masks:
            low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
            maps = (maps - low) / (high - low)
        ids = maps.argmax(0)
        found.append(enlarged(ids.astype(float), HEIGHT, WIDTH, "nearest").astype(np.uint8))
    return found


def small(protocol: Protocol) -> Protocol:
    """The protocol at a twelfth of its size: cells of 2 px, and a radius of 4 of them."""
    return replace(
        protocol,
        propagation=replace(protocol.propagation, radius=4, context_frames=3),
        side_px={480: 40, 960: 40, 256: 64, 512: 80}.get(protocol.side_px, 0),
        cell_px=4,
        multiple_px=8 if protocol.multiple_px == 64 else 4,
    )


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"demo"}))
def test_masks_are_those_of_the_dense_matrix(
    name: str, davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = small(PROTOCOLS[name])
    monkeypatch.setitem(PROTOCOLS, name, protocol)
    TrackDavis(davis=davis, protocol=(name,), features=("rgb",)).run(tmp_path / "run")
    with Decoder() as decoder:
        frames = [
            decoder.read_image(davis / "JPEGImages/480p/squares" / f"{t:05d}.jpg")
            for t in range(FRAMES)
        ]
        first = read_mask(decoder, davis / "Annotations/480p/squares/00000.png")
        folder = tmp_path / "run" / "masks" / name / "rgb" / "squares"
        got = [read_mask(decoder, path) for path in mask_files(folder).values()]
    np.testing.assert_array_equal(got[0], first)
    for t, expected in enumerate(naive(frames, first, protocol), start=1):
        assert t > 1 or set(np.unique(expected)) == {0, 1, 2}
        np.testing.assert_array_equal(got[t], expected, err_msg=f"frame {t}")


def test_the_grids_are_those_of_the_sources() -> None:
    """What each source's script makes of DAVIS's 854 x 480 px; videowalk's network pads to 107."""
    grids = {name: protocol.grid(480, 854) for name, protocol in PROTOCOLS.items()}
    assert grids["dino-480"] == (60, 854 // 64 * 8)
    assert grids["dinov3-960"] == (60, -(-2 * 854 // 16))
    assert grids["videowalk-2020"] == (60, 107)
    assert grids["toto-256"] == (32, 32)
    assert grids["toto-512"] == (64, 64)
    assert PROTOCOLS["dino-480"].frame_px(854, 480) == (832, 480)

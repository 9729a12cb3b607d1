import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from made_encoders import DEPTH, saved
from made_run_folders import GRID, add_checkpoint, save_run, strange
from toto.jobs.ledger import Ledger
from toto.jobs.pretrain import Pretrain
from toto.jobs.score_davis import ScoreDavis
from toto.jobs.track_davis import TrackDavis, cross_table
from toto.models import LlamaConfig
from toto.probe.protocols import PROTOCOLS
from toto.probe.transformers_encoder import open_encoder
from toto.runtime.folder import RunFolder
from toto.tasks.tracking import track_frames
from toto.video.decode import Decoder
from toto.video.masks import mask_files, read_mask, write_mask

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Three sequences of one bright square each, in the layout of 2016."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cat")):
        ground = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
        thing = rng.integers(120, 256, (16, 16, 3), np.uint8)
        for t in range(FRAMES):
            frame, mask = ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8)
            where = (slice(8, 24), slice(4 + (2 + number) * t, 20 + (2 + number) * t))
            frame[where], mask[where] = thing, 255
            folder = tmp_path / "davis" / "JPEGImages" / "480p" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(folder / f"{t:05d}.jpg", quality=95)
            write_mask(tmp_path / "davis" / "Annotations" / "480p" / name / f"{t:05d}.png", mask)
    return tmp_path / "davis"


@pytest.fixture(autouse=True)
def small_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """`demo` over cells of 8 px: 4 x 6 of them."""
    demo = PROTOCOLS["demo"]
    monkeypatch.setitem(PROTOCOLS, "tiny", replace(demo, unsaid="everything"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=19, width=32, depth=2, heads=2, mlp_width=64, context=66)
    save_run(tmp_path / "run", strange(config))
    assert GRID == (4, 4)  # the frames here have another grid, which a decoder does not mind
    return tmp_path / "run"


def test_scores_are_those_of_the_masks_it_wrote(davis: Path, tmp_path: Path) -> None:
    out = tmp_path / "track"
    result = TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",)).run(out)
    (row,) = result["rows"]
    scored = ScoreDavis(gt=davis, pred=out / row["masks"]).run()
    assert scored["sequences"].keys() == {"ant", "bee", "cat"}
    assert {key: scored[key] for key in row["scores"]} == row["scores"]
    assert row["scores"]["j_mean"] > 0.6
    assert row["layer"] is None
    assert (out / "overlays" / "tiny-rgb.mp4").stat().st_size > 1000
    with Image.open(out / "masks/tiny/rgb/ant/00003.png") as mask:
        assert mask.mode == "P"
    with Image.open(out / "overlays" / "tiny-rgb.png") as overlay:
        assert overlay.width == 4 * WIDTH // 2 + 3 * 2
        assert overlay.height > 4 * HEIGHT // 2 + 2 * 2 + 2 * 14  # words above each half
    assert f"{100 * row['scores']['j_and_f_mean']:.1f}" in cross_table(result)


def test_the_ledger_computes_the_scores_again(davis: Path, tmp_path: Path) -> None:
    out = tmp_path / "track"
    result = TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",)).run(out)
    entries = {entry.name: entry for entry in Ledger(folders=(out,)).run()}
    assert entries.keys() == {"tiny-rgb-j", "tiny-rgb-f", "tiny-rgb-j_and_f"}
    for metric in ("j", "f", "j_and_f"):
        entry = entries[f"tiny-rgb-{metric}"]
        assert not entry.troubles
        assert entry.score is not None
        assert entry.score.value == pytest.approx(result["rows"][0]["scores"][f"{metric}_mean"])
        assert entry.score.reported.samples == 3
        assert entry.score.selection is None


def test_the_layer_is_chosen_on_other_sequences(davis: Path, run: Path, tmp_path: Path) -> None:
    job = TrackDavis(
        davis=davis,
        protocol=("tiny",),
        features=("run", "untrained"),
        run_folder=run,
        choose_on=("cat",),
    )
    result = job.run(tmp_path / "track")
    assert result["sequences"] == ["ant", "bee"]
    for row in result["rows"]:
        assert row["scores"]["sequences"].keys() == {"ant", "bee"}
        assert row["choice"].keys() == {"0", "1", "2"}
        assert row["choice"][str(row["layer"])] == max(row["choice"].values())
        assert row["layer_chosen"] == "on cat"
    score = json.loads((tmp_path / "track/results/score-tiny-run-j.json").read_text())
    assert score["selection"]["among"] == {"layers": 3}
    ours, fresh = result["rows"]
    assert ours["weights"] != fresh["weights"]
    layers = {ours["layer"], fresh["layer"]}
    given = replace(job, choose_on=(), layer=layers.pop(), sequences=("ant", "bee"))
    again = given.run(tmp_path / "again")["rows"]
    assert [row["layer_chosen"] for row in again] == ["given", "given"]
    match = [row for row in result["rows"] if row["layer"] == given.layer]
    for row in match:
        same = next(one for one in again if one["features"] == row["features"])
        assert same["scores"] == row["scores"]


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_an_encoder_of_another_project_tracks(kind: str, davis: Path, tmp_path: Path) -> None:
    job = TrackDavis(
        davis=davis,
        protocol=("tiny",),
        features=("encoder", "untrained-encoder"),
        encoder=saved(tmp_path / kind, kind),
        normalised=True,
        choose_on=("cat",),
        precision="fp32",
    )
    result = job.run(tmp_path / "track")
    read, fresh = result["rows"]
    assert read["choice"].keys() == {str(layer) for layer in range(DEPTH + 1)}
    folder = tmp_path / "track" / read["masks"] / "ant"
    encoder = open_encoder(tmp_path / kind, normalised=True)
    with Decoder() as decoder:
        frames = [
            torch.from_numpy(decoder.read_image(davis / f"JPEGImages/480p/ant/{t:05d}.jpg"))
            for t in range(FRAMES)
        ]
        masks = [read_mask(decoder, path) for path in mask_files(folder).values()]
    layer = read["layer"]
    features = (encoder.features(frame[None], [layer])[layer][0] for frame in frames)
    expected = track_frames(features, masks[0], (1,), PROTOCOLS["tiny"])
    np.testing.assert_array_equal(masks, [*expected])
    scores = {
        row["features"]: json.loads(
            (tmp_path / f"track/results/score-tiny-{row['features']}-j.json").read_text()
        )
        for row in (read, fresh)
    }
    assert [one["model"]["trained"] for one in scores.values()] == [True, False]
    assert scores["encoder"]["model"]["weights_sha256"] == [encoder.digest()]
    assert scores["untrained-encoder"]["model"]["weights_sha256"] != [encoder.digest()]


def test_sizes_alone_make_an_untrained_encoder(davis: Path, tmp_path: Path) -> None:
    (saved(tmp_path / "vit", "vit") / "model.safetensors").unlink()
    job = TrackDavis(
        davis=davis,
        protocol=("tiny",),
        features=("untrained-encoder",),
        encoder=tmp_path / "vit",
        layer=DEPTH,
    )
    (row,) = job.run(tmp_path / "track")["rows"]
    assert row["weights"] == f"fresh, seed 0, in the sizes of {tmp_path / 'vit'}"
    with pytest.raises(ValueError, match="vit has no safetensors; give the folder with the"):
        replace(job, features=("encoder",)).run(tmp_path / "other")


def test_a_second_call_goes_on_where_the_first_was_killed(
    davis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",))
    whole = job.run(tmp_path / "whole")
    real, count = write_mask, 0

    def dies(path: Path, ids: np.ndarray) -> None:
        nonlocal count
        count += 1
        if count == FRAMES + 3:
            raise KeyboardInterrupt
        real(path, ids)

    monkeypatch.setattr("toto.jobs.track_davis.write_mask", dies)
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "killed")
    written = sorted(path.name for path in (tmp_path / "killed/masks/tiny/rgb").iterdir())
    assert written == [".bee", "ant"]
    again = job.run(tmp_path / "killed")
    assert count == FRAMES + 3 + 2 * FRAMES  # the first sequence was not tracked again
    assert again == whole


def test_refuses_to_go_on_after_the_run_trained_on(
    davis: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrackDavis(davis=davis, protocol=("tiny",), run_folder=run, layer=1)

    def dies(path: Path, ids: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toto.jobs.track_davis.write_mask", dies)
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "track")
    pretrain = RunFolder.open(run).config(Pretrain)
    add_checkpoint(run, pretrain, strange(pretrain.model), 40)
    with pytest.raises(ValueError, match=r"has masks of other weights of .*run; choose another"):
        job.run(tmp_path / "track")


def test_cells_of_another_size_change_the_grid(davis: Path, tmp_path: Path) -> None:
    job = TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",), cell_px=4)
    (row,) = job.run(tmp_path / "track")["rows"]
    assert row["protocol"]["cell_px"] == 4


def test_rejects_an_unknown_protocol() -> None:
    with pytest.raises(ValueError, match="protocol 'mae-224' is unknown; there are: demo, dino"):
        TrackDavis(davis=Path(), protocol=("mae-224",), features=("rgb",))


def test_rejects_nothing_to_track() -> None:
    with pytest.raises(ValueError, match="at least one --protocol and one of --features"):
        TrackDavis(davis=Path(), features=())


@pytest.mark.parametrize("fields", [{}, {"layer": 1, "choose_on": ("cat",)}])
def test_rejects_a_layer_that_nobody_or_two_chose(fields: dict) -> None:
    with pytest.raises(ValueError, match="give one of them; choosing the layer on the sequences"):
        TrackDavis(davis=Path(), run_folder=Path("run"), **fields)


def test_rejects_a_sequence_that_chooses_and_is_reported() -> None:
    with pytest.raises(ValueError, match="sequence cat cannot both choose the layer and be"):
        TrackDavis(davis=Path(), choose_on=("cat",), sequences=("ant", "cat"))


def test_rejects_features_of_a_run_without_one(davis: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features 'run' are those of a run; give --run-folder"):
        TrackDavis(davis=davis, protocol=("tiny",), layer=1).run(tmp_path / "track")


def test_rejects_features_of_an_encoder_without_one(davis: Path, tmp_path: Path) -> None:
    job = TrackDavis(davis=davis, protocol=("tiny",), features=("encoder",), layer=1)
    with pytest.raises(ValueError, match="'encoder' are those of another encoder; give --encoder"):
        job.run(tmp_path / "track")


def test_rejects_an_encoder_of_clips(davis: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "videomae", "videomae")
    job = TrackDavis(
        davis=davis, protocol=("tiny",), features=("encoder",), encoder=folder, layer=1
    )
    with pytest.raises(ValueError, match="reads clips, and frames are shown one by one; give an"):
        job.run(tmp_path / "track")


def test_rejects_a_layer_that_is_not_there(davis: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer 7 is not in 0..2 of the model"):
        TrackDavis(davis=davis, protocol=("tiny",), run_folder=run, layer=7).run(tmp_path / "t")


def test_rejects_a_sequence_that_is_not_there(davis: Path, tmp_path: Path) -> None:
    job = TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",), sequences=("dog",))
    with pytest.raises(ValueError, match="has no sequence dog in val"):
        job.run(tmp_path / "track")


def test_rejects_to_choose_on_all_there_is(davis: Path, run: Path, tmp_path: Path) -> None:
    job = TrackDavis(
        davis=davis, protocol=("tiny",), run_folder=run, choose_on=("ant", "bee", "cat")
    )
    with pytest.raises(ValueError, match="no sequence is left to report; name fewer"):
        job.run(tmp_path / "track")


def test_rejects_a_first_mask_without_an_object(davis: Path, tmp_path: Path) -> None:
    write_mask(davis / "Annotations/480p/bee/00000.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match="bee: the first mask has no object to follow"):
        TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",)).run(tmp_path / "track")


def test_rejects_frames_of_another_size_than_the_mask(davis: Path, tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, 24)).save(davis / "JPEGImages/480p/bee/00002.jpg")
    with pytest.raises(
        ValueError, match=r"00002.jpg has 48x24 px, its sequence's first mask 48x32"
    ):
        TrackDavis(davis=davis, protocol=("tiny",), features=("rgb",)).run(tmp_path / "track")

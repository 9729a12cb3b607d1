"""The data report: its numbers are those of the paper's Table 2 on the paper's own hours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from toto.jobs.data_report import (
    PAPER_FPS,
    DataReport,
    mixture_shares,
    paper_table,
    weights,
)
from toto.video.manifest import Row, write_manifest

CLIP = Row(
    source="k600",
    path="a.mp4",
    clip="a",
    sha256="0" * 64,
    status="ok",
    frames=300,
    fps=30.0,
    duration_s=299 / 30,
)
IMAGE = replace(CLIP, source="in", kind="image", frames=1, duration_s=0.0, fps=None)
LOST = replace(CLIP, status="quarantined", stage="crash", reason="signal 11", frames=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """10 clips of 10 s, 32 images, 2 clips of a test split, one clip lost."""
    rows = [replace(CLIP, clip=str(number)) for number in range(10)]
    rows += [replace(IMAGE, clip=str(number)) for number in range(32)]
    rows += [replace(CLIP, clip=f"t{number}", split="test") for number in range(2)]
    write_manifest(tmp_path / "data/manifest.parquet", [*rows, LOST])
    return tmp_path / "data"


def test_the_paper_s_hours_give_its_tokens() -> None:
    for row in paper_table():
        if row["hours"]:
            assert row["tokens_from_hours"] == pytest.approx(row["tokens_every_frame"], rel=0.01)
    rows = {row["name"]: row for row in paper_table()}
    # 1,496 h at every frame are 41.3 G tokens; a stride of 4 leaves 10.3 G.
    assert rows["Kinetics-600"]["tokens_from_hours"] == pytest.approx(41.3e9, rel=1e-3)
    assert rows["Kinetics-600"]["tokens_at_stride"] == pytest.approx(10.325e9)
    assert rows["HowTo100M"]["tokens_from_hours"] == pytest.approx(2560e9, rel=1e-3)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)


def test_passes_over_the_paper_s_sets() -> None:
    passes = {row["name"]: row["passes"] for row in paper_table()}
    assert passes == pytest.approx(
        {"ImageNet": 55.56, "Kinetics-600": 9.685, "Ego4D": 3.883, "HowTo100M": 0.9375}, rel=1e-3
    )


def test_our_account_of_the_paper_s_hours_is_its_table(tmp_path: Path) -> None:
    # 30,000 frames take 1,001 s: the rate of American television.
    clip = replace(CLIP, frames=30_000, duration_s=29_999 / PAPER_FPS)
    write_manifest(tmp_path / "manifest.parquet", [clip])
    (source,) = DataReport(data=(tmp_path,)).run(tmp_path / "out")["sources"]
    assert source["seconds"] == pytest.approx(1001)
    an_hour = source["tokens_every_frame"] * 3600 / source["seconds"]
    assert 1496 * an_hour == pytest.approx(41.3e9, rel=1e-3)
    assert 92_627 * an_hour == pytest.approx(2560e9, rel=1e-3)
    assert source["tokens_at_stride"] == source["tokens_every_frame"] / 4


def test_the_result_counts_what_is_there(folder: Path, tmp_path: Path) -> None:
    result = DataReport(data=(folder,), training_tokens=1e6).run(tmp_path / "out")
    sources = {source["name"]: source for source in result["sources"]}
    assert list(sources) == ["in/train", "k600/test", "k600/train"]
    train, images = sources["k600/train"], sources["in/train"]
    assert (train["clips"], train["lost"], train["frames"]) == (10, 1, 3000)
    assert train["seconds"] == pytest.approx(100)
    assert train["tokens_every_frame"] == 3000 * 256
    assert train["tokens_at_stride"] == train["tokens_in_sequences"] == 750 * 256
    # 75 kept frames a clip: 4 sequences of 16.
    assert train["sequences"] == 40
    assert images["tokens_every_frame"] == images["tokens_at_stride"] == 32 * 256
    assert images["sequences"] == 2
    # Shares by tokens: both are read equally often, and the test split is not.
    assert sources["k600/test"]["share"] == sources["k600/test"]["passes"] == 0
    assert train["share"] + images["share"] == pytest.approx(1)
    assert train["passes"] == pytest.approx(images["passes"])
    assert train["passes"] == pytest.approx(1e6 / (782 * 256))
    assert [loss["reason"] for loss in result["losses"]] == ["signal N"]
    assert json.loads((tmp_path / "out/results/data_report.json").read_text()) == result


def test_a_mixture_decides_the_passes(folder: Path, tmp_path: Path) -> None:
    mixture = ("k600/train=3", "in/train=1")
    result = DataReport(data=(folder,), mixture=mixture, training_tokens=1e6).run(tmp_path / "out")
    sources = {source["name"]: source for source in result["sources"]}
    assert sources["k600/train"]["passes"] == pytest.approx(0.75e6 / (750 * 256))
    assert sources["in/train"]["passes"] == pytest.approx(0.25e6 / (32 * 256))


def test_the_page_shows_the_numbers_and_says_what_table_2_counts(
    folder: Path, tmp_path: Path
) -> None:
    DataReport(data=(folder,)).run(tmp_path / "out")
    page = (tmp_path / "out/data.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["k600/train", "10", "1", "0.03", "768 k", "192 k", "192 k", "40"] in cells
    assert ["total", "44", "1", "0.03", "930 k", "239 k", "239 k", "50"] in cells
    assert ["k600/train", "1", "quarantined (crash)", "signal N", "a.mp4"] in cells
    assert ["HowTo100M", "1.17 M", "92,627", "2,560 G", "2,558 G", "640 G", "60 %", "0.94"] in cells
    assert "The paper's Table 2 counts EVERY frame of its videos." in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(line) for line in tables if "k600" in line and "%" in line} == {
        len(line) for line in tables if line.startswith("| source") and "passes" in line
    }


def test_shares_without_a_training_split_take_what_there_is() -> None:
    assert mixture_shares({"a/test": 30, "b/val": 10}, {}) == {"a/test": 0.75, "b/val": 0.25}
    assert mixture_shares({"a/test": 30, "b/pretrain": 10}, {}) == {"b/pretrain": 1.0}
    assert mixture_shares({"a/train": 0}, {}) == {}
    assert mixture_shares({}, {}) == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": ()}, "give at least one folder"),
        ({"data": (Path("a"), Path("b/../a"))}, "a data folder is given twice"),
        ({"stride": 0}, "stride 0 must be above 0"),
        ({"training_tokens": float("inf")}, "training_tokens inf must be above 0"),
        ({"side_px": 100}, "frames of 100 px do not divide into patches of 8 px"),
        ({"mixture": ("a",)}, "mixture 'a' is not SOURCE/SPLIT=WEIGHT"),
        ({"mixture": ("a=b",)}, "mixture 'a=b' is not SOURCE/SPLIT=WEIGHT"),
        ({"mixture": ("a=0",)}, "mixture 'a=0' is not SOURCE/SPLIT=WEIGHT with a weight above 0"),
        ({"mixture": ("a=1", "a=2")}, "the mixture names a twice"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DataReport(**({"data": (Path("a"),)} | fields))


def test_a_mixture_of_what_is_not_there_is_refused() -> None:
    tokens = {"a/train": 10, "b/train": 0}
    with pytest.raises(ValueError, match=r"mixture's c/train is not there \(usable: a/train\)"):
        mixture_shares(tokens, weights(("c/train=1",)))
    with pytest.raises(ValueError, match="mixture's b/train has no clip that is long enough"):
        mixture_shares(tokens, weights(("b/train=1",)))


def test_a_folder_without_a_manifest_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.parquet; `toto ingest` writes it"):
        DataReport(data=(folder, tmp_path)).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()

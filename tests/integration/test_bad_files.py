"""A folder as people have them: some videos, and much that is none."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from made_demo import moving_picture
from PIL import Image

from toto.cli import main
from toto.jobs.ingest import Ingest
from toto.video.collection import Collection, CollectionConfig
from toto.video.datasets.folder import Folder
from toto.video.write import write_mp4

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for speed in (1, 2):
        write_mp4(folder / f"good-{speed}.mp4", moving_picture(70, speed), fps=12)
    whole = (folder / "good-1.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 20])
    (folder / "empty.mp4").write_bytes(b"")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "picture.png")
    (folder / "notes <b>.txt").write_text("nothing to see\n")
    (folder / "x.mp4").write_text(PLAYLIST)
    write_mp4(folder / "short.mp4", moving_picture(10, 1), fps=12)
    return folder


LAST_LINE = (
    "2 clips; lost: 1 refused (limits), 1 refused (probe), 4 refused (sniff); damaged: 0; {}\n"
)
REASONS = {
    "cut.mp4": "",
    "empty.mp4": "empty",
    "notes <b>.txt": "not a video",
    "picture.png": "not a video",
    "short.mp4": "10 frames are too few for a clip, which needs 61",
    "x.mp4": "not a video",
}


def test_bad_files_are_listed_with_reasons_and_the_others_carry_on(
    mixed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run" / "data"
    monkeypatch.setattr(sys, "argv", ["toto", "ingest", "--videos", str(mixed), "--out", str(out)])
    main()
    assert capsys.readouterr().out == LAST_LINE.format(out)
    refused = json.loads((out / "results" / "ingest.json").read_text())["lost"]
    assert {row["path"] for row in refused} == set(REASONS)
    for row in refused:
        assert REASONS[row["path"]] in row["reason"]
        assert row["reason"]
        assert row["stage"]
    assert [row.path for row in Collection(out).clips] == ["good-1.mp4", "good-2.mp4"]

    monkeypatch.setattr(sys, "argv", ["toto", "report", "--out", str(out.parent)])
    main()
    page = (out.parent / "report.html").read_text()
    for name in REASONS:
        assert name.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "notes <b>" not in page
    assert "10 frames are too few" in page


def test_a_folder_of_too_short_videos_says_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_mp4(tmp_path / "videos" / "short.mp4", moving_picture(10, 1), fps=12)
    with pytest.raises(
        ValueError, match=r"needs 61 frames \(the longest has 10\); choose a smaller"
    ):
        Ingest(dataset=Folder(root=tmp_path / "videos")).run(tmp_path / "out")


def test_a_finished_ingest_is_not_done_again_and_an_unfinished_one_is_refused(
    videos: Path, tmp_path: Path
) -> None:
    job = Ingest(dataset=Folder(root=videos), collection=CollectionConfig(stride=1))
    out = tmp_path / "out"
    first = job.run(out)
    written = (out / "manifest.parquet").stat().st_mtime_ns
    assert job.run(out) == first
    assert (out / "manifest.parquet").stat().st_mtime_ns == written
    (out / "results" / "ingest.json").unlink()
    with pytest.raises(ValueError, match="ingest has not finished; run `toto ingest` again"):
        Collection(out)


def test_real_clips_are_ingested_beside_damaged_ones(data_root: Path, tmp_path: Path) -> None:
    real = data_root / "clips"
    if not real.is_dir():
        pytest.skip(f"no clips at {real}")
    names = ["RATRACE_wave_f_nm_np1_fr_goo_37.avi", "R6llTwEh07w.mp4"]
    (tmp_path / "videos").mkdir()
    for name in names:
        shutil.copyfile(real / name, tmp_path / "videos" / name)
    whole = (real / names[1]).read_bytes()
    (tmp_path / "videos" / "cut.mp4").write_bytes(whole[:2000])
    result = Ingest(dataset=Folder(root=tmp_path / "videos")).run(tmp_path / "out")
    assert [row["path"] for row in result["lost"]] == ["cut.mp4"]
    assert result["sources"][0]["clips"] == 2


def test_every_real_clip_is_ingested(data_root: Path, tmp_path: Path) -> None:
    real = data_root / "clips"
    if not real.is_dir():
        pytest.skip(f"no clips at {real}")
    result = Ingest(dataset=Folder(root=real)).run(tmp_path / "out")
    assert result["lost"] == []
    assert result["sources"][0]["clips"] == len(list(real.iterdir()))

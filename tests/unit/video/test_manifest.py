from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toto.video.manifest import Row, read_manifest, write_manifest

OK = Row(
    source="folder",
    path="täst/a b.mp4",
    clip="a b",
    sha256="0" * 64,
    file_bytes=1000,
    status="ok",
    start_s=1.5,
    end_s=4.0,
    first_frame=38,
    frames=20,
    width=64,
    height=48,
    fps=25.0,
    duration_s=0.76,
    label="0",
    fingerprint=b"\x00\xff",
)
REFUSED = Row(
    source="folder",
    path="x",
    clip="x",
    kind="image",
    sha256=None,
    status="refused",
    stage="sniff",
    reason="a PNG image",
)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "split=train" / "manifest.parquet"
    write_manifest(path, [OK, REFUSED])
    assert read_manifest(path) == [OK, REFUSED]
    write_manifest(path, iter([REFUSED]))
    assert read_manifest(path) == [REFUSED]
    assert [file.name for file in path.parent.iterdir()] == ["manifest.parquet"]


def test_a_failure_leaves_the_old_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [OK])

    def rows() -> object:
        yield REFUSED
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, rows())  # type: ignore[arg-type]
    assert read_manifest(path) == [OK]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"source": ["x"]}), "column path is missing, expected string"),
        (None, "column colour is string, expected no such column; ingest the videos again"),
    ],
)
def test_other_columns_are_refused(table: pa.Table | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [OK])
    if table is None:
        table = pq.read_table(path).append_column("colour", pa.array(["red"]))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=f"manifest.parquet: {words}"):
        read_manifest(path)


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    path.write_text("source,path\n")
    with pytest.raises(ValueError, match=r"manifest\.parquet is not a manifest"):
        read_manifest(path)


def test_rows_that_say_nothing_are_refused() -> None:
    with pytest.raises(
        ValueError, match="x: status is one of ok, refused, quarantined, missing, blocked, "
    ):
        replace(REFUSED, status="fine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an ok row has at least 1 frame, got 0"):
        replace(OK, frames=0)
    with pytest.raises(ValueError, match="x: a refused row says its stage and reason"):
        replace(REFUSED, reason=None)

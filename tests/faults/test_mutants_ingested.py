"""Damaged media on their way through ingest and tokenise: a row for each, and none unseen.

How much damage shows by looking at a file alone is in `test_mutants`; that a file is no longer what
ingest saw shows always.
"""

import os
import random
from collections import Counter
from pathlib import Path

import mutants
import pytest

from toto.jobs.ingest import Ingest, Workers
from toto.jobs.tokenize import Tokenize, TokenizeWorkers
from toto.video.collection import CollectionConfig
from toto.video.datasets.folder import Folder
from toto.video.manifest import read_manifest

pytestmark = pytest.mark.faults
SEED = int(os.environ.get("TOTO_MUTANTS_SEED", "0"))
COUNT = {"": 100, "ci": 500, "nightly": 10_000}[os.environ.get("TOTO_FAULTS", "")]
CLIPS = CollectionConfig(frames=2, stride=1, side_px=32)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return mutants.make_seeds(tmp_path_factory.mktemp("seeds"))


def test_every_mutant_has_a_row(seeds: dict[str, list[Path]], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, (_, path, kind, data) in enumerate(mutants.mutants(seeds, COUNT, SEED)):
        (tmp_path / f"videos/{number:05d}-{kind.replace(' ', '-')}{path.suffix}").write_bytes(data)
    job = Ingest(dataset=Folder(root=tmp_path / "videos", holds="videos"), collection=CLIPS)
    job.run(tmp_path / "data", Workers(workers=2))
    rows = read_manifest(tmp_path / "data/manifest.parquet")
    assert len(rows) == len({row.path for row in rows}) == COUNT
    assert {row.path for row in rows} == {path.name for path in (tmp_path / "videos").iterdir()}
    outcomes = Counter(row.status for row in rows)
    assert set(outcomes) <= {"ok", "refused", "quarantined"}
    assert all(row.reason and row.stage for row in rows if row.status != "ok")
    assert all(row.sha256 for row in rows)
    damaged = sum(row.status == "ok" and row.reason is not None for row in rows)
    assert damaged > COUNT / 10
    assert outcomes["refused"] > COUNT / 20


def test_a_file_that_changed_since_ingest_is_always_found(
    seeds: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Whatever the change, and also where not one pixel differs."""
    (tmp_path / "videos").mkdir()
    kept = [paths[0] for paths in seeds.values()]
    for path in kept:
        (tmp_path / "videos" / path.name).write_bytes(path.read_bytes())
    Ingest(dataset=Folder(root=tmp_path / "videos"), collection=CLIPS).run(tmp_path / "data")
    usable = {r.path for r in read_manifest(tmp_path / "data/manifest.parquet") if r.status == "ok"}
    assert len(usable) == len(kept)
    draw = random.Random(SEED)
    for path in kept:
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "videos" / path.name).write_bytes(data)
    untouched = tmp_path / "videos" / kept[0].name
    untouched.write_bytes(kept[0].read_bytes())
    job = Tokenize(data=(tmp_path / "data",), tokenizer="grey")
    job.run(tmp_path / "shards", TokenizeWorkers(workers=2))
    rows = read_manifest(tmp_path / "shards/manifest.parquet")
    assert {row.path for row in rows if row.status == "ok"} == {kept[0].name}
    lost = [row for row in rows if row.status != "ok"]
    assert len(lost) == len(kept) - 1
    assert {(row.status, row.stage) for row in lost} == {("quarantined", "changed")}
    assert {row.reason for row in lost} == {"it has changed since it was ingested; ingest again"}

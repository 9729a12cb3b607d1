"""Media with a few bytes changed: no mutant ends this process, and most of the damage is seen.

What stays unseen is a few wrong blocks where codes find their way back (MJPEG, MPEG-2, MPEG-4), and
what ends a frame where its bytes end. The hash of a file's bytes, where ingest has seen it whole,
misses nothing. TOTO_MUTANTS_SEED draws other mutants.
"""

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import mutants
import numpy as np
import pytest

from toto.video.decode import STAGES, Decoder, VideoRefusedError, uploaded

pytestmark = pytest.mark.faults
SEED = int(os.environ.get("TOTO_MUTANTS_SEED", "0"))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return mutants.make_seeds(tmp_path_factory.mktemp("seeds"))


def pictures(decoder: Decoder, path: Path) -> str:
    """Tell the frames of a file in a few letters; times are left out."""
    frames = decoder.read(path).frames
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest() + str(frames.shape)


def test_whole_files_are_not_flagged(seeds: dict[str, list[Path]]) -> None:
    with Decoder() as decoder:
        flagged = {
            path.name: damage
            for paths in seeds.values()
            for path in paths
            if (damage := decoder.scan(path).damage())
        }
    assert flagged == {}


@pytest.mark.parametrize(
    ("count", "least"),
    [pytest.param(500, 0.93), pytest.param(10_000, 0.95, marks=pytest.mark.slow)],
)
def test_most_changed_pictures_are_flagged(
    count: int, least: float, seeds: dict[str, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    changed, seen, outcomes = Counter[str](), Counter[str](), Counter[str]()
    began = time.monotonic()
    with Decoder() as decoder:
        whole = {path: pictures(decoder, path) for paths in seeds.values() for path in paths}
        hashes = {hashlib.sha256(path.read_bytes()).digest() for path in whole}
        for pair, path, kind, data in mutants.mutants(seeds, count, SEED):
            assert hashlib.sha256(data).digest() not in hashes
            with uploaded(data) as file:
                flagged, same = True, False
                try:
                    flagged = decoder.scan(file).damage() is not None
                    same = pictures(decoder, file) == whole[path]
                    outcome = "flagged" if flagged else "ok"
                except VideoRefusedError as refused:
                    outcome = refused.stage if refused.reason else "no reason"
            outcomes[outcome] += 1
            if not same:
                changed.update((pair, kind, "all"))
                seen.update(dict.fromkeys((pair, kind, "all"), int(flagged)))
    with capsys.disabled():
        print(f"\nseed {SEED}: {count} mutants in {time.monotonic() - began:.0f} s, {outcomes}")
        for name, of in sorted(changed.items()):
            print(f"  {name:20} {seen[name] / of:6.1%} of {of}")
    assert outcomes.total() == count
    assert set(outcomes) <= {"ok", "flagged", *STAGES}
    assert seen["all"] >= least * changed["all"]

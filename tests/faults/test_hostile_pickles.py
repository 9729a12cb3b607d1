"""Hostile weights files: each is refused by name, and what it asks for does not happen.

The payloads are in `made_pickles` and `made_tricks`; they are put into each place of a weights
file where a pickle can be, and read as weights are read.
"""

import io
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_pickles import (
    CALLS,
    OTHERS,
    RUN_ALONE,
    WRAPPINGS,
    called,
    called_by_stack,
    instance,
    no_use,
    object_,
    opens,
    touch,
    zipped,
)
from made_tricks import SPECIAL, tensor
from safetensors.torch import save_file

from toto.tokenizers.pickles import read_state

pytestmark = pytest.mark.faults


def calls_everything() -> list[Any]:
    cases = []
    targets = list(RUN_ALONE) + [tuple(name.rsplit(".", 1)) for name in OTHERS]
    ways = [(call, wrapping) for call in CALLS for wrapping in WRAPPINGS]
    for number, (module, name) in enumerate(targets):
        # The commonest place with the commonest call, and two more by turns: all pairs come up.
        chosen = {("reduce", "zip"), ways[number % len(ways)], ways[(7 * number + 3) % len(ways)]}
        cases += [
            pytest.param(call, wrapping, module, name, id=f"{call}-{wrapping}-{module}.{name}")
            for call, wrapping in sorted(chosen)
        ]
    return cases


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The file that must not come to be, and a script that would make it."""
    path = tmp_path / "canary"
    path.with_suffix(".py").write_text(*opens(str(path)))
    return path


def refuse(path: Path, data: bytes, match: str, canary: Path) -> None:
    path.write_bytes(data)
    before = time.perf_counter()
    with pytest.raises(ValueError, match=match) as refusal:
        read_state(path)
    assert time.perf_counter() - before < 5
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(path)) + 400
    assert not canary.exists()


@pytest.mark.parametrize(("call", "wrapping", "module", "name"), calls_everything())
def test_no_call_is_made(
    tmp_path: Path, canary: Path, call: str, wrapping: str, module: str, name: str
) -> None:
    values = RUN_ALONE.get((module, name), no_use)(str(canary))
    payload = CALLS[call](module, name, values)
    data = WRAPPINGS[wrapping](payload)
    asked = f"asks for {module}.{name}".replace(".", r"\.")
    used = rf"operation 'INST {module} {name}"
    refuse(tmp_path / "weights.pkl", data, f"refused: it ({asked}|uses the {used})", canary)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin", ".safetensors", ".json", ""])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_name_of_the_file_decides_nothing(
    tmp_path: Path, canary: Path, suffix: str, wrapping: str
) -> None:
    data = WRAPPINGS[wrapping](called("os", "system", touch(str(canary))))
    refuse(tmp_path / f"weights{suffix}", data, "it asks for os.system, which no weights", canary)


@pytest.mark.parametrize("wrapping", ["zip", "legacy"])
@pytest.mark.parametrize("shape", SPECIAL)
def test_no_trick_works(tmp_path: Path, canary: Path, shape: str, wrapping: str) -> None:
    payload, match = SPECIAL[shape]
    refuse(tmp_path / "weights.pkl", WRAPPINGS[wrapping](payload), match, canary)


def test_a_text_pickle_is_not_even_read(tmp_path: Path, canary: Path) -> None:
    data = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    refuse(tmp_path / "weights.pkl", data, r"never write; it begins with b.cos\\nsystem", canary)


def test_archives_with_more_than_weights(tmp_path: Path, canary: Path) -> None:
    hostile, path = called("os", "system", touch(str(canary))), tmp_path / "weights.pkl"
    good = tensor(0, (4,), (1,))
    buffer = io.BytesIO(zipped(good))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", hostile)
    refuse(path, buffer.getvalue(), "without a single data.pkl", canary)
    buffer = io.BytesIO(zipped(good))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data.pkl", hostile)
    refuse(path, buffer.getvalue(), "without a single data.pkl", canary)
    refuse(path, zipped(zipped(hostile)), "refused", canary)
    # What is no part of the weights is never opened.
    path.write_bytes(zipped(good, **{"evil.pkl": hostile, "code/evil.py": b"import os"}))
    assert torch.equal(read_state(path)["a"], torch.zeros(4))
    assert not canary.exists()


def test_an_archive_that_says_it_is_larger_than_it_is(tmp_path: Path, canary: Path) -> None:
    data = bytearray(zipped(tensor(0, (4,), (1,))))
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    refuse(tmp_path / "weights.pkl", bytes(data), "larger than the file", canary)


def test_the_canary_is_alive(tmp_path: Path) -> None:
    """Plain pickle, in another process, does what most of the payloads ask for."""
    for number, (module_name, name) in enumerate(RUN_ALONE):
        canary = tmp_path / f"{number}-canary"
        (tmp_path / f"{number}-canary.py").write_text(*opens(str(canary)))
        values = RUN_ALONE[module_name, name](str(canary))
        ways = [called, called_by_stack] if number % 2 else [called_by_stack, called]
        ways = [instance, object_, *ways] if name in ("FileIO", "ZipFile", "GzipFile") else ways
        (tmp_path / f"{number}.pkl").write_bytes(ways[0](module_name, name, values))
    program = (
        "import pathlib, pickle, sys\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.pkl'):\n"
        "    try: pickle.loads(path.read_bytes())\n"
        "    except Exception as error: print(path, error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    untouched = [
        target
        for number, target in enumerate(RUN_ALONE)
        if not (tmp_path / f"{number}-canary").exists()
    ]
    assert not untouched, (untouched, ran.stdout)


def good_file(path: Path, kind: str) -> dict[str, torch.Tensor]:
    state = {"a.weight": torch.randn(5, 3), "b.bias": torch.randn(7), "n": torch.tensor(3)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return state


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_is_refused_or_harmless(tmp_path: Path, kind: str) -> None:
    """300 mutations and 100 cuts: a reason or a state, at once, and never another exception.

    Only the archive has checksums, so only there a state that is read must be the one saved; in
    the other two a changed weight can be told by the file's sha256 alone.
    """
    path, random_ = tmp_path / "weights.pkl", random.Random(0)
    state = good_file(path, kind)
    good, refused = path.read_bytes(), 0
    for number in range(400):
        data = bytearray(good)
        if number < 300:
            for _ in range(random_.choice([1, 1, 2, 8])):
                data[random_.randrange(len(data))] = random_.randrange(256)
        else:
            del data[random_.randrange(len(data)) :]
        path.write_bytes(data)
        before = time.perf_counter()
        try:
            found = read_state(path)
        except ValueError:
            refused += 1
        else:
            assert number < 300 or kind == "legacy"
            if kind == "zip":
                assert list(found) == list(state)
                assert all(torch.equal(found[name], state[name]) for name in state)
        assert time.perf_counter() - before < 1
    assert refused > 150


def test_numpy_is_not_asked_to_make_anything(tmp_path: Path, canary: Path) -> None:
    """An array of objects is a pickle in a pickle."""
    data = zipped(pickle.dumps({"a": np.array([1.0])}, protocol=2))
    refuse(tmp_path / "weights.pkl", data, "asks for numpy.*_reconstruct", canary)

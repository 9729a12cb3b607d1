import argparse
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import made_dalle
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toto.tokenizers.pickles import read_state

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def save(value: Any, path: Path, legacy: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@FORMATS
def test_a_whole_module_of_dalle_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    for part in made_dalle.pair(count=2):
        with monkeypatch.context() as package:
            made_dalle.installed(package)
            path = save(part, tmp_path / "part.pkl", legacy)
        assert "dall_e" not in sys.modules
        found = read_state(path)
        assert len(found) == {"Encoder": 74, "Decoder": 76}[type(part).__name__]
        assert_same(found, part.state_dict())


@FORMATS
def test_the_real_package(tmp_path: Path, legacy: bool) -> None:
    dall_e = pytest.importorskip("dall_e", reason="DALL-E is installed by hand")
    encoder = dall_e.Encoder(n_hid=64, vocab_size=512, n_blk_per_group=1)
    path = save(encoder, tmp_path / "encoder.pkl", legacy)
    assert_same(read_state(path), encoder.state_dict())


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_of_every_type_and_layout(tmp_path: Path, legacy: bool, protocol: int) -> None:
    base = torch.arange(24.0).view(4, 6)
    state = OrderedDict(
        plain=base,
        transposed=base.T,
        slice=base[1:3, ::2],
        scalar=torch.tensor(3.5),
        nothing=torch.empty(0, 7),
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        double=torch.randn(3).double(),
        counter=torch.tensor(5),
        small=torch.tensor([1, -2], dtype=torch.int16),
        bytes=torch.tensor([1, 2], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        parameter=nn.Parameter(torch.randn(2, 2)),
    )
    path = tmp_path / "state.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    assert_same(read_state(path), state)


@FORMATS
def test_a_module_with_buffers_and_parts_left_out(tmp_path: Path, legacy: bool) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Sequential(nn.Linear(2, 3)))
    module[1].register_buffer("count", torch.tensor(3))
    module[1].register_module("gone", None)
    path = save(module, tmp_path / "module.pt", legacy)
    found = read_state(path)
    assert_same(found, dict(module.state_dict()))
    assert list(found) == ["0.weight", "1.count", "1.0.weight", "1.0.bias"]


@FORMATS
def test_a_checkpoint_of_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    name = "pytorch_lightning.callbacks.model_checkpoint"
    checkpoint_class = type("ModelCheckpoint", (), {"__module__": name})
    config_class = type("DictConfig", (dict,), {"__module__": "omegaconf.dictconfig"})
    config = config_class(lr=1e-3)
    config.parent = None
    weights = {"encoder.conv_in.weight": torch.randn(2, 3), "loss.logvar": torch.tensor(0.0)}
    checkpoint = {
        "epoch": 7,
        "global_step": 10**12,
        "callbacks": {checkpoint_class: {"best": torch.tensor(1.0), "path": None}},
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.randn(4)}}}],
        "hyper_parameters": config,
        "counts": defaultdict(int, a=1),
        "best": np.float64(0.25),
        "seen": {1, 2},
        "state_dict": weights,
    }
    with monkeypatch.context() as packages:
        for cls in (checkpoint_class, config_class):
            parts = cls.__module__.split(".")
            for count in range(1, len(parts) + 1):
                package = types.ModuleType(".".join(parts[:count]))
                packages.setitem(sys.modules, package.__name__, package)
            setattr(package, cls.__name__, cls)
        path = save(checkpoint, tmp_path / "last.ckpt", legacy)
    assert_same(read_state(path), weights)


def test_a_checkpoint_that_calls_them_model(tmp_path: Path) -> None:
    weights = {"quantize.embedding.weight": torch.randn(2, 3)}
    checkpoint = {"model": weights, "steps": 5, "args": argparse.Namespace(lr=1.0)}
    assert_same(read_state(save(checkpoint, tmp_path / "vq.pt", legacy=False)), weights)


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    weights = {"a": torch.arange(4), "b": torch.randn(2, 3)}
    save_file(weights, tmp_path / "weights.bin")
    assert_same(read_state(tmp_path / "weights.bin"), weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty.pkl: not weights but an empty file; the download did not happen"),
        (b"\n<!DOCTYPE html><html>", "not weights but a web page; the link .* is dead"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer; `git lfs pull`"),
        (b"\x1f\x8b\x08\x00", "a gzip archive; unpack it first"),
        (bytes(257) + b"ustar\x00", "a tar archive; torch before 0.4 wrote those"),
        (b'{"weights": 1}', r"""never write; it begins with b'\{"weights": 1\}'"""),
        (b"PK\x03\x04" + bytes(100), "refused: a cut or damaged zip archive, download it again"),
        ((90).to_bytes(8, "little") + b"{}", "empty.pkl: refused: .*header"),
        (b"\x80\x02}q\x00.", "a pickle, but not of weights: torch.save did not write it"),
        (b"\x80\x02}q\x00", "refused: pickle exhausted before seeing STOP"),
        (pickle.dumps(json.loads), "it asks for json.loads, which no weights need"),
    ],
)
def test_says_what_is_not_weights(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "empty.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(1)], "it holds a list, no state dict and no module with weights"),
        ({}, "it holds a dict, no state dict"),
        ({"epoch": 3, "weight": torch.ones(1)}, "'epoch' is a int, not a tensor"),
        ({3: torch.ones(1)}, "3 is not the name of a weight"),
        ({"state_dict": {"a" * 1001: torch.ones(1)}}, "is not the name of a weight"),
        (
            argparse.Namespace(a=torch.ones(1)),
            "'what it holds' is a argparse.Namespace, not a module",
        ),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"a": torch.ones(3).to_sparse()}, "asks for torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_says_what_holds_no_state(tmp_path: Path, value: Any, message: str) -> None:
    path = save(value, tmp_path / "other.pt", legacy=False)
    with pytest.raises(ValueError, match=message):
        read_state(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "none.pkl")


def rewrite(path: Path, **changes: Any) -> None:
    """Write the archive again: members replaced, left out (None), or all compressed."""
    compression = changes.pop("compression", zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as old:
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    members |= changes.pop("members", {})
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, data in members.items():
            if data is not None:
                new.writestr(f"archive/{name}", data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "larger than the file|is compressed"),
        ({"members": {"byteorder": b"big"}}, "written on a big-endian machine"),
        ({"members": {"data/0": None}}, "there is no data/0 in the archive"),
        ({"members": {"data/0": bytes(396)}}, "has 396 bytes, its tensors need 400"),
        ({"members": {"data/0": bytes(404)}}, "has 404 bytes, its tensors need 400"),
        ({"members": {"data.pkl": None}}, "a zip archive without a single data.pkl"),
        ({"members": {"data.pkl": bytes(16 * 2**20 + 1)}}, "its pickle has 16777217 bytes"),
    ],
)
def test_refuses_an_archive_that_torch_would_not_write(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = save({"a": torch.zeros(100)}, tmp_path / "state.pt", legacy=False)
    rewrite(path)
    assert_same(read_state(path), {"a": torch.zeros(100)})
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message):
        read_state(path)


def test_refuses_a_flipped_bit_in_a_tensor(tmp_path: Path) -> None:
    path = save({"a": torch.full((100,), 1.5)}, tmp_path / "state.pt", legacy=False)
    data = path.read_bytes()
    place = data.index(torch.full((100,), 1.5).numpy().tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(ValueError, match=r"data/0 is damaged, download the file again .*CRC"):
        read_state(path)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (1, "799 bytes are too few for its storages: it was cut short"),
        (405, "a storage has not the size that its tensors say|too few"),
    ],
)
def test_refuses_a_legacy_file_that_was_cut(tmp_path: Path, cut: int, message: str) -> None:
    path = save({"a": torch.zeros(100)}, tmp_path / "state.pt", legacy=True)
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    with pytest.raises(ValueError, match=message.replace("799", str(len(data) - cut))):
        read_state(path)


def test_refuses_a_legacy_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    path = save({"a": torch.zeros(1)}, tmp_path / "state.pt", legacy=True)
    data = path.read_bytes()
    key = data.index(b"little_endian") + len(b"little_endian")
    place = data.index(b"\x88", key)  # True
    path.write_bytes(data[:place] + b"\x89" + data[place + 1 :])
    with pytest.raises(ValueError, match="written on a big-endian machine"):
        read_state(path)

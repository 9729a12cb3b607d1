"""No damage to a tokenizer's folder gives other tokens: it is named, or it changed nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from toto.tokenizers import DVAEConfig, GreyConfig, load_tokenizer, save_tokenizer

pytestmark = pytest.mark.faults

TINY = DVAEConfig(vocab_size=4, width=4, decoder_stem=4, blocks_per_group=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A discrete VAE, the smallest there is."""
    save_tokenizer(TINY.build(), tmp_path / "saved")
    return tmp_path / "saved"


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in described.items() if v is not ...}))


def test_every_changed_byte_of_the_description_is_named(folder: Path) -> None:
    file = folder / "tokenizer.json"
    data, digest = file.read_bytes(), load_tokenizer(folder).digest()
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        file.write_bytes(damaged)
        try:
            loaded = load_tokenizer(folder)
        except ValueError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:
            assert json.loads(damaged) == json.loads(data)
            assert loaded.digest() == digest


def test_changed_weights_are_named(folder: Path) -> None:
    file = folder / "weights.safetensors"
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    # Bytes of what says where the weights are, of the weights, and the last.
    places = [*range(8), *range(8, header, 61), *range(header, len(data), len(data) // 30)]
    places.append(len(data) - 1)
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"saved.*: not the weights|the weights do not match"):
            load_tokenizer(folder)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_cut_off_weights_are_named(folder: Path, size: int) -> None:
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"weights\.safetensors: not the weights of this tokeniz"):
        load_tokenizer(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors: not the weights of this tokeniz"):
        load_tokenizer(folder)


def test_weights_of_another_tokenizer_are_named(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_tokenizer(TINY.build(), tmp_path / "other")
    other = (tmp_path / "other" / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(other)
    with pytest.raises(ValueError, match=r"saved: the weights do not match the digest in tokenize"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{}", b"\xff\xfe", b'{"name": "grey"}'])
def test_any_other_description_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer's description"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["name", "digest", "config"])
def test_a_missing_part_of_the_description_is_named(folder: Path, name: str) -> None:
    edit(folder, **{name: ...})
    with pytest.raises(ValueError, match=rf"not a tokenizer's description \(KeyError\('{name}'"):
        load_tokenizer(folder)


def test_another_version_is_named(folder: Path) -> None:
    edit(folder, schema=2)
    with pytest.raises(ValueError, match=r"tokenizer 'dvae', schema 2; this version reads schema"):
        load_tokenizer(folder)


def test_an_unknown_kind_is_named(folder: Path) -> None:
    edit(folder, name="magvit")
    with pytest.raises(
        ValueError, match=r"tokenizer 'magvit', schema 1; .* of dvae, grey, vqgan, vqvae"
    ):
        load_tokenizer(folder)


def test_a_config_that_is_none_is_named(folder: Path) -> None:
    edit(folder, config={"width": 4})
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: not a config of tokenizer 'dvae': voca"
    ):
        load_tokenizer(folder)


def test_a_config_that_was_edited_is_found(tmp_path: Path) -> None:
    """Without weights, nothing but the digest can tell."""
    save_tokenizer(GreyConfig(levels=8).build(), tmp_path / "grey")
    edit(tmp_path / "grey", config={"patch_px": 8, "levels": 9})
    with pytest.raises(ValueError, match=r"grey: the weights do not match the digest"):
        load_tokenizer(tmp_path / "grey")


def test_grey_is_opened_by_name() -> None:
    assert load_tokenizer("grey").digest() == GreyConfig().build().digest()


def test_says_that_a_trained_tokenizer_has_no_name_alone() -> None:
    with pytest.raises(
        ValueError, match=r"no tokenizer 'dvae' \(it needs trained weights: give their folder\)"
    ):
        load_tokenizer("dvae")


def test_says_what_is_known_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no tokenizer '.*nowhere': known by name: toto-8k, grey; or give"
    ):
        load_tokenizer(tmp_path / "nowhere")

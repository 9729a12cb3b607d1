import hashlib
import json
from pathlib import Path
from typing import Any

import made_dalle
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from toto.config import to_dict
from toto.runtime import durable
from toto.tokenizers import DVAE, load_tokenizer, vqvae
from toto.tokenizers.convert import FINGERPRINTS, convert, dvae_from_published, part_of
from toto.tokenizers.dvae import DVAEConfig, map_pixels
from toto.tokenizers.vqgan import VQGANConfig


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A small encoder.pkl and decoder.pkl as the package of DALL-E would write them."""
    made = []
    with monkeypatch.context() as package:
        made_dalle.installed(package)
        for part, name in zip(made_dalle.pair(), ("encoder.pkl", "decoder.pkl"), strict=True):
            torch.save(part, tmp_path / name)
            made.append(tmp_path / name)
    return made


def save(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def published_names(model: DVAE, part: str) -> dict[str, Tensor]:
    """The part's weights, named as DALL-E's package does."""
    return {
        name.replace(".weight", ".w").replace(".bias", ".b"): tensor
        for name, tensor in model.get_submodule(part).state_dict().items()
    }


def flava_names(model: DVAE) -> dict[str, Tensor]:
    found = {}
    for name, tensor in model.encoder.state_dict().items():
        parts = name.split(".")
        if parts[1].startswith("group"):
            parts.insert(2, "group")
        if "res_path" in parts:
            parts.insert(parts.index("res_path") + 1, "path")
        found[".".join(parts)] = tensor
    return found


def small(**changes: Any) -> DVAE:
    sizes = {"vocab_size": 24, "width": 4, "decoder_stem": 8, "blocks_per_group": 1}
    model = DVAEConfig(**(sizes | changes)).build().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    return model


@pytest.mark.parametrize("turned", [False, True])
def test_every_tensor_of_the_pickles_finds_its_place(
    files: list[Path], tmp_path: Path, turned: bool
) -> None:
    out = tmp_path / "made" / "tokenizer"
    result = convert(files[::-1] if turned else files, out, kind="dvae")
    torch.manual_seed(0)
    parts = dict(zip(("encoder", "decoder"), made_dalle.pair(), strict=True))
    tokenizer = load_tokenizer(out)
    assert isinstance(tokenizer, DVAE)
    expected = {
        f"{part}.{name.removesuffix('.w').removesuffix('.b')}."
        f"{'weight' if name.endswith('.w') else 'bias'}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    found = tokenizer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert result["kind"] == "dvae"
    assert result["name"] == "dvae"
    assert result["digest"] == tokenizer.digest()
    assert result["parameters"] == sum(tensor.numel() for tensor in expected.values())
    assert result["config"] == json.loads((out / "tokenizer.json").read_text())["config"]


def test_beside_the_tokenizer_is_what_it_was_made_from(files: list[Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert(files, tmp_path / name, kind="dvae")
    source = (tmp_path / "one" / "source.json").read_bytes()
    assert source == (tmp_path / "two" / "source.json").read_bytes()
    assert json.loads(source) == {
        "kind": "dvae",
        "files": [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        ],
    }
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "source.json",
        "tokenizer.json",
        "weights.safetensors",
    ]


def test_what_openai_published_has_one_size(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError,
        match=r"the encoder has 42 tensors with [\d,]+ parameters, OpenAI's has 74 with "
        "53,786,240; for a dVAE of another size give the kind dvae",
    ):
        convert(files, tmp_path / "out")
    sizes = {
        "encoder": (42, sum(p.numel() for p in made_dalle.pair()[0].parameters())),
        "decoder": (44, 1),
    }
    monkeypatch.setattr("toto.tokenizers.convert.FINGERPRINTS", sizes)
    with pytest.raises(ValueError, match=r"the decoder has 44 tensors with [\d,]+ parameters"):
        convert(files, tmp_path / "out")
    sizes["decoder"] = (44, sum(p.numel() for p in made_dalle.pair()[1].parameters()))
    assert convert(files, tmp_path / "out")["kind"] == "openai-dvae"


def test_the_fingerprints_are_those_of_the_full_size() -> None:
    with torch.device("meta"):
        model = DVAEConfig().build()
    for part, expected in FINGERPRINTS.items():
        parameters = list(model.get_submodule(part).parameters())
        assert (len(parameters), sum(p.numel() for p in parameters)) == expected


@pytest.mark.parametrize("blocks_per_group", [1, 2, 3])
@pytest.mark.parametrize("decoder", [False, True])
def test_sizes_are_read_from_shapes(blocks_per_group: int, decoder: bool) -> None:
    model = small(blocks_per_group=blocks_per_group, width=8, decoder_stem=12)
    config, weights = dvae_from_published(
        published_names(model, "encoder"), published_names(model, "decoder") if decoder else None
    )
    assert config.build().load_state_dict(weights)
    assert (config.width, config.vocab_size) == (8, 24)
    assert config.blocks_per_group == blocks_per_group
    assert config.decoder == decoder
    assert not decoder or config.decoder_stem == 12


def test_flavas_codebook_is_an_encoder_alone(tmp_path: Path) -> None:
    model = small()
    path = save(flava_names(model), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="the encoder has 42 tensors"):
        convert([path], tmp_path / "out")
    assert convert([path], tmp_path / "out", kind="dvae")["config"]["decoder"] is False
    tokenizer = load_tokenizer(tmp_path / "out")
    frames = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    ids = tokenizer.encode(frames)
    assert torch.equal(ids, model.encode(frames))
    with pytest.raises(ValueError, match="converted from an encoder alone"):
        tokenizer.decode(ids)


def test_flavas_codebook_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra `hub`")
    from transformers.models.flava import modeling_flava

    theirs = modeling_flava.FlavaImageCodebook(
        modeling_flava.FlavaImageCodebookConfig(
            hidden_size=4, vocab_size=24, num_blocks_per_group=1
        )
    ).requires_grad_(False)
    for parameter in theirs.parameters():
        parameter.normal_()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    convert([tmp_path / "model.safetensors"], tmp_path / "out", kind="dvae")
    frames = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8)
    ids = load_tokenizer(tmp_path / "out").encode(frames)
    assert len(ids.unique()) > 3
    assert torch.equal(ids.long(), theirs.get_codebook_indices(map_pixels(frames)))


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    model = small()
    state = {k: v.half() for k, v in published_names(model, "encoder").items()}
    _, weights = dvae_from_published(state)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_vqgan_is_recognised(tmp_path: Path) -> None:
    config = VQGANConfig(
        channels=32, multipliers=(1, 1), attention_levels=(1,), z_channels=32, vocab_size=20
    )
    weights = config.build().state_dict()
    state = {**weights, "loss.logvar": torch.tensor(0.0)}
    checkpoint = {"epoch": 3, "state_dict": state}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    result = convert([tmp_path / "last.ckpt"], tmp_path / "out")
    assert (result["kind"], result["name"]) == ("vqgan", "vqgan")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert result["digest"] == tokenizer.digest()
    found = load_file(tmp_path / "out" / "weights.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_vqvae_is_recognised(tmp_path: Path) -> None:
    config = vqvae.VQVAEConfig(
        vocab_size=20, width=8, residual_width=4, resample="convolutions", rectified_skip=True
    )
    weights = config.build().state_dict()
    names = vqvae._published_names(config)
    path = save({theirs: weights[ours] for theirs, ours in names.items()}, tmp_path / "m.pth")
    result = convert([path], tmp_path / "out")
    assert (result["kind"], result["config"]) == ("vqvae", to_dict(config))
    found = load_file(tmp_path / "out" / "weights.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (published_names(small(), "encoder"), "encoder"),
        (published_names(small(), "decoder"), "decoder"),
        (flava_names(small()), "flava"),
        ({"encoder.down.0.block.0.conv1.weight": torch.ones(1)}, "vqgan"),
        ({"encoder.down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, "vqgan"),
        ({"_vq_vae._embedding.weight": torch.ones(1)}, "vqvae"),
    ],
)
def test_parts_are_told_from_their_tensors(state: dict[str, Tensor], part: str) -> None:
    assert part_of(state) == part


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"blocks.input.w": torch.ones(4, 3, 7, 7), "encoder.down.0.x": torch.ones(1)},
            "blocks.input.w, encoder.down.0.x are both encoder and vqgan; known are: openai-dvae",
        ),
        (
            {f"layer.{n}": torch.ones(1) for n in range(5)},
            "layer.0, layer.1, layer.2 and 2 more are no weights that are known; .*; vqvae: ",
        ),
    ],
)
def test_says_what_is_unknown_or_ambiguous(
    tmp_path: Path, state: dict[str, Tensor], message: str
) -> None:
    path = save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"other.pt: tensors such as {message}"):
        convert([path], tmp_path / "out")


@pytest.mark.parametrize(
    ("chosen", "kind", "message"),
    [
        ([0], None, "encoder alone make nothing that can be converted; known are: openai-dvae"),
        ([1], None, "decoder alone make nothing"),
        ([0, 0], None, "encoder and encoder alone make nothing"),
        ([1], "dvae", "decoder alone make nothing .* dvae is DALL-E's architecture at any size"),
        ([0, 1], "vqgan", "encoder and decoder alone make nothing .* vqgan is a VQGAN of taming"),
        ([0], "vq-gan", "no kind 'vq-gan' of weights; known are: openai-dvae: DALL-E's"),
        ([], None, "no weights to convert: give the files, such as encoder.pkl decoder.pkl"),
    ],
)
def test_says_what_does_not_belong_together(
    files: list[Path], tmp_path: Path, chosen: list[int], kind: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert([files[index] for index in chosen], tmp_path / "out", kind=kind)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.group_1.block_1.res_path.conv_2.b": None}, "missing: encoder.blocks.group_1.*b"),
        ({"blocks.extra.w": torch.ones(1)}, "unknown: encoder.blocks.extra.weight"),
        ({"blocks.output.conv.b": torch.ones(3)}, "of another shape: encoder.blocks.output.conv.b"),
        ({"blocks.output.conv.b": torch.ones(24).int()}, "of no floating point: encoder.blocks.ou"),
        (
            {"blocks.output.conv.w": None},
            "encoder.blocks.output.conv, which tells the size, is mis",
        ),
        ({"blocks.input.w": torch.ones(6, 3, 7, 7)}, "width 6 is not a multiple of 4"),
        (
            {"blocks.input.w": torch.ones(2**30, 3, 0, 0)},
            "another shape|no dVAE can have the sizes",
        ),
    ],
)
def test_names_the_tensor_that_does_not_fit(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = published_names(small(), "encoder") | change
    path = save({k: v for k, v in state.items() if v is not None}, tmp_path / "encoder.pkl")
    with pytest.raises(ValueError, match=f"encoder.pkl: .*{message}"):
        convert([path], tmp_path / "out", kind="dvae")


def test_a_file_must_hash_to_what_was_meant(files: list[Path], tmp_path: Path) -> None:
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    with pytest.raises(ValueError, match="1 sha256 for 2 files: give one each, or none"):
        convert(files, tmp_path / "out", sha256=hashes[:1])
    files[1].write_bytes(b"not even a pickle")
    with pytest.raises(
        ValueError,
        match=r"decoder.pkl: not the file that was meant: sha256 \w{64} of 17 bytes, expected \w",
    ):
        convert(files, tmp_path / "out", sha256=hashes)
    convert(files[:1], tmp_path / "out", kind="dvae", sha256=[hashes[0].upper()])


def test_an_existing_folder_is_kept(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists already; remove it or choose another name"):
        convert(files, tmp_path / "out", kind="dvae")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        convert([tmp_path / "none.pkl"], tmp_path / "out")
    with pytest.raises(ValueError, match="not a file"):
        convert([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("failing", ["write_json", "write_bytes"])
def test_a_failed_write_leaves_nothing(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: Any) -> None:
        raise durable.DiskFullError("no room")

    monkeypatch.setattr(f"toto.tokenizers.files.{failing}", full)
    with pytest.raises(durable.DiskFullError):
        convert(files, tmp_path / "out", kind="dvae")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.pkl", "encoder.pkl"]

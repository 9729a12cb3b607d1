import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toto.jobs.convert import Convert, Fetch
from toto.tokenizers import DVAE, DVAEConfig, load_tokenizer
from toto.tokenizers.fetch import PUBLISHED, Published, PublishedFile


def published_names(model: DVAE, part: str) -> dict[str, Tensor]:
    return {
        name.replace(".weight", ".w").replace(".bias", ".b"): tensor
        for name, tensor in model.get_submodule(part).state_dict().items()
    }


@pytest.fixture
def model() -> DVAE:
    return DVAEConfig(vocab_size=24, width=4, decoder_stem=8, blocks_per_group=1).build()


def save(model: DVAE, folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = folder / "encoder.pkl", folder / "decoder.pkl"
    torch.save(published_names(model, "encoder"), encoder)
    torch.save(published_names(model, "decoder"), decoder)
    return encoder, decoder


def test_files_become_a_tokenizer(
    model: DVAE, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = save(model, tmp_path)
    hashes = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    result = Convert(files=files, kind="dvae", sha256=hashes).run(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").digest() == result["digest"] == model.digest()
    assert "dvae: " in capsys.readouterr().err


def test_what_was_fetched_becomes_a_tokenizer(
    model: DVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tuple(
        PublishedFile(url=f"https://none.invalid/{name}", name=name, megabytes=1)
        for name in ("encoder.pkl", "decoder.pkl")
    )
    monkeypatch.setitem(PUBLISHED, "small", Published(kind="dvae", files=files))
    save(model, tmp_path / "cache" / "small")
    job = Fetch(name="small", cache=tmp_path / "cache")
    result = job.run(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").digest() == result["digest"] == model.digest()
    with pytest.raises(ValueError, match="out exists already; remove it or choose another name"):
        job.run(tmp_path / "out")


def test_rejects_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="no published weights 'dalle'; known are: openai-dvae"):
        Fetch(name="dalle")

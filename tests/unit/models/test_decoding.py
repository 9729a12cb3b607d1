"""Readers: the same answers whoever reads, in what pieces, alone or beside others."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from made_run_folders import strange
from toto.models import Gpt2Config, LlamaConfig, MambaConfig, decoding
from toto.models.attention import set_direction
from toto.models.built_reader import PIECE, BuiltReader
from toto.models.decoding import PlainReader, open_reader, resolve_decoding
from toto.models.mup import MuP
from toto.models.rounding import int8_rows, rounded
from toto.runtime.cpu_library import compiler, suits

needed = pytest.mark.skipif(
    not suits() or shutil.which(compiler()) is None,
    reason="needs a processor with AVX512's bf16 and no AMX, and a C++ compiler",
)
LLAMA = LlamaConfig(
    vocab_size=67, width=64, depth=3, heads=2, mlp_width=96, context=300, init_std=0.1
)
CONFIGS: dict[str, Any] = {
    "llama": LLAMA,
    "gpt2": Gpt2Config(vocab_size=67, width=32, depth=2, heads=2, context=300, init_std=0.1),
    "mamba": MambaConfig(vocab_size=67, width=32, depth=2, context=300),
}
BUILT = {
    "untied": LLAMA,
    "tied": replace(LLAMA, tied=True),
    "muP": replace(LLAMA, mup=MuP(base_width=32)),
    "head of 64": replace(LLAMA, heads=1),
    "head of 96": replace(LLAMA, width=192, mlp_width=160, rope_base=500.0),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Any:
    return strange(CONFIGS[request.param])


@pytest.fixture(params=BUILT)
def llama(request: pytest.FixtureRequest) -> Any:
    return strange(BUILT[request.param])


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(67, (rows, length))


def spread(found: torch.Tensor, expected: torch.Tensor) -> float:
    """How far scores are off, as a share of how much they differ among themselves."""
    return float((found - expected).std() / expected.std())


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_a_reader_gives_what_one_pass_gives(model: Any, weights: Any) -> None:
    ids, reader = tokens(2, 60), open_reader(model, weights)
    scores = [reader.start(ids[:, :40])[:, None], reader.read(ids[:, 40:41])]
    scores.append(reader.read(ids[:, 41:]))
    expected = model(ids)[:, 39:]
    # Measured at most: 0.014 in bf16, 0.05 in int8 (a Mamba).
    limit = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.08}[weights]
    assert spread(torch.cat(scores, dim=1), expected) < limit


@needed
@pytest.mark.parametrize("weights", ["bf16", "int8"])
@torch.no_grad()
def test_cpp_is_no_farther_from_fp64_than_torch(llama: Any, weights: Any) -> None:
    assert resolve_decoding(llama, weights).built
    exact = decoding._copy_in(weights, llama).double()
    ids = tokens(2, 150)
    expected = exact(ids)[:, 139:]
    off = {}
    for kind in (BuiltReader, PlainReader):
        reader = kind(llama, weights)
        scores = [reader.start(ids[:, :140])[:, None]]
        scores += [reader.read(ids[:, at : at + 1]) for at in range(140, 145)]
        scores.append(reader.read(ids[:, 145:]))
        off[kind] = spread(torch.cat(scores, dim=1), expected)
    assert off[BuiltReader] < 0.03
    assert off[BuiltReader] < 1.25 * off[PlainReader]


@needed
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_in_whatever_pieces_cpp_reads(llama: Any, weights: Any) -> None:
    """Also over the border of what a prompt is read in, and of each number of rows."""
    ids = tokens(1, PIECE + 90)
    whole, reader = BuiltReader(llama, weights), BuiltReader(llama, weights)
    whole.start(ids[:, :1])
    expected = whole.read(ids[:, 1:])
    found = [reader.start(ids[:, : PIECE + 3])[:, None]]
    parts = [1, 2, 3, 4, 5, 7, 9, 15, 17, 23]
    for part in ids[:, PIECE + 3 :].split([*parts, 87 - sum(parts)], dim=1):
        found.append(reader.read(part))
    assert torch.equal(torch.cat(found, dim=1), expected[:, PIECE + 1 :])


@needed
def test_rows_of_cpp_do_not_know_each_other(llama: Any) -> None:
    ids, more = tokens(3, 21), tokens(6, 2)
    reader = BuiltReader(llama, "bf16")
    started, read = reader.start(ids, futures=2), reader.read(more)
    for row in range(6):
        alone = BuiltReader(llama, "bf16")
        assert torch.equal(alone.start(ids[row // 2][None])[0], started[row])
        assert torch.equal(alone.read(more[row][None])[0], read[row])


def test_futures_go_their_own_ways(model: Any) -> None:
    ids, more = tokens(2, 20), tokens(6, 9)
    reader = PlainReader(model)
    first = reader.start(ids, futures=3)
    found = torch.cat([first[:, None], reader.read(more)], dim=1)
    expected = model(torch.cat([ids.repeat_interleave(3, dim=0), more], dim=1))[:, 19:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_start_forgets_what_was_read(model: Any) -> None:
    reader, ids = open_reader(model, "bf16"), tokens(1, 12)
    fresh = reader.start(ids), reader.read(ids[:, :2])
    reader.start(tokens(2, 30))
    assert torch.equal(reader.start(ids), fresh[0])
    assert torch.equal(reader.read(ids[:, :2]), fresh[1])


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_no_more_is_read_than_the_context_holds(model: Any, weights: Any) -> None:
    reader = open_reader(model, weights)
    reader.start(tokens(1, 299))
    reader.read(tokens(1, 1))
    with pytest.raises(ValueError, match="301 tokens do not fit a context of 300"):
        reader.read(tokens(1, 1))
    with pytest.raises(ValueError, match="301 tokens do not fit a context of 300"):
        reader.start(tokens(1, 301))


def test_the_model_stays_as_it_is(model: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for weights in ("fp32", "bf16", "int8"):
        open_reader(model, weights).start(tokens(1, 5))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_int8_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(5, 200) * torch.tensor([1e-3, 1.0, 0.0, 7.0, 1e4])[:, None]
    whole, scale = int8_rows(weight)
    assert torch.equal(whole, whole.round())
    assert whole.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    assert ((whole * scale[:, None] - weight).abs() <= 0.5001 * scale[:, None]).all()
    assert torch.equal(rounded(weight, "fp32"), weight)
    assert torch.equal(rounded(weight, "bf16"), weight.bfloat16())


def test_the_choice_is_said_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = LLAMA.build()
    assert "fp32" in resolve_decoding(llama, "fp32").why
    for name, kind in (("gpt2", "Gpt2"), ("mamba", "Mamba")):
        chosen = resolve_decoding(CONFIGS[name].build(), "bf16")
        assert (chosen.built, chosen.why) == (False, f"a {kind} has no C++")
    odd = replace(LLAMA, mlp_width=100).build()
    assert "a width of 100 is no multiple of 32" in resolve_decoding(odd, "bf16").why
    patches = replace(LLAMA, patch_values=12).build()
    assert "reads patches" in resolve_decoding(patches, "bf16").why
    monkeypatch.setattr(decoding, "suits", lambda: True)
    monkeypatch.setattr(decoding.shutil, "which", lambda _: None)
    assert "no C++ compiler" in resolve_decoding(llama, "bf16").why
    monkeypatch.setattr(decoding.shutil, "which", lambda name: name)
    assert resolve_decoding(llama, "int8").built
    set_direction(llama, "bidirectional")
    assert "both directions" in resolve_decoding(llama, "int8").why
    set_direction(llama, "causal")
    monkeypatch.setattr(decoding, "suits", lambda: False)
    chosen = resolve_decoding(llama, "bf16")
    assert not chosen.built
    assert "lacks AVX512's bf16" in chosen.why
    assert isinstance(open_reader(llama, "bf16"), PlainReader)


def test_rejects_unknown_weights() -> None:
    with pytest.raises(ValueError, match="weights 'fp16' are unknown; use 'fp32', 'bf16', 'int8'"):
        open_reader(LLAMA.build(), "fp16")  # type: ignore[arg-type]

"""Guesses from what stood a frame before: fewer reads, and not a bit of difference."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from made_run_folders import strange
from toto.models import LlamaConfig
from toto.models.built_reader import BuiltReader
from toto.models.decoding import PlainReader, Reader
from toto.models.sampling import MOST_GUESSES, Draws, SamplingConfig, continue_sequence
from toto.runtime.cpu_library import compiler, suits

needed = pytest.mark.skipif(
    not suits() or shutil.which(compiler()) is None,
    reason="needs a processor with AVX512's bf16 and no AMX, and a C++ compiler",
)
CODES, PERIOD, NEW = 16, 8, 60
CONFIG = LlamaConfig(
    vocab_size=CODES + 3, width=64, depth=2, heads=2, mlp_width=96, context=90, init_std=0.3
)


@pytest.fixture
def going_round() -> Any:
    """A model that knows the token before alone: each is followed by the next of its eight."""
    model = strange(replace(CONFIG, init_std=1.0))
    for block in model.blocks:
        block.attention.out.weight.zero_()
        block.mlp.down.weight.zero_()
    model.norm.weight.fill_(1.0)
    for code in range(CODES):
        after = code - code % PERIOD + (code + 1) % PERIOD
        model.head.weight[after] = model.embedding.weight[code]
    return model


def continued(
    reader: Reader, prompt: torch.Tensor, look_back: int, **sampling: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    config = SamplingConfig(**sampling)
    drawn = list(
        continue_sequence(
            reader,
            prompt,
            tokens=NEW,
            codes=CODES,
            config=config,
            draws=Draws(config.seed, clips=len(prompt), futures=1),
            look_back=look_back,
        )
    )
    return (
        torch.stack([token.ids for token in drawn], dim=1),
        torch.stack([token.surprise_nats for token in drawn], dim=1),
    )


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many tokens each read has."""
    counts: list[int] = []
    plain = BuiltReader.read

    def counted(self: BuiltReader, ids: torch.Tensor) -> torch.Tensor:
        counts.append(ids.shape[1])
        return plain(self, ids)

    monkeypatch.setattr(BuiltReader, "read", counted)
    return counts


@needed
@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {}, {"top_k": 3}], ids=str)
def test_nothing_that_is_drawn_changes(weights: Any, sampling: dict[str, Any]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        reader = BuiltReader(strange(CONFIG), weights)
        prompt = torch.randint(CODES, (1, 20))
        ids, surprise = continued(reader, prompt, 0, seed=seed, **sampling)
        for look_back in (1, 4, 16):
            found = continued(reader, prompt, look_back, seed=seed, **sampling)
            assert torch.equal(found[0], ids)
            assert torch.equal(found[1], surprise)


@needed
def test_guesses_that_come_true_save_reads(
    going_round: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, counts = BuiltReader(going_round, "bf16"), reads(monkeypatch)
    prompt = torch.arange(PERIOD)[None].repeat(1, 2)
    ids, _ = continued(reader, prompt, PERIOD, temperature=0.0)
    assert ids[0].tolist() == [place % PERIOD for place in range(NEW)]
    # One more guess each time until no register is left for more; the last read is cut to measure.
    assert counts[:MOST_GUESSES] == list(range(2, MOST_GUESSES + 2))
    assert set(counts[MOST_GUESSES:-1]) <= {MOST_GUESSES + 1}
    assert sum(counts) == NEW - 1


@needed
def test_guesses_that_do_not_come_true_cost_no_read(
    going_round: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, counts = BuiltReader(going_round, "bf16"), reads(monkeypatch)
    prompt = torch.arange(PERIOD)[None].repeat(1, 2)
    ids, _ = continued(reader, prompt, PERIOD - 1, temperature=0.0)
    assert ids[0].tolist() == [place % PERIOD for place in range(NEW)]
    assert len(counts) == NEW - 1
    assert max(counts) == 2


@needed
def test_what_has_nothing_before_it_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start token is no code; behind it guesses begin as soon as a frame is there."""
    reader, counts = BuiltReader(strange(CONFIG), "bf16"), reads(monkeypatch)
    start = torch.tensor([[CODES]])
    ids, _ = continued(reader, start, 16, temperature=0.0)
    assert set(counts[:15]) == {1}
    assert counts[15] == 2
    assert torch.equal(ids, continued(reader, start, 0, temperature=0.0)[0])


def test_several_rows_and_plain_readers_take_one_token_each(going_round: Any) -> None:
    prompt = torch.arange(PERIOD)[None].repeat(2, 2)
    for reader in (PlainReader(going_round), PlainReader(going_round, "bf16")):
        one, other = (continued(reader, prompt, back, temperature=0.0) for back in (0, PERIOD))
        assert torch.equal(one[0], other[0])

"""The recipes of the paper hold the paper's values (docs/paper.md, rows T1, D, M and O)."""

import inspect
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

from toto import cli
from toto.cli import options
from toto.data.layout import Layout
from toto.models.flops import model_cost
from toto.recipes import DEMO, PRETRAIN, TOKENIZER, demo_probe
from toto.tokenizers import load_tokenizer
from toto.train.schedule import WarmupCosine

PAPER = {
    # width, depth, heads, parameters of Table 1
    "base": (768, 12, 12, 120e6),
    "large": (1024, 16, 16, 280e6),
    "1b": (2048, 22, 16, 1.1e9),
}


@pytest.mark.parametrize("name", PAPER)
def test_sizes_are_those_of_table_1(name: str) -> None:
    model = PRETRAIN[name]().model
    width, depth, heads, parameters = PAPER[name]
    assert (model.width, model.depth, model.heads) == (width, depth, heads)
    assert model.mlp_width == {"base": 3072, "large": 4096, "1b": 5504}[name]
    assert model.head_width == {"base": 64, "large": 64, "1b": 128}[name]
    # The table rounds, and whether it counts embedding and head is not said.
    assert model_cost(model).parameters == pytest.approx(parameters, rel=0.06)
    assert model.rope_base == 10_000


@pytest.mark.parametrize("name", PAPER)
def test_the_optimisation_is_the_papers(name: str) -> None:
    job = PRETRAIN[name]()
    assert (job.steps, job.lr, job.warmup) == (1_000_000, 3e-4, 2000)
    assert job.optimizer.betas == (0.9, 0.95)
    layout = Layout(job.layout, codes=8192, frame_tokens=256)
    assert layout.length - 2 == 4096
    assert job.batch * (layout.length - 2) == 2**20
    assert (job.model.vocab_size, job.model.context) == (8195, 4098)
    assert (layout.vocab_size, layout.length) == (8195, 4098)
    assert not job.model.tied
    schedule = job.schedule()
    assert isinstance(schedule, WarmupCosine)
    assert max(map(schedule, range(0, 10_000, 100))) <= 3e-4
    assert schedule(2000) == pytest.approx(3e-4, rel=1e-3)


@pytest.mark.parametrize("name", PAPER)
def test_the_mixture_is_the_papers(name: str) -> None:
    shares = {source.name: source.weight for source in PRETRAIN[name]().mixture}
    assert shares == {
        "imagenet-21k/train": 0.2,
        "ego4d/train": 0.1,
        "kinetics-600/train": 0.1,
        "howto100m/train": 0.6,
    }


def test_the_demo_fits_together() -> None:
    demo = DEMO["demo"]()
    collection, tokenizer = demo.ingest.collection, load_tokenizer(demo.tokenize.tokenizer)
    assert demo.tokenizer.tokenizer == demo.tokenize.tokenizer
    side = collection.side_px // tokenizer.patch_px
    layout = Layout(demo.pretrain.layout, codes=tokenizer.vocab_size, frame_tokens=side**2)
    assert demo.pretrain.model.vocab_size == layout.vocab_size
    assert demo.pretrain.model.context == layout.length
    assert demo.pretrain.layout.frames == collection.frames
    assert demo.generate.prompt_frames + demo.generate.frames <= demo.pretrain.layout.frames
    assert {task.name for task in demo_probe().tasks} == {"digit", "motion"}


def commands() -> list[str]:
    """The command in the docstring of every recipe."""
    recipes: list[Callable[[], Any]] = [
        *(*PRETRAIN.values(), *TOKENIZER.values(), *DEMO.values(), demo_probe)
    ]
    texts = [inspect.getdoc(recipe) or "" for recipe in recipes]
    # A command may go on in lines that are indented.
    found = [re.search(r"^Command: (.*(?:\n +.*)*)", text, flags=re.MULTILINE) for text in texts]
    return [match.group(1) for match in found if match]


class Parsed(BaseException):
    """Raised once the options are read, so that nothing runs."""


@pytest.mark.parametrize("command", commands())
def test_the_command_of_a_recipe_can_be_typed(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = options.read_options

    def read_only(*arguments: Any) -> None:
        read(*arguments)
        raise Parsed

    monkeypatch.setattr(options, "read_options", read_only)
    words = shlex.split(command.partition("toto ")[2])
    monkeypatch.setattr("sys.argv", ["toto", *words])
    with pytest.raises(Parsed):
        cli.main()


def test_every_recipe_says_its_command() -> None:
    assert len(commands()) == len(PRETRAIN) + len(TOKENIZER) + len(DEMO) + 1

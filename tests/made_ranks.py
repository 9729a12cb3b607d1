"""Runs of several ranks for the tests, as processes of one machine that speak over gloo."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch

from made_ports import free_port
from toto.data.records import ClipRecord, Description
from toto.data.shards import write_shard
from toto.data.token_set import write_index
from toto.tokenizers import load_tokenizer, save_tokenizer
from toto.types import TokenGrid


def over_ranks(world: int, function: Callable[..., None], *arguments: object) -> None:
    """Call a function of a test module in so many ranks at once, as torchrun would.

    The processes are forked from one that has imported everything already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toto.jobs.pretraining", "toto.recipes", "torch._dynamo"])
    port = free_port()
    ranks = []
    for rank in range(world):
        environ = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        ranks.append(context.Process(target=_rank, args=(environ, function, arguments)))
        ranks[-1].start()
    try:
        for process in ranks:
            process.join(300)
        assert [process.exitcode for process in ranks] == [0] * world
    finally:
        for process in ranks:
            process.kill()


def _rank(
    environ: dict[str, str], function: Callable[..., None], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ.update(environ)
    function(*arguments)
    # As toto/cli/verbs.py leaves a rank, and for the same reason.
    os._exit(0)


def counting_shards(folder: Path, *names: str, codes: int = 16, frames: int = 6) -> Path:
    """Tokens that can be learnt in part, 4 x 4 a frame: each is its place, its clip and noise.

    Of 16 codes they are the grey tokenizer's; of another number an unknown one's.
    """
    grey, draw = load_tokenizer("grey"), torch.Generator().manual_seed(0)
    description = Description(
        tokenizer=grey.name if codes == grey.vocab_size else "made",
        tokenizer_digest=grey.digest() if codes == grey.vocab_size else "0" * 64,
        vocab_size=codes,
        patch_px=grey.patch_px,
        grid=(4, 4),
        kind="video",
        precision="fp32",
        resize_filter="none",
        decoder="none",
    )
    for name in names:
        clips = []
        for number in range(20):
            place = torch.arange(frames * 16).view(frames, 4, 4)
            noise = torch.randint(4, (frames, 4, 4), generator=draw)
            grid = ((place + number + noise) % codes).int()
            record = ClipRecord(
                source=f"made#{number}",
                source_sha256=None,
                frame_indices=tuple(range(frames)),
                times_s=tuple(range(frames)),
                side_px=32,
                crop=(0.5, 0.5),
            )
            clips.append((TokenGrid(ids=grid, vocab_size=codes), record))
        write_shard(folder / name / "00000", description, clips)
        write_index(folder / name)
    if codes == grey.vocab_size:
        save_tokenizer(grey, folder / "tokenizer")
    else:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "foreign.json").write_text(
            json.dumps({"digest": description.tokenizer_digest})
        )
    return folder

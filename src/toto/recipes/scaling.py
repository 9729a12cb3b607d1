"""The six models of the scaling study, a1 to a6 (docs/paper.md, S1, S2a).

Table 15, which has them, is in none of our sources. Widths, depths and heads are RECALL: what one
of us remembers of it. They fit what can be read off Figure 9: the compute of a1, a2, a3, a4 and a6
lies within .2 % of 12 width^2 depth + 16,384 width + 257 width depth, from which follow an MLP of
8/3 x width and VQGAN's 16,384 codes. The parameter counts that are remembered beside them (14.8,
77.2, 215, 458, 1,200 and 1,900 M) do not fit that, and we do not follow them.

The paper: muP, a learning rate of 2^-7 for all, the mixture of the main models. Ours: the MLP
rounded to the nearest multiple of 8; batch and steps of the main models, since a1 seems to have
read about 1 T tokens; muP's base width 128, that of arXiv 2404.05728, whose convention has its best
rates near 2^-7. Head widths grow with the width, as heads stay 16.
"""

from dataclasses import replace

from toto.jobs.pretrain import Pretrain
from toto.models import LlamaConfig
from toto.models.mup import MuP
from toto.recipes.pretrain import base


def variant(width: int, depth: int) -> Pretrain:
    """One of the six: 16 heads, MLP 8/3 x width, VQGAN's 16,384 codes, muP at 2^-7."""
    return replace(
        base(),
        model=LlamaConfig(
            vocab_size=16_387,
            width=width,
            depth=depth,
            heads=16,
            mlp_width=8 * round(width / 3),
            mup=MuP(base_width=128),
        ),
        lr=2**-7,
    )


def a1() -> Pretrain:
    """12 layers of width 256 (RECALL), 17.8 M; the last point of Figure 9 is 3.44 nats.

    Command: torchrun -m toto pretrain a1 --shards SHARDS
    """
    return variant(256, 12)


def a2() -> Pretrain:
    """16 layers of width 512 (RECALL), 67.2 M; the last point of Figure 9 is 3.25 nats.

    Command: torchrun -m toto pretrain a2 --shards SHARDS
    """
    return variant(512, 16)


def a3() -> Pretrain:
    """20 layers of width 768 (RECALL), 166.8 M; the last point of Figure 9 is 3.13 nats.

    Command: torchrun -m toto pretrain a3 --shards SHARDS
    """
    return variant(768, 20)


def a4() -> Pretrain:
    """24 layers of width 1024 (RECALL), 335.4 M; the last point of Figure 9 is 3.04 nats.

    Command: torchrun -m toto pretrain a4 --shards SHARDS
    """
    return variant(1024, 24)


def a5() -> Pretrain:
    """28 layers of width 1536 (RECALL), 843.2 M; Figure 9 does not draw it.

    Command: torchrun -m toto pretrain a5 --shards SHARDS
    """
    return variant(1536, 28)


def a6() -> Pretrain:
    """32 layers of width 1792 (RECALL), 1,291.5 M; the last point of Figure 9 is 2.80 nats.

    Command: torchrun -m toto pretrain a6 --shards SHARDS
    """
    return variant(1792, 32)

"""A training step of our decoder against transformers' LlamaForCausalLM of the same size.

Same tokens, same AdamW, one thread, context 1024, 20 M parameters. The peer runs at its default
(sdpa, fp32) and in its bf16 autocast; ours in the precision that `auto` picks, without compiling.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.side_by_side import line, ratio
from toto.models.llama import LlamaConfig
from toto.runtime.devices import compute, resolve_precision
from toto.train.objectives import next_token
from toto.train.optimizer import AdamWConfig
from toto.types import Batch

CONFIG = LlamaConfig(vocab_size=8195, width=384, depth=6, heads=6, mlp_width=1536, context=1025)


class Peer(nn.Module):
    """transformers' decoder behind our objective's call."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import LlamaConfig as PeerConfig
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM(
            PeerConfig(
                vocab_size=CONFIG.vocab_size,
                hidden_size=CONFIG.width,
                num_hidden_layers=CONFIG.depth,
                num_attention_heads=CONFIG.heads,
                num_key_value_heads=CONFIG.heads,
                intermediate_size=CONFIG.mlp_width,
                max_position_embeddings=CONFIG.context,
                attn_implementation="sdpa",
                use_cache=False,
            )
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Score the next tokens."""
        return self.model(ids).logits


def run() -> Iterator[str]:
    """Yield one line a comparison."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ids = torch.randint(8192, (2, CONFIG.context))
    batch = Batch(ids=ids, weight=torch.ones(2, CONFIG.context - 1))
    place = torch.device("cpu")
    auto = resolve_precision("auto", place)

    def step(model: nn.Module, precision: str) -> Callable[[], None]:
        optimizer = AdamWConfig().build(model)

        def take() -> None:
            with compute(resolve_precision(precision, place), place):
                loss = next_token(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return take

    ours, peer = CONFIG.build(), Peer()
    yield line(
        f"training step, ours {auto} / transformers fp32 (its default)",
        ratio(step(ours, "auto"), step(peer, "fp32"), rounds=3),
    )
    yield line(
        "training step, ours fp32 / transformers fp32",
        ratio(step(ours, "fp32"), step(peer, "fp32"), rounds=3),
    )
    if auto == "bf16":
        yield line(
            "training step, ours bf16 / transformers bf16 autocast",
            ratio(step(ours, "bf16"), step(peer, "bf16"), rounds=3),
        )

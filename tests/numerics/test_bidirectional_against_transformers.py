"""Attention in both directions against transformers' Llama with a mask that hides nothing."""

from functools import partial

import pytest
import torch
from made_twins import LENGTH, llama

from toto.models.attention import set_direction

transformers = pytest.importorskip("transformers", reason="needs the extra `hub`")

make = partial(llama, tied=False, mlp_width=4 * 48)


@torch.no_grad()
def test_streams_match_a_full_mask() -> None:
    twins = make(transformers)
    ids = torch.randint(67, (2, LENGTH))
    set_direction(twins.ours, "bidirectional")
    # A mask of four dimensions is taken as it is; 0 is added to every score.
    full = torch.zeros(2, 1, LENGTH, LENGTH)
    theirs = twins.theirs(ids, attention_mask=full, output_hidden_states=True).hidden_states
    depth = twins.ours.config.depth
    ours = twins.ours.hidden(ids, range(depth + 1))
    for layer in range(depth):
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-5, atol=1e-5)
    # Theirs is normalised behind the last block.
    last = twins.ours.norm(ours[depth])
    torch.testing.assert_close(last, theirs[depth], rtol=1e-5, atol=1e-5)
    causal = twins.theirs(ids, output_hidden_states=True).hidden_states
    assert not torch.allclose(causal[depth], theirs[depth], atol=1e-2)

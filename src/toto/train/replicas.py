"""Whether ranks that should hold the same model do, bit for bit.

Ranks that train copies start alike and add the same gradients, so that only a fault sets them
apart: a bit that memory or a device turned over. Nothing else would notice, since each rank goes on
with its own weights and the mean of the gradients is the same on all.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from toto.runtime.devices import Ranks
from toto.runtime.state import optimizer_tensors


def require_equal_replicas(
    model: nn.Module, optimizer: torch.optim.AdamW, ranks: Ranks, step: int
) -> None:
    """Compare weights and moments of all ranks; every rank must call this.

    Reads the state once and exchanges 8 bytes a tensor.

    Raises:
        ValueError: on all ranks, if a tensor differs; the message names rank and tensor.
    """
    if ranks.world == 1:
        return
    tensors = {**dict(model.named_parameters()), **optimizer_tensors(optimizer, model)}
    sums = fingerprints(tensors)
    gathered = [torch.empty_like(sums) for _ in range(ranks.world)]
    torch.distributed.all_gather(gathered, sums)
    fault = differing(torch.stack(gathered).cpu(), list(tensors))
    if fault:
        raise ValueError(
            f"step {step}: {fault}; a memory or a device is at fault: leave that machine out, the "
            "same command goes on from the newest checkpoint"
        )


def fingerprints(tensors: Mapping[str, Tensor]) -> Int64[Tensor, " K"]:
    """Sum of each tensor's bits, read as whole numbers; a single bit that differs changes it."""
    sums = []
    for tensor in tensors.values():
        words = torch.int32 if tensor.element_size() % 4 == 0 else torch.uint8
        flat = tensor.detach().contiguous().reshape(-1).view(words)
        sums.append(flat.sum(dtype=torch.int64))
    place = max((total.device for total in sums), key=lambda device: device.type == "cuda")
    return torch.stack([total.to(place) for total in sums])


def differing(sums: Int64[Tensor, "W K"], names: Sequence[str]) -> str | None:
    """Say which rank holds what the others do not; None if all agree.

    Of two ranks nobody knows which one is right.
    """
    usual = sums.mode(dim=0).values
    wrong = sums != usual
    if not wrong.any():
        return None
    columns = wrong.any(dim=0).nonzero().flatten().tolist()
    more = f" and {len(columns) - 1} more" if len(columns) > 1 else ""
    if len(sums) == 2:
        return f"ranks 0 and 1 hold different values of {names[columns[0]]}{more}"
    guilty = wrong[:, columns[0]].nonzero().flatten().tolist()
    named = ", ".join(map(str, guilty))
    return f"rank {named} holds other values of {names[columns[0]]}{more} than the other ranks"

"""How the ranks of a run share a model: a copy each, or a part of it each.

Nothing here changes what is trained: a step's batch, its initial weights and its loss are the same
under every strategy and on any number of ranks, up to the order in which sums are rounded.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from toto.runtime.devices import Ranks

Strategy = Literal["none", "ddp", "fsdp", "hsdp"]
REPLICATED_SHARE = 0.25
"""Of a device's memory, what weights, gradients and moments may take for each rank to hold all of
them. The rest is for activations, which sharding does not make smaller; and a copy each needs one
exchange a step, where shards need one for every block and direction. By this rule the paper's 1b
(18.3 GB) is copied from 80 GB on, and sharded on 40 GB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """How a run is spread over ranks; no part of its config, since it may differ at each start.

    Raises:
        ValueError: if a number makes no sense, or an option is for another strategy.
    """

    strategy: Literal["auto", "none", "ddp", "fsdp", "hsdp"] = "auto"
    """`ddp`: each rank holds the whole model. `fsdp`: each holds a part of every matrix and fetches
    a block when it computes it. `hsdp`: fsdp within groups of ranks, ddp between them. `auto`: ddp
    where the training state takes at most a quarter of a device's memory, fsdp where it takes more.
    One rank alone needs none of them."""
    replicas: int = 0
    """For hsdp, the groups that hold a whole model each; 0 makes one of each machine."""
    accumulate: int = 0
    """Parts that each rank takes its share of the batch in; changes memory, not the batch. 0: as
    few as are expected to fit in memory."""
    activation_checkpointing: bool = False
    """Keep only what enters a block and compute the rest again in the backward pass: a third more
    FLOPs for a fraction of the memory."""
    compile: str = "auto"
    """Whether the step is compiled: `on`, `off`, or `auto`: where the run is long enough to repay
    it. A compiled step rounds otherwise."""
    hung_after_s: float = 1800.0
    """Seconds without a step, a validation or a save that make a rank write its stacks and end; 0
    never does. Not in the paper; longer than compiling takes."""

    def __post_init__(self) -> None:
        if self.accumulate < 0:
            raise ValueError(f"accumulate {self.accumulate} must be 0 (as memory allows) or more")
        if not self.hung_after_s >= 0:
            raise ValueError(f"hung_after_s {self.hung_after_s} must be 0 (never) or more")
        if self.replicas < 0:
            raise ValueError(f"replicas {self.replicas} must be 0 (one a machine) or more")
        if self.replicas and self.strategy != "hsdp":
            raise ValueError(
                f"replicas {self.replicas} are for --strategy hsdp, not {self.strategy!r}"
            )

    def resolve(self, world: int, *, large: bool) -> Self:
        """Settle what is left open.

        Args:
            world: how many ranks there are.
            large: whether the training state `is_large` for any rank's device.

        Returns:
            The same with a strategy other than `auto`, and with the replicas counted.

        Raises:
            ValueError: if the strategy or the replicas do not fit the world.
        """
        if self.strategy == "none" and world > 1:
            raise ValueError(
                f"strategy 'none' would train {world} models apart; "
                "use 'auto', 'ddp', 'fsdp' or 'hsdp'"
            )
        if world == 1:
            return replace(self, strategy="none", replicas=0)
        if self.strategy == "auto":
            return replace(self, strategy="fsdp" if large else "ddp")
        if self.strategy != "hsdp":
            return self
        machines = max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", world)))
        replicas = self.replicas or machines
        if world % replicas:
            raise ValueError(
                f"{world} ranks do not divide into {replicas} replicas; choose another --replicas"
            )
        return replace(self, replicas=replicas)

    @property
    def sharded(self) -> bool:
        """Whether a rank holds a part of each matrix, so that every rank must join a forward."""
        return self.strategy in ("fsdp", "hsdp")

    def shards(self, world: int) -> int:
        """Into how many parts the weights are cut."""
        return world // max(1, self.replicas) if self.sharded else 1

    def spread(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module],
        *,
        ranks: Ranks,
        place: torch.device,
    ) -> nn.Module:
        """Bring a model to the ranks' devices.

        Each rank builds the whole model from the run's seed in ordinary memory, so that fresh
        weights are the same on any number of ranks; they are cut block by block on the way to the
        device, which never holds more than its part and one block. Filling the parts themselves
        would be cheaper and would depend on the world size. A process needs 4 bytes a parameter
        for that: 4.6 GB for the paper's 1b.

        Weights are fetched, and gradients summed, in fp32; autocast computes in bf16 what it
        would on one device. So a model computes the same under every strategy, and whatever one
        device can train can be sharded. Fetching in bf16 would halve the traffic and round norm
        gains, embeddings and the rates of Mamba's recurrence with the matrices.

        Call this before the optimiser is made.

        Args:
            model: with fresh weights on the CPU; altered in place.
            blocks: of its layers, in order; each is one exchange.
            ranks: of the run.
            place: this rank's device.

        Returns:
            The model to train. The one given holds its parameters, under the same names.
        """
        if self.strategy == "auto":
            raise ValueError("strategy 'auto' is still open; call `resolve` first")
        if self.activation_checkpointing:
            for block in blocks:
                # Not torch's wrapper module, which would change the parameters' names.
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if not self.sharded:
            model = model.to(place)
            if self.strategy == "none":
                return model
            # Gradients lie in the buckets they are exchanged in: 4 bytes a parameter less.
            return DistributedDataParallel(model, gradient_as_bucket_view=True)
        mesh = self._mesh(ranks, place)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        # What is left: embedding, last norm and head.
        fully_shard(model, mesh=mesh)
        return model

    def _mesh(self, ranks: Ranks, place: torch.device) -> DeviceMesh:
        if self.strategy == "fsdp":
            return init_device_mesh(place.type, (ranks.world,), mesh_dim_names=("shard",))
        return init_device_mesh(
            place.type,
            (self.replicas, self.shards(ranks.world)),
            mesh_dim_names=("replicate", "shard"),
        )


@contextmanager
def unsummed(model: nn.Module) -> Iterator[None]:
    """Context of forward and backward in which gradients stay on their rank.

    For all parts of a step but the last, whose backward pass sums what has piled up.
    """
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a sharded one is a part of; another as it is. Every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_large(state_bytes: int, memory_bytes: int) -> bool:
    """Whether weights, gradients and moments take too much of a device for each to hold all."""
    return state_bytes > REPLICATED_SHARE * memory_bytes


def device_memory_bytes(place: torch.device) -> int:
    """Memory of a rank's device: of the GPU, or its share of the machine's."""
    if place.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(place)
        return properties.total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return machine // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

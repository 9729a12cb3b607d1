"""Mamba over token ids: no attention and no positions, a selective recurrence instead.

The paper trains one of 290 M parameters beside its decoder (Table 6: 40.7 against 53.2) and says
that it is the original, one-directional Mamba. Sizes it does not print: those of the `mamba` recipe
are ours. Blocks, sizes inside them and fresh weights are those of the published code, checked
against transformers' `MambaForCausalLM` in tests/numerics.

Beside the package's letters: I channels inside a block, M numbers that each carries (the state
size), R the width that step sizes are made from. A, B, C, D and dt are the Mamba paper's names.

Sources: Gu and Dao, arXiv 2312.00752; github.com/state-spaces/mamba for fresh weights.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from toto.models.cache import RecurrentState
from toto.models.selective_scan import selective_scan
from toto.models.sequence_model import SequenceModel

STEP_RANGE = (1e-3, 1e-1)
"""Step sizes of fresh channels, spread evenly in their logarithm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaConfig:
    """Size and shape of a Mamba; it reads and predicts ids only."""

    patch_values: ClassVar[int] = 0
    predicts: ClassVar[Literal["tokens"]] = "tokens"

    vocab_size: int
    """Ids the model can read and predict, special tokens included."""
    width: int
    depth: int
    """Blocks. One has about 6.4 width^2 weights, a transformer's with an MLP of 4 x width 12."""
    context: int = 4098
    """Longest sequence, in tokens. The recurrence has no end of its own: this says what the model
    was made for."""
    state_size: int = 16
    """M, numbers that each channel carries from position to position."""
    expand: int = 2
    """Channels inside a block, as a multiple of the width."""
    kernel: int = 4
    """Positions that the convolution before the recurrence sees, the current one included."""
    tied: bool = True
    """Whether the output matrix is the embedding; so it is in the published models."""
    norm_eps: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of a fresh embedding; the other weights have their own rule
    (`Mamba.reset`)."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "width",
            "depth",
            "context",
            "state_size",
            "expand",
            "kernel",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")

    @property
    def channels(self) -> int:
        """I, channels inside a block."""
        return self.expand * self.width

    @property
    def step_rank(self) -> int:
        """R, a sixteenth of the width, rounded up."""
        return math.ceil(self.width / 16)

    @property
    def outputs(self) -> int:
        """Numbers that the head gives at each position."""
        return self.vocab_size

    def build(self) -> "Mamba":
        """Make the model these sizes describe, with fresh weights."""
        return Mamba(self)


class Mixer(nn.Module):
    """The selective recurrence between its projections, gated."""

    undecayed: ClassVar[tuple[str, ...]] = ("A_log", "D")
    """Weight decay would pull the rates of decay together and close the way past the recurrence."""

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        inside, states = config.channels, config.state_size
        self.input = nn.Linear(config.width, 2 * inside, bias=False)
        self.convolution = nn.Conv1d(inside, inside, config.kernel, groups=inside)
        self.select = nn.Linear(inside, config.step_rank + 2 * states, bias=False)
        self.step = nn.Linear(config.step_rank, inside)
        self.A_log = nn.Parameter(torch.empty(inside, states))
        self.D = nn.Parameter(torch.empty(inside))
        self.output = nn.Linear(inside, config.width, bias=False)

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], state: RecurrentState | None
    ) -> Float[Tensor, "B L D"]:
        """Mix each position with what the recurrence keeps of those before it."""
        u_BLI, gate_BLI = self.input(x_BLD).chunk(2, dim=-1)
        u_BLI = F.silu(self._convolved(u_BLI, state))
        rank, states = self.config.step_rank, self.config.state_size
        step_BLR, B_BLM, C_BLM = self.select(u_BLI).split([rank, states, states], dim=-1)
        dt_BLI = F.softplus(self.step(step_BLR).float())
        start_BIM = (
            u_BLI.new_zeros(len(u_BLI), *self.A_log.shape)
            if state is None
            else state.states[self.layer]
        )
        A_IM = -torch.exp(self.A_log.float())
        y_BLI, last_BIM = selective_scan(u_BLI, dt_BLI, A_IM, B_BLM, C_BLM, start_BIM)
        if state is not None:
            state.states[self.layer] = last_BIM
        return self.output((y_BLI + self.D * u_BLI) * F.silu(gate_BLI))

    def _convolved(
        self, u_BLI: Float[Tensor, "B L I"], state: RecurrentState | None
    ) -> Float[Tensor, "B L I"]:
        """Convolve every channel with the positions before, which are 0 before the first."""
        u_BIL, before = u_BLI.transpose(1, 2), self.config.kernel - 1
        if state is None:
            u_BIL = F.pad(u_BIL, (before, 0))
        else:
            past = state.inputs[self.layer]
            u_BIL = torch.cat([past.to(u_BIL.dtype), u_BIL], dim=2)
            past.copy_(u_BIL[:, :, u_BIL.shape[2] - before :])
        return self.convolution(u_BIL).transpose(1, 2)


class Block(nn.Module):
    """The mixer, added to the stream it read normalised; there is no MLP."""

    def __init__(self, config: MambaConfig, layer: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mixer = Mixer(config, layer)

    def forward(
        self, x_BLD: Float[Tensor, "B L D"], state: RecurrentState | None
    ) -> Float[Tensor, "B L D"]:
        """Pass the stream through."""
        return x_BLD + self.mixer(self.norm(x_BLD), state)


class Mamba(SequenceModel[MambaConfig]):
    """The whole model, from ids to logits."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(
            config,
            embedded=config.vocab_size,
            blocks=(Block(config, layer) for layer in range(config.depth)),
            norm=nn.RMSNorm(config.width, eps=config.norm_eps),
        )
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Fill all weights afresh, as the published code does.

        Embedding and untied head N(0, init_std^2); matrices and convolutions, with their bias,
        uniform within 1 / sqrt(fan in), `mixer.output` divided by sqrt(depth); `mixer.step` uniform
        within 1 / sqrt(R), its bias such that step sizes lie within `STEP_RANGE`; A_log the
        logarithm of 1 to M in every channel; D and the norm gains 1. Ours: the untied head, which
        the published models do not have.
        """
        nn.init.normal_(self.embedding.weight, std=self.config.init_std)
        nn.init.ones_(self.norm.weight)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=self.config.init_std)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.ones_(block.norm.weight)
            mixer = block.mixer
            for module in (mixer.input, mixer.convolution, mixer.select, mixer.output):
                module.reset_parameters()
            mixer.output.weight /= math.sqrt(self.config.depth)
            mixer.step.reset_parameters()
            shortest, longest = map(math.log, STEP_RANGE)
            step = mixer.step.bias.uniform_(shortest, longest).exp_()
            # The inverse of softplus.
            mixer.step.bias.add_(torch.log(-torch.expm1(-step.clone())))
            rates = torch.arange(1, self.config.state_size + 1, device=mixer.A_log.device)
            mixer.A_log.copy_(rates.log().expand_as(mixer.A_log))
            nn.init.ones_(mixer.D)

    def new_cache(self, batch: int, dtype: torch.dtype = torch.float32) -> RecurrentState:
        """Make the state before the first token of `batch` sequences, on the model's device."""
        return RecurrentState.empty(
            layers=self.config.depth,
            batch=batch,
            channels=self.config.channels,
            state_size=self.config.state_size,
            kernel=self.config.kernel,
            dtype=dtype,
            device=self.embedding.weight.device,
        )

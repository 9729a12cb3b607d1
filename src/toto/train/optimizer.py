"""AdamW as the paper sets it, with the parts it leaves open named."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from toto.models.llama import Llama
from toto.models.mup import Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """AdamW for pre-training (docs/paper.md, O rows)."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only; norm gains, biases and embeddings are not decayed, nor what a module names
    in `undecayed`. Not in the paper: 0.1 is LLaMA's."""

    def build(
        self, model: nn.Module, *, lr_scales: Mapping[str, float] | None = None
    ) -> torch.optim.AdamW:
        """Make the optimiser of a model; the loop sets the learning rate at every step.

        Where muP is used, its parameters are in as many groups as it has rules, each with its
        `lr_scale` (`toto.models.mup`).

        Args:
            model: whose parameters it changes.
            lr_scales: what else multiplies each parameter's learning rate, by its name.
        """
        undecayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        undecayed |= {
            id(getattr(m, name)) for m in model.modules() for name in getattr(m, "undecayed", ())
        }
        rules = _width_scales(model)
        groups: dict[tuple[bool, Scales], list[nn.Parameter]] = {(True, Scales()): []}
        groups[False, Scales()] = []
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim >= 2 and id(parameter) not in undecayed
            rule = replace(rules.get(id(parameter), Scales()), init_std=1.0)
            if lr_scales is not None:
                rule = replace(rule, lr=rule.lr * lr_scales[name])
            groups.setdefault((matrix, rule), []).append(parameter)
        settings = [
            {
                "params": parameters,
                "weight_decay": self.weight_decay * rule.weight_decay if decayed else 0.0,
                "eps": self.eps * rule.eps,
                "lr_scale": rule.lr,
            }
            for (decayed, rule), parameters in groups.items()
            if parameters or rule == Scales()
        ]
        # One kernel for all parameters: 1.3x a step on a small model against the plain loop.
        return torch.optim.AdamW(settings, lr=0.0, betas=self.betas, eps=self.eps, fused=True)


def _width_scales(model: nn.Module) -> dict[int, Scales]:
    """What muP asks for, by the parameter's id; a decoder may be wrapped."""
    return {
        id(parameter): rules[name]
        for module in model.modules()
        if isinstance(module, Llama)
        for rules in (module.width_scales(),)
        for name, parameter in module.named_parameters()
    }

"""The state a run carries from step to step, as named tensors that a checkpoint can hold.

Only the optimizer's moments and the random generators are such state: learning rate, data order and
masks follow from config and step.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toto.runtime.checkpoint_blocks import Readable, fill


def restore_model(model: nn.Module, tensors: Mapping[str, Readable]) -> None:
    """Give a model, whole or sharded, the weights that its `state_dict` had, bit for bit.

    Raises:
        ValueError: if names or shapes do not fit exactly; the model is then unchanged.
    """
    targets = model.state_dict()
    _require_names("weights:", wanted=set(targets), got=set(tensors))
    for name, target in targets.items():
        _require_shape(name, tensors[name], target)
    for name, target in targets.items():
        fill(target, tensors[name])


def optimizer_tensors(optimizer: torch.optim.AdamW, model: nn.Module) -> dict[str, Tensor]:
    """Take an optimizer's moments, under `PARAMETER/exp_avg`, `/exp_avg_sq` and `/step`.

    Names stay right when parameters are regrouped or reordered; positions do not. Learning rates
    and the like are not state here: they follow from config and step. A parameter that has had no
    gradient yet has only a `/step` of 0.

    Raises:
        ValueError: if the optimizer holds a parameter that is not the model's.
    """
    return {
        f"{name}/{key}": value.detach()
        for name, (parameter, _) in _named_parameters(optimizer, model).items()
        for key, value in (optimizer.state.get(parameter) or {"step": torch.zeros(())}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.AdamW, model: nn.Module, tensors: Mapping[str, Readable]
) -> None:
    """Give an optimizer the moments that `optimizer_tensors` took, bit for bit.

    Where the parameters are sharded, each rank takes its blocks of the moments.

    Raises:
        ValueError: if names or shapes do not fit exactly; the optimizer is then unchanged.
    """
    parameters = _named_parameters(optimizer, model)
    saved: dict[str, dict[str, Readable]] = {}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        saved.setdefault(parameter_name, {})[key] = tensor
    _require_names("optimizer state:", wanted=set(parameters), got=set(saved))
    states = {}
    for name, (parameter, group) in parameters.items():
        step = saved[name]["step"][()] if "step" in saved[name] else None
        if saved[name].keys() == {"step"} and step == 0:
            states[parameter] = {}
            continue
        moments = {"exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if group["amsgrad"] else set())
        _require_names(f"state of {name}:", wanted={"step", *moments}, got=set(saved[name]))
        for key in moments:
            _require_shape(f"{name}/{key}", saved[name][key], parameter)
        assert step is not None
        step_on_device = group["capturable"] or group["fused"]
        step = step.to(parameter.device if step_on_device else "cpu", copy=True)
        # In the parameter's own memory format: the fused kernel pairs them by their place there.
        states[parameter] = {"step": step}
        for key in moments:
            states[parameter][key] = torch.empty_like(parameter, requires_grad=False)
            fill(states[parameter][key], saved[name][key])
    optimizer.state.clear()
    optimizer.state.update({parameter: state for parameter, state in states.items() if state})


def random_tensors() -> dict[str, Tensor]:
    """Take torch's random states in this process: of the CPU, and of the current GPU if any."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random(tensors: Mapping[str, Tensor]) -> None:
    """Set the random states that `random_tensors` took.

    Raises:
        ValueError: if the states are of other kinds of device than this machine has.
    """
    _require_names("random states:", wanted=set(random_tensors()), got=set(tensors))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])


def draw_anew(seed: int, step: int, rank: int) -> None:
    """Set torch's random state to one that follows from these three, where none was saved."""
    text = f"random state of seed {seed}, step {step}, rank {rank}"
    torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def _named_parameters(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, tuple[nn.Parameter, dict[str, Any]]]:
    """The optimizer's parameters and their groups, by the model's names for them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for parameter, group in _parameters(optimizer):
        if parameter not in names:
            raise ValueError(
                f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that the model "
                "does not; make the optimizer from this model's parameters"
            )
        found[names[parameter]] = (parameter, group)
    return found


def _parameters(
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[nn.Parameter, dict[str, Any]]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group


def _require_shape(name: str, saved: Readable, wanted: Tensor) -> None:
    if saved.shape != wanted.shape:
        raise ValueError(
            f"{name} is {tuple(saved.shape)} in the checkpoint and {tuple(wanted.shape)} here; "
            "build the model from the saved config"
        )


def _require_names(what: str, *, wanted: set[str], got: set[str]) -> None:
    if wanted != got:
        missing, unknown = sorted(wanted - got), sorted(got - wanted)
        raise ValueError(
            f"{what} missing {missing[:3]}{' ...' * (len(missing) > 3)}, "
            f"unknown {unknown[:3]}{' ...' * (len(unknown) > 3)}; "
            "restore it into what it was saved from"
        )

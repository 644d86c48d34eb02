"""AdamW with float32 moments and, for weights of another type, a float32 master copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindformers.checkpoint.parts import Parted
from mindformers.config.options import refuse_options
from mindformers.errors import CheckpointError, ConfigError, did_you_mean
from mindformers.ops.native.optimizer import AdamRates
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.adam_update import AdamState, build_update

_NEUTRAL = {"use_fused": (), "amsgrad": (False,), "maximize": (False,), "swap": (False,)}
_GROUP_KEYS = ("params", "weight_decay")


@MindFormerRegister.register(MindFormerModuleType.OPTIMIZER)
class AdamW:
    """AdamW as in "Decoupled Weight Decay Regularization", with bias correction.

    Args:
        params: Parameters, or groups ``{"params": [...], "weight_decay": number}``.
        learning_rate: Rate used when a run has no schedule; a number or a schedule.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the square root of the second moment, above 0.
        weight_decay: Decay of parameters whose group names none, 0 or more.
        options: ``use_fused`` (read, no effect: the update is fused in any case); ``amsgrad``,
            ``maximize`` and ``swap`` at False.

    Attributes:
        parameters: The trained parameters, in the order of the gradients.
        step: Finished updates.

    Raises:
        ConfigError: If an argument is out of range or not implemented.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        learning_rate: float | Callable[[int], float] = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ):
        refuse_options("optimizer", options, _NEUTRAL)
        self.learning_rate, self.eps, self.betas = learning_rate, float(eps), _checked_betas(betas)
        if not (callable(learning_rate) or _is_rate(learning_rate)):
            raise ConfigError(f"is {learning_rate!r}", where="optimizer.learning_rate",
                              allowed="a number, 0 or more, or a schedule")  # fmt: skip
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ConfigError(f"is {eps!r}", where="optimizer.eps", allowed="a number above 0")
        groups = _as_groups(list(params), weight_decay)
        self.parameters: list[Parameter] = [p for members, _ in groups for p in members]
        self.weight_decays = [decay for _, decay in groups]
        self.step = 0
        self._build_state()
        members = [index for index, (group, _) in enumerate(groups) for _ in group]
        state = AdamState(self.parameters, self.first, self.second, self.masters, members)
        self._update = build_update(state, self.betas)

    def _build_state(self) -> None:
        self.first = [_zeros(f"adam_m.{p.name}", p.shape) for p in self.parameters]
        self.second = [_zeros(f"adam_v.{p.name}", p.shape) for p in self.parameters]
        self.masters = {
            i: _zeros(f"master.{p.name}", p.shape)
            for i, p in enumerate(self.parameters)
            if p.dtype != ms.float32
        }

    def apply(self, grads: Sequence[Tensor], lr: float, scale: float = 1.0) -> None:
        """Update the parameters in place and count one step.

        Args:
            grads: One float32 tensor per parameter, in the order of ``parameters``.
            lr: Learning rate of this step.
            scale: Multiplies every gradient first (clipping, loss scale).
        """
        if self.step == 0:  # the weights may have been loaded after this optimizer was built
            self._copy_to_masters()
        beta1, beta2 = self.betas
        count = self.step + 1
        second_correction = math.sqrt(1.0 - beta2**count)
        correction = second_correction / (1.0 - beta1**count)
        rates = AdamRates(lr * correction, self.betas, self.eps * second_correction, scale)
        self._update(grads, rates, [decay / correction for decay in self.weight_decays])
        self.step = count

    def _copy_to_masters(self) -> None:
        for index, master in self.masters.items():
            master.set_data(self.parameters[index].astype(ms.float32))

    def state_parameters(self) -> list[Parameter]:
        """Return the moments and master copies, in the order they are saved."""
        return [*self.first, *self.second, *self.masters.values()]

    def saved_state(self) -> list[Parameter]:
        """Return what this process writes of the state: nothing where another one holds the same."""
        return self.state_parameters() if mesh().replicas.index == 0 else []

    def state_parts(self, weights: Mapping[str, Parted]) -> dict[str, Parted]:
        """Return what each state tensor is of the whole one, for what its weight is of the whole weight."""
        return {p.name: weights[p.name.partition(".")[2]] for p in self.state_parameters()}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state by name: ``adam_m.*``, ``adam_v.*``, ``master.*``; not ``step``."""
        return {p.name: p.asnumpy() for p in self.state_parameters()}

    def load_state(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
        """Take over the state of an earlier run; its arrays are copied.

        Args:
            arrays: What ``state_dict`` gave, no more and no less.
            step: Updates finished when it was saved.

        Raises:
            CheckpointError: If a name is missing, left over, or has another shape.
        """
        self.check_names(arrays)
        state = {p.name: p for p in self.state_parameters()}
        for name, parameter in state.items():
            if tuple(arrays[name].shape) != tuple(parameter.shape):
                raise CheckpointError(
                    f"has shape {tuple(arrays[name].shape)}",
                    where=name,
                    allowed=str(tuple(parameter.shape)),
                )
            parameter.set_data(Tensor(np.ascontiguousarray(arrays[name], dtype=np.float32)))
        self.step = step

    def check_names(self, stored: Iterable[str]) -> None:
        """Refuse names of a stored state that are not those of this one.

        Raises:
            CheckpointError: If one is missing or left over.
        """
        state, found = [p.name for p in self.state_parameters()], list(stored)
        for name in [*state, *found]:
            if name not in found or name not in state:
                kind = "is missing from" if name in state else "is unknown; it is in"
                raise CheckpointError(
                    f"{kind} the optimizer state",
                    where=name,
                    fix=did_you_mean(name, found if name in state else state)
                    or "resume with the model and optimizer that saved it",
                )


def _is_rate(value: object) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _checked_betas(betas: Sequence[float]) -> tuple[float, float]:
    if len(betas) != 2 or not all(_is_rate(beta) and beta < 1 for beta in betas):
        raise ConfigError(f"is {betas!r}", where="optimizer.betas", allowed="two numbers in [0, 1)")
    return float(betas[0]), float(betas[1])


def _as_groups(params: list[Any], weight_decay: float) -> list[tuple[list[Parameter], float]]:
    """Return (parameters, decay) of every group; plain parameters are one group."""
    if not params:
        raise ConfigError("there is no parameter to train", fix="unfreeze some of the model")
    if not isinstance(params[0], Mapping):
        params = [{"params": params}]
    groups = []
    for group in params:
        for key in group:
            if key not in _GROUP_KEYS:
                raise ConfigError("a parameter group has no such key", where=f"optimizer.{key}",
                                  allowed=", ".join(_GROUP_KEYS))  # fmt: skip
        decay = group.get("weight_decay", weight_decay)
        if not _is_rate(decay):
            raise ConfigError(
                f"is {decay!r}", where="optimizer.weight_decay", allowed="a number, 0 or more"
            )
        groups.append((list(group["params"]), float(decay)))
    _refuse_repeats([parameter.name for members, _ in groups for parameter in members])
    return groups


def _refuse_repeats(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(
                f"the parameter {name!r} is given to the optimizer twice", fix="give each once"
            )
        seen.add(name)


def _zeros(name: str, shape: Sequence[int]) -> Parameter:
    """Return a float32 parameter of zeros that no gradient is computed for."""
    zeros = Tensor(np.zeros(tuple(shape), np.float32))
    return Parameter(zeros, name=name, requires_grad=False)

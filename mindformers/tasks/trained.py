"""Which weights a run trains, at which rate and by which optimizer."""

from __future__ import annotations

from typing import Any

from mindformers.config.optimizer import OF_WEIGHTS
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.lr_annealing import LearningRateWiseLayer
from mindformers.training.lr_schedule import Schedule, build_schedule
from mindformers.training.optimizer import Optimizer
from mindformers.training.param_groups import (
    freeze,
    get_optimizer_grouped_parameters,
    layer_factors,
)
from mindformers.training.sharded_optimizer import ShardedOptimizer


def build_optimizer(network: Any, config: RunConfig) -> Optimizer | ShardedOptimizer:
    """Return the optimizer over the weights that the settings train; norms and biases do not decay."""
    section = config.optimizer
    count = freeze(network, section.freezes)
    if section.freeze_include and not count and mesh().layout.is_single:
        raise ConfigError(
            f"{section.freeze_include} names no weight that is trained",
            where="optimizer.freeze_include", fix="see the names in network.trainable_params()",
        )  # fmt: skip
    if count:
        logger.info("%d weights are frozen, %d are trained", count, len(network.trainable_params()))
    factors = layer_factors(
        network.config.num_layers,
        config.layer_decay if config.layer_scale else None,
        section.lr_scales,
    )
    arguments = section.model_dump(exclude={"type", *OF_WEIGHTS})
    groups = get_optimizer_grouped_parameters(network, section.weight_decay, factors)
    chosen = MindFormerRegister.get_cls(MindFormerModuleType.OPTIMIZER, section.type)
    if mesh().layout.shards_optimizer:
        return ShardedOptimizer(chosen, groups, **arguments)
    return chosen(groups, **arguments)


def build_rate(optimizer: Any, config: RunConfig, total_steps: int) -> Schedule:
    """Return the learning rate by step: the schedule's, else the optimizer's own; times ``lr_scale``."""
    own = getattr(optimizer, "learning_rate", None)
    if config.lr_schedule is None and callable(own):
        rate: Schedule = own
    else:
        named = config.lr_schedule.model_dump(exclude_none=True) if config.lr_schedule else {}
        epochs = named.pop("warmup_epochs", None)
        if epochs is not None:
            named.pop("warmup_ratio", None)
            named["warmup_steps"] = int(epochs * total_steps / config.runner_config.epochs)
        rate = build_schedule(named, total_steps, config.optimizer.learning_rate)
    if not config.lr_scale:
        return rate
    return LearningRateWiseLayer(rate, config.global_batch_size / config.lr_scale_factor)

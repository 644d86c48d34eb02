"""Which weights a run trains, at which rate and by which optimizer."""

from __future__ import annotations

from typing import Any

from mindformers.config.optimizer import OF_WEIGHTS
from mindformers.config.pet import LORA_A, LORA_B
from mindformers.config.run_config import RunConfig
from mindformers.config.weight_patterns import unmatched
from mindformers.errors import ConfigError, did_you_mean
from mindformers.logger import logger
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import layout_named, stored_tensors
from mindformers.parallel.layout import Layout
from mindformers.parallel.mesh import mesh
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tasks.build import network_settings
from mindformers.tasks.layout import layout_of
from mindformers.training.lr_annealing import LearningRateWiseLayer
from mindformers.training.lr_schedule import Schedule, build_schedule
from mindformers.training.optimizer import Optimizer
from mindformers.training.param_groups import (
    freeze,
    get_optimizer_grouped_parameters,
    layer_factors,
)
from mindformers.training.sharded_optimizer import ShardedOptimizer


def check_patterns(config: RunConfig) -> None:
    """Refuse patterns of weights that name none, and stages without a weight to train. Builds nothing.

    Raises:
        ConfigError: If a pattern fits no weight, or freezes every weight of a process.
    """
    section = config.optimizer
    if not (section.freeze_include or section.lr_scales):
        return
    settings = network_settings(config)
    assert isinstance(settings, ChatGLM2Config)
    names = [each.name for each in stored_tensors(settings, layout_named("mindformers", settings))]
    adapters = [name.replace(".weight", f".{each}") for name in names for each in (LORA_A, LORA_B)]
    known = names + adapters if settings.pet_config else names
    for key in OF_WEIGHTS:
        for pattern in unmatched(list(getattr(section, key)), known):
            raise ConfigError(
                f"{pattern!r} names no weight", where=f"optimizer.{key}",
                fix=did_you_mean(pattern, names) or f"names are as {names[1]}",
            )  # fmt: skip
    layout = layout_of(config)
    for stage in range(layout.pipeline):
        if all(section.freezes(name) for name in names if _is_here(name, layout, stage, settings)):
            at = f" of pipeline stage {stage}" if layout.pipeline > 1 else ""
            raise ConfigError(
                f"every weight{at} is frozen", where="optimizer.freeze_include",
                fix="name fewer weights, or some in freeze_exclude",
            )  # fmt: skip


def _is_here(name: str, layout: Layout, stage: int, settings: ChatGLM2Config) -> bool:
    """Tell whether a stage holds a weight."""
    seen = layout.at(stage * layout.size // layout.pipeline)
    _, is_layer, rest = name.partition(".layers.")
    if is_layer:
        return int(rest.partition(".")[0]) in seen.layers(settings.num_layers)
    return seen.is_first_stage if "embedding" in name else seen.is_last_stage


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

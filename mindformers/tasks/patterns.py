"""Patterns of weight names in the settings of a run, checked before anything is built. Needs no MindSpore."""

from __future__ import annotations

from mindformers.config.optimizer import OF_WEIGHTS
from mindformers.config.pet import LORA_A, LORA_B
from mindformers.config.run_config import RunConfig
from mindformers.config.weight_patterns import unmatched
from mindformers.errors import ConfigError, did_you_mean
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.models.glm2.glm2_weights import layout_named, stored_tensors
from mindformers.parallel.layout import Layout
from mindformers.tasks.layout import layout_of


def check_patterns(config: RunConfig, settings: PretrainedConfig) -> None:
    """Refuse patterns of weights that name none, and stages without a weight to train.

    Args:
        config: The run's settings.
        settings: The network's.

    Raises:
        ConfigError: If a pattern fits no weight, or freezes every weight of a process.
    """
    section = config.optimizer
    if not (section.freeze_include or section.lr_scales) or not isinstance(
        settings, ChatGLM2Config
    ):
        return
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

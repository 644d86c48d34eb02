"""Upstream's helpers that set MindSpore up for scripts which build the network themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.options import refuse_options
from mindformers.logger import logger
from mindformers.tasks import build


def build_context(config: Mapping[str, Any]) -> None:
    """Set device, mode and seed as the settings of a run say; call it before the first tensor.

    Args:
        config: A ``MindFormerConfig``, or a mapping of a run's settings.

    Raises:
        ConfigError: If a setting is wrong.
        DeviceError: If the device is not there or several processes are asked for.
    """
    build.start_device(_as_config(config).bind())


def init_context(
    use_parallel: bool = False,
    context_config: Mapping[str, Any] | None = None,
    parallel_config: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Set MindSpore up from a run's ``context`` and ``parallel`` sections.

    Returns:
        The number of this process and the count of processes: (0, 1).

    Raises:
        ConfigError: If a setting is wrong.
        DeviceError: If the device is not there or several processes are asked for.
    """
    sections = {"context": context_config, "parallel": parallel_config}
    build_context(
        {"use_parallel": use_parallel, **{name: each for name, each in sections.items() if each}}
    )
    return 0, 1


def build_parallel_config(config: Mapping[str, Any]) -> None:
    """Check the parallel settings of a run; they stay as they are, and have no effect in one process.

    Raises:
        ConfigError: If a setting is wrong.
    """
    degrees = _as_config(config).bind().parallel_config
    if degrees.num_processes > 1:
        logger.info(
            "parallel_config is for %d processes: no effect in one process", degrees.num_processes
        )


def transform_and_load_checkpoint(
    config: Mapping[str, Any], model: Any, network: Any, *unused: Any, **options: Any
) -> None:
    """Load the weights that the settings of a run name into a network.

    Args:
        config: A ``MindFormerConfig``, or a mapping of a run's settings; ``load_checkpoint`` is read.
        model: Upstream's ``Model`` around the network; not needed.
        network: The network to fill.
        unused: Upstream's data set or inputs, for a layout over several devices; has no effect.
        options: ``optimizer``, ``do_eval``, ``do_predict``: the weights are loaded in any case.

    Raises:
        ConfigError: If no weights are named, or an option is unknown.
        CheckpointError: If they do not fit.
    """
    del model, unused
    refuse_options(
        "transform_and_load_checkpoint", options,
        {"optimizer": (None,), "dataset": (), "do_eval": (), "do_predict": ()},
    )  # fmt: skip
    network.load_checkpoint(build.named_weights(_as_config(config).bind()))


def _as_config(config: Mapping[str, Any]) -> MindFormerConfig:
    return config if isinstance(config, MindFormerConfig) else MindFormerConfig(config)

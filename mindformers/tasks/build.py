"""From a run's settings to its parts: runtime, network, tokenizer, data, optimizer."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError, DataError
from mindformers.logger import logger, setup_file_logging, warn_once
from mindformers.models.base_config import PretrainedConfig
from mindformers.ops.native.library import choose_backend, is_native, set_threads
from mindformers.parallel.agreement import require_same
from mindformers.parallel.mesh import mesh
from mindformers.parallel.runtime import launched_rank, start_runtime
from mindformers.pet.adapter_source import base_of, existing_base, holds_adapters
from mindformers.pet.prefix_source import require_prefix
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tasks.layout import launched_layout
from mindformers.tasks.tokenizers import build_tokenizer as build_tokenizer
from mindformers.tasks.tokenizers import check_tokenizer as check_tokenizer
from mindformers.tasks.tokenizers import training_tokenizer
from mindformers.version import __version__

_DATASET = "CausalLanguageModelDataset"


def start(config: RunConfig) -> Path:
    """Set MindSpore up and make the output folder; log lines go there from now on.

    Returns:
        The output folder.

    Raises:
        ConfigError: If the system does not let us write there.
    """
    start_device(config)
    return open_output(config)


def open_output(config: RunConfig) -> Path:
    """Make the output folder; log lines go there from now on.

    Returns:
        The output folder.

    Raises:
        ConfigError: If the system does not let us write there.
    """
    output_dir = Path(config.output_dir)
    try:
        setup_file_logging(output_dir, launched_rank())
    except OSError as error:
        raise ConfigError(
            f"{output_dir} cannot be written: {error.strerror or error}",
            where="output_dir",
            fix="choose another folder with --output_dir",
        ) from error
    return output_dir


def choose_kernels(config: RunConfig) -> None:
    """Let networks built from now on use the form of the operators the settings ask for.

    Raises:
        DeviceError: If they ask for the native form, which cannot be had.
    """
    if config.context.device_target != "CPU":
        return
    if config.ops.threads and config.ops.backend == "portable":
        warn_once("ops.threads has no effect with ops.backend portable")
    set_threads(config.ops.threads)
    choose_backend(config.ops.backend)


def start_device(config: RunConfig) -> None:
    """Set the kernels and MindSpore up: device, mode, seed, other processes. Nothing is written."""
    layout = launched_layout(config)
    choose_kernels(config)
    context = config.context
    start_runtime(
        device_target=context.device_target,
        mode=context.mode,
        device_id=context.device_id,
        seed=config.seed,
        layout=layout,
        has_native_cells=context.device_target == "CPU" and is_native(),
        max_call_depth=context.max_call_depth,
        save_graphs=context.save_graphs,
        save_graphs_path=context.save_graphs_path,
        max_device_memory=context.max_device_memory,
    )
    require_same({"the settings of the run": _digest(config), "the release": __version__})


def _digest(config: RunConfig) -> str:
    """Return a hash of the settings; the data is compared by content, its path may differ."""
    settings = config.to_dict()
    for name in ("train_dataset", "eval_dataset"):
        settings.pop(name, None)
        settings.pop(f"{name}_task", None)
    return hashlib.sha256(yaml.safe_dump(settings).encode()).hexdigest()


def config_text(config: RunConfig) -> str:
    """Return the resolved settings as YAML."""
    return yaml.safe_dump(config.to_dict(), allow_unicode=True, sort_keys=False)


def network_settings(config: RunConfig) -> PretrainedConfig:
    """Return the network's configuration object, without loading any weights.

    Raises:
        ConfigError: If the file has no model section.
    """
    if config.model is None:
        raise ConfigError(
            "the file has no model section",
            where="model",
            fix="take one of the files in configs/glm4 as a start",
        )
    section = config.model.network
    settings = section.model_dump(exclude={"type", "checkpoint_name_or_path", "parallel_config"})
    return MindFormerRegister.get_cls(MindFormerModuleType.CONFIG, section.type)(**settings)


def build_network(config: RunConfig, weights: str | Path = "") -> Any:
    """Return the network the settings describe, with fresh weights or none yet.

    Args:
        config: The run's settings.
        weights: What will be loaded into it: its weights are not drawn. Checked first, as a large network
            takes minutes to build. Empty: fresh weights.

    Raises:
        CheckpointError: If ``weights`` are those of another network.
    """
    settings = network_settings(config)
    assert config.model is not None
    family = MindFormerRegister.get_cls(MindFormerModuleType.MODELS, config.model.arch.type)
    if weights:
        family.check_weights(settings, Path(weights))
    from mindformers.modules.start import not_drawn  # brings MindSpore

    is_shared = not mesh().layout.is_single
    with not_drawn() if weights or is_shared else nullcontext():
        network = family(settings)
    if is_shared and not weights:
        network.draw_start(config.seed)
    count = sum(parameter.size for parameter in network.get_parameters())
    logger.info("network: %s parameters, %d layers", f"{count:,}", settings.num_layers)
    return network


def base_weights(config: RunConfig, step: Path) -> str:
    """Return the weights that must be loaded before a step: those its adapters belong to; empty: none.

    The model's own ``checkpoint_name_or_path`` goes before what the step says.

    Raises:
        CheckpointError: If nothing is there.
    """
    if not holds_adapters(step):
        return ""
    assert config.model is not None
    network = config.model.network
    is_known = network.checkpoint_name_or_path or base_of(step)
    return str(existing_base(network, step)) if is_known else ""


def open_text_model(config: RunConfig, weights: str) -> Any:
    """Return what answers prompts with ``weights``: on a CPU from the files in place, without MindSpore.

    Raises:
        CheckpointError: If the weights are damaged or another network's.
    """
    assert config.model is not None
    kind, name = MindFormerModuleType.TEXT_MODEL, config.model.arch.type
    choose_kernels(config)
    require_prefix(network_settings(config), weights)
    is_alone = config.context.device_target == "CPU" and not config.use_parallel
    if is_alone and MindFormerRegister.is_exist(kind, name):
        found = MindFormerRegister.get_cls(kind, name).open(network_settings(config), weights)
        if found is not None:
            found.pretrained_dir = None  # lengths and sampling are the run's, not the folder's
            return found
    return open_network(config, weights)


def open_network(config: RunConfig, weights: str) -> Any:
    """Return the network the settings describe with ``weights``.

    Raises:
        CheckpointError: If the weights are damaged or another network's.
    """
    choose_kernels(config)
    start_device(config)
    network = build_network(config, weights)
    network.load_checkpoint(weights)
    return network


def named_weights(config: RunConfig) -> str:
    """Return the path of the weights the run names.

    Raises:
        ConfigError: If it names none.
    """
    if not config.weights_path:
        raise ConfigError(
            "no weights are named",
            where="load_checkpoint",
            fix="add --load_checkpoint with a model directory or file",
        )
    return config.weights_path


def build_train_dataset(config: RunConfig, network: Any, tokenizer: Any = None) -> Any:
    """Return the training data, checked against the network's length and vocabulary.

    Args:
        config: The run's settings.
        network: Has ``config``.
        tokenizer: Makes token ids of text; None: the one the settings or the weights name.

    Raises:
        ConfigError: If the file names no data.
        DataError: If the data cannot be used with this network.
    """
    from mindformers.dataset import causal_lm  # not for answering

    section = config.train_dataset
    if section is None or not section.data_loader.files:
        raise ConfigError(
            "no training data is named",
            where="train_dataset.data_loader.dataset_dir",
            fix="add --train_dataset_dir with a MindRecord, JSON, JSON Lines or Parquet file",
        )
    settings = {
        **section.model_dump(exclude_none=True),
        "seed": config.seed if section.seed is None else section.seed,
    }
    layout = mesh().layout
    settings.setdefault("batch_size", config.runner_config.batch_size)
    settings["batch_size"] *= layout.data
    is_text = section.data_loader.has_text
    name = config.train_dataset_task.type if config.train_dataset_task else _DATASET
    dataset = getattr(causal_lm, name)(
        settings,
        seq_length=network.config.seq_length if section.packing or is_text else None,
        tokenizer=training_tokenizer(config, network.config, tokenizer) if is_text else None,
        vocab_size=network.config.vocab_size,
        layout=layout,
        pad_token_id=network.config.pad_token_id,
    )
    check_dataset(dataset, network.config)
    require_same({"the training data": dataset.fingerprint})
    return dataset


def check_dataset(
    dataset: Any, settings: PretrainedConfig, where: str = "the training data"
) -> None:
    """Refuse data whose rows are longer than the network's ``seq_length``; shorter ones are fine.

    Raises:
        DataError: If they are.
    """
    if dataset.seq_length > settings.seq_length:
        raise DataError(
            f"rows of {dataset.seq_length} tokens for a network of seq_length {settings.seq_length}",
            where=where,
            fix="preprocess again with --seq_length, or raise model.model_config.seq_length",
        )

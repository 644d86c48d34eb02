"""From a run's settings to the layout of its processes, checked before anything is built. Needs no MindSpore."""

from __future__ import annotations

from typing import Any

from mindformers.checkpoint.quantized import BITS, usual_group
from mindformers.config.pet import pet_of
from mindformers.config.preflight import TRAINING_MODES
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from mindformers.parallel.layout import Layout, Sizes, check_layout
from mindformers.parallel.runtime import launched_processes, launched_rank


def layout_of(config: RunConfig, rank: int = 0) -> Layout:
    """Return the layout the settings ask for, seen from a rank; one process without ``use_parallel``.

    Answering shares no tokens: a step has one for each prompt.
    """
    is_training = config.run_mode in TRAINING_MODES
    if not config.use_parallel:
        return Layout()
    degrees, network = config.parallel_config, config.model.network if config.model else None
    offset = network.offset if network else 0
    return Layout(
        data=degrees.data_parallel,
        tensor=degrees.model_parallel,
        pipeline=degrees.pipeline_stage,
        context=degrees.context_parallel,
        rank=rank,
        is_sequence_parallel=degrees.use_seq_parallel
        and degrees.model_parallel > 1
        and is_training,
        is_vocab_parallel=(not degrees.vocab_emb_dp or degrees.pipeline_stage > 1)
        and degrees.model_parallel > 1,
        shards_optimizer=config.parallel.enable_parallel_optimizer
        and degrees.data_parallel * degrees.context_parallel > 1,
        offset=tuple(offset) if isinstance(offset, list) and degrees.pipeline_stage > 1 else (),
    )


def sizes_of(config: RunConfig) -> Sizes:
    """Return what of the run has to divide among processes."""
    assert config.model is not None
    network = config.model.network
    groups = network.multi_query_group_num if network.multi_query_attention else None
    return Sizes(
        heads=network.num_attention_heads,
        groups=groups or network.num_attention_heads,
        ffn=network.ffn_hidden_size,
        vocab=network.padded_vocab_size,
        layers=network.num_layers,
        seq_length=network.seq_length,
        rows=config.runner_config.batch_size,
        rounded=rounded_columns(network),
    )


def rounded_columns(network: Any) -> tuple[tuple[str, int, int], ...]:
    """Return the columns that processes share of matrices held in int8 or int4; see ``Sizes.rounded``.

    Args:
        network: Settings of the network.
    """
    kind = getattr(pet_of(network), "base_quantization", None)
    if kind is None:
        return ()
    heads = network.num_attention_heads * network.kv_channels
    counts = {"channels of query heads": heads, "ffn_hidden_size": network.ffn_hidden_size}
    return tuple((name, each, usual_group(BITS[kind], {each})) for name, each in counts.items())


def launched_layout(config: RunConfig) -> Layout | None:
    """Return the layout of the processes that were started, seen from this one; None for a run on its own.

    Raises:
        ConfigError: If it does not fit the network or the number of processes.
    """
    if not config.use_parallel:
        return None
    layout = layout_of(config, launched_rank())
    if config.model is not None:
        check_layout(layout, sizes_of(config), launched_processes())
    _refuse_unknown(config, layout)
    return layout


def _refuse_unknown(config: RunConfig, layout: Layout) -> None:
    """Refuse what a shared run cannot do, and say what has no effect."""
    degrees = config.parallel_config
    is_answering = config.run_mode not in TRAINING_MODES and (
        config.run_mode != "eval" or config.has_text_metrics
    )
    if is_answering and layout.size > layout.tensor:
        raise ConfigError(
            f"answering is shared by {layout}", where="parallel_config",
            allowed="model_parallel alone; the other degrees 1",
            fix=f"--parallel_config.model_parallel {layout.size}, and 1 for the others",
        )  # fmt: skip
    if degrees.expert_parallel > 1 or degrees.seq_split_num > 1 or degrees.ulysses_degree_in_cp > 1:
        raise ConfigError(
            "is not implemented beyond 1",
            where="parallel_config: expert_parallel, seq_split_num, ulysses_degree_in_cp",
        )
    if layout.context > 1 and degrees.context_parallel_algo != "colossalai_cp":
        raise ConfigError(
            f"is {degrees.context_parallel_algo}", where="parallel_config.context_parallel_algo",
            allowed="colossalai_cp: keys and values are gathered",
        )  # fmt: skip
    data = config.train_dataset
    if data is not None and not data.drop_remainder and layout.data > 1:
        raise ConfigError(
            "a last batch that is not full cannot be shared", where="train_dataset.drop_remainder",
            allowed="True with data_parallel above 1",
        )  # fmt: skip

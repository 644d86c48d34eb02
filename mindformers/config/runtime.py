"""Typed settings of the machine a run uses: context, parallel layout, recomputation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mindformers.config.fields import NO_BOOL, Count, Rate
from mindformers.config.section import Section, only

_NO_EFFECT = "Read for compatibility; no effect"


class JitConfigSection(Section):
    """``context.jit_config``: how graphs are compiled."""

    jit_level: Literal["O0", "O1", "O2"] = Field(
        default="O0", description="Level of graph optimization; a CPU compiles at O0."
    )


class AscendConfigSection(Section):
    """``context.ascend_config``: options of the NPU."""

    precision_mode: Literal[
        "force_fp16", "force_fp32", "must_keep_origin_dtype", "allow_fp32_to_fp16",
        "allow_fp32_to_bf16", "allow_mix_precision", "allow_mix_precision_fp16",
        "allow_mix_precision_bf16",
    ] = Field(
        default="must_keep_origin_dtype", description="Ascend: types operators compute in."
    )  # fmt: skip


class ContextSection(Section):
    """``context``: device and execution mode."""

    mode: Annotated[Literal[0, 1], NO_BOOL] = Field(
        default=0, description="0 compiles graphs, 1 runs operator by operator."
    )
    device_target: Literal["Ascend", "CPU"] = Field(
        default="Ascend", description="Device of the run."
    )
    device_id: int = Field(default=0, ge=0, description="Number of the NPU; a CPU has none.")
    max_device_memory: str = Field(
        default="58GB",
        pattern=r"^\d+(\.\d+)?GB$",
        description="Ascend: memory the run may take (GB).",
    )
    max_call_depth: Count = Field(default=10000, description="Deepest nesting of calls in a graph.")
    save_graphs: bool = Field(
        default=False, description="Write the compiled graphs to save_graphs_path."
    )
    save_graphs_path: str = Field(default="./graph", description="Folder of the compiled graphs.")
    jit_config: JitConfigSection | None = Field(
        default=None, description="How graphs are compiled."
    )
    ascend_config: AscendConfigSection | None = Field(
        default=None, description="Options of the NPU."
    )
    memory_optimize_level: Literal["O0", "O1"] = Field(
        default="O0", description="Ascend: O1 trades compile time for memory."
    )
    enable_graph_kernel: Annotated[bool, only(False, feature="graph kernel fusion")] = Field(
        default=False, description="Graph kernel fusion; not implemented."
    )


class OpsSection(Section):
    """``ops``: how operators are computed on a CPU."""

    backend: Literal["auto", "native", "portable"] = Field(
        default="auto",
        description="Form of the operators; native: kernels compiled for this CPU; portable: MindSpore's"
        " operators; auto: what MINDFORMERS_BACKEND says, without it native where a C++ compiler is.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of the native kernels; 0: what MINDFORMERS_THREADS says, without it all CPUs"
        " this process may use.",
    )


class StrategyCheckpointSection(Section):
    """``parallel.strategy_ckpt_config``: where upstream writes the layout of the weights."""

    save_file: str = Field(
        default="./ckpt_strategy.ckpt",
        description="Read for compatibility; a checkpoint needs no such file.",
    )
    only_trainable_params: bool = Field(
        default=True, description="Read for compatibility; no effect."
    )


class ParallelSection(Section):
    """``parallel``: how several processes share a run."""

    parallel_mode: Annotated[Literal[0, 1, 2, 3, "STAND_ALONE", "MANUAL_PARALLEL"], NO_BOOL] = (
        Field(
            default=1,
            description="Read for compatibility: whatever it says, parallel_config decides who computes what.",
        )
    )
    gradients_mean: bool = Field(
        default=False,
        description="Read for compatibility: the loss is always the mean over the batch's trained tokens.",
    )
    loss_repeated_mean: bool = Field(default=False, description=f"{_NO_EFFECT}.")
    enable_alltoall: bool = Field(default=False, description=f"{_NO_EFFECT}.")
    full_batch: bool = Field(
        default=True,
        description="Read for compatibility: a process reads its own rows only, the same ones in either case.",
    )
    search_mode: Literal["sharding_propagation", "recursive_programming", "dynamic_programming"] = (
        Field(default="sharding_propagation", description=f"{_NO_EFFECT}.")
    )
    enable_parallel_optimizer: bool = Field(
        default=False,
        description="Share the optimizer's state among the processes that hold the same weights (ZeRO-1).",
    )
    strategy_ckpt_save_file: str = Field(
        default="./ckpt_strategy.ckpt", description="Read for compatibility; no effect."
    )
    strategy_ckpt_config: StrategyCheckpointSection | None = Field(
        default=None, description="Read for compatibility; no effect."
    )


class ParallelConfigSection(Section):
    """``parallel_config``: degrees of parallelism; read when use_parallel is True."""

    data_parallel: Count = Field(
        default=1, description="Copies of the model, each with its own rows."
    )
    model_parallel: Count = Field(default=1, description="Processes that share every matrix.")
    context_parallel: Count = Field(default=1, description="Processes that share a sequence.")
    expert_parallel: Count = Field(
        default=1, description="Processes that share the experts; GLM-4 has none."
    )
    pipeline_stage: Count = Field(
        default=1, description="Groups of layers that run one after another."
    )
    micro_batch_num: Count = Field(
        default=1, description="Micro batches of a step, with pipeline_stage above 1 (1F1B)."
    )
    seq_split_num: Count = Field(
        default=1, description="Parts of a sequence in the pipeline; not implemented beyond 1."
    )
    use_seq_parallel: bool = Field(
        default=False,
        description="Share norms and residuals along the tokens among the processes of model_parallel.",
    )
    optimizer_shard: bool | None = Field(
        default=None, description="Read for compatibility; no effect."
    )
    gradient_aggregation_group: Count = Field(
        default=4,
        description="Messages all gradients are summed in, at least; none is above 8 MiB.",
    )
    vocab_emb_dp: bool = Field(
        default=True,
        description="True: each process of model_parallel holds the whole embedding; always shared with stages.",
    )
    context_parallel_algo: Literal["colossalai_cp", "ulysses_cp", "hybrid_cp"] = Field(
        default="colossalai_cp",
        description="How processes share a sequence; only colossalai_cp, which gathers keys and values.",
    )
    ulysses_degree_in_cp: Count = Field(
        default=1, description="Part of context_parallel done by heads; not implemented beyond 1."
    )
    mem_coeff: Rate = Field(default=0.1, description="Read for compatibility; no effect.")

    @property
    def num_processes(self) -> int:
        """Processes the degrees ask for."""
        return (
            self.data_parallel * self.model_parallel * self.context_parallel * self.pipeline_stage
        )


class RecomputeSection(Section):
    """``recompute_config``: activations computed again instead of kept."""

    recompute: bool | list[int] = Field(
        default=False,
        description="True: all layers; a list: how many layers of each pipeline stage.",
    )
    select_recompute: bool | list[int] = Field(
        default=False,
        description="Compute only the scores of attention and the product of gate and up again, of layers that"
        " recompute leaves out; True: all, a list: up to which layer of each pipeline stage.",
    )
    parallel_optimizer_comm_recompute: bool = Field(default=False, description=f"{_NO_EFFECT}.")
    select_comm_recompute: bool | list[int] = Field(default=False, description=f"{_NO_EFFECT}.")
    mp_comm_recompute: bool = Field(default=True, description=f"{_NO_EFFECT}.")
    recompute_slice_activation: bool = Field(default=False, description=f"{_NO_EFFECT}.")
    select_recompute_exclude: Annotated[
        bool, only(False, feature="leaving operators out of recomputation")
    ] = Field(default=False, description="Operators left out; not implemented.")
    select_comm_recompute_exclude: Annotated[
        bool, only(False, feature="leaving operators out of recomputation")
    ] = Field(default=False, description="Operators left out; not implemented.")


class SwapSection(Section):
    """``swap_config``: activations kept in host memory."""

    swap: Annotated[bool, only(False, feature="swapping activations to the host")] = Field(
        default=False, description="Swap activations to the host; not implemented."
    )
    default_prefetch: Count = Field(default=1, description="No effect while swap is False.")
    layer_swap: Annotated[Any, only(None, feature="swapping activations to the host")] = Field(
        default=None, description="Layers to swap; not implemented."
    )
    op_swap: Annotated[Any, only(None, feature="swapping activations to the host")] = Field(
        default=None, description="Operators to swap; not implemented."
    )


class MoeSection(Section):
    """``moe_config``: mixture of experts. GLM-4 has none, so it binds for one expert only."""

    expert_num: Annotated[int, only(1, feature="a mixture of experts")] = Field(
        default=1, description="Experts of a layer; not implemented beyond 1."
    )
    capacity_factor: Rate = Field(default=1.1, description="No effect with one expert.")
    aux_loss_factor: Rate = Field(default=0.05, description="No effect with one expert.")
    num_experts_chosen: Annotated[int, only(1, feature="a mixture of experts")] = Field(
        default=1, description="Experts of a token; not implemented beyond 1."
    )

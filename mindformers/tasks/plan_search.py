"""Layouts for a number of devices, and the smallest change that makes a run fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mindformers.config.pet import LoraSection
from mindformers.parallel.layout import Layout, faults_of
from mindformers.tasks.plan_devices import Device
from mindformers.tasks.plan_job import Job, with_changes
from mindformers.tasks.plan_memory import layer_bytes, memory_of, stage_memory
from mindformers.tasks.plan_time import answer_time, step_time

_MOST_DEVICES = 4096


@dataclass(frozen=True)
class Candidate:
    """A job that fits.

    Attributes:
        job: With its layout and recomputation.
        memory: Bytes of the fullest process.
        seconds: Of a step, or of a token when predicting.
        tokens_per_second: Of all processes.
    """

    job: Job
    memory: int
    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Change:
    """A change of a job.

    Attributes:
        kind: What is done.
        keys: The settings to write.
        job: The job with it.
    """

    kind: str
    keys: str
    job: Job


def peak(job: Job) -> int:
    """Return the bytes of the fullest process."""
    return max(each.total for each in memory_of(job))


def candidate(job: Job, device: Device) -> Candidate:
    """Return a job with its figures."""
    if job.is_training:
        step = step_time(job, device)
        return Candidate(job, peak(job), step.total, step.tokens_per_second)
    answer = answer_time(job, device)
    return Candidate(job, peak(job), answer.token, answer.tokens_per_second)


def best_layouts(
    job: Job, devices: int, limit: float, device: Device, top: int = 3
) -> list[Candidate]:
    """Return the fastest jobs on so many devices that fit, by the estimate of their time.

    A step keeps its rows where these divide among the copies of the model.

    Args:
        job: What is to be done.
        devices: How many.
        limit: Bytes a process may take.
        device: What they are.
        top: How many to return.
    """  # fmt: skip
    possible = [_on(job, layout) for layout in layouts(job, devices)]
    found: list[Candidate] = []
    for keeps_rows in (True, False):
        if not found:
            found = [
                candidate(fitting, device) for each in possible
                if (each.step_tokens == job.step_tokens) is keeps_rows
                and (fitting := recomputing(each, limit)) is not None
            ]  # fmt: skip
    return sorted(found, key=lambda each: -each.tokens_per_second)[:top]


def layouts(job: Job, devices: int) -> Iterator[Layout]:
    """Yield every layout of so many devices that the network divides among."""
    for tensor in _divisors(devices):
        for pipeline in _divisors(devices // tensor):
            for context in _divisors(devices // tensor // pipeline):
                data = devices // tensor // pipeline // context
                layout = Layout(
                    data=data,
                    tensor=tensor,
                    pipeline=pipeline,
                    context=context,
                    is_sequence_parallel=tensor > 1 and job.is_training,
                    is_vocab_parallel=tensor > 1,
                    shards_optimizer=job.is_training and data * context > 1,
                )
                if is_possible(job, layout):
                    yield layout


def is_possible(job: Job, layout: Layout) -> bool:
    """Tell whether a run can have this layout; answers are shared by tensor groups alone, adapters by none."""
    if not job.is_training and layout.size > layout.tensor:
        return False
    if job.adapters is not None and layout.tensor * layout.pipeline > 1:
        return False
    return not faults_of(layout, job.sizes())


def recomputing(job: Job, limit: float) -> Job | None:
    """Return the job with as few layers computed again as make it fit, or None."""
    stages = range(job.layout.pipeline)
    if not job.is_training:
        return job if peak(job) <= limit else None
    counts = [_fewest(job, stage, limit) for stage in stages]
    if None in counts:
        return None
    return replace(job, recompute=tuple(count or 0 for count in counts))


def _fewest(job: Job, stage: int, limit: float) -> int | None:
    """Return how many layers of a stage must be computed again; None if all are too few."""
    layers, stages = job.layers(stage), job.layout.pipeline

    def with_count(count: int) -> int:
        counts = tuple(count if each == stage else 0 for each in range(stages))
        return stage_memory(replace(job, recompute=counts), stage).total

    over = with_count(0) - limit
    if over <= 0:
        return 0
    if with_count(layers) > limit:
        return None
    first = min(layers, max(1, int(over / layer_bytes(job)) - 1))
    return next(each for each in range(first, layers + 1) if with_count(each) <= limit)


def _on(job: Job, layout: Layout) -> Job:
    """Return the job on another layout; a step keeps its rows where they divide."""
    rows = job.rows * job.micro_batches * job.layout.data
    parts = max(1, rows // (job.rows * layout.data))
    if layout.pipeline > 1:
        parts = max(parts, layout.pipeline)
    return replace(job, layout=layout, micro_batches=parts if job.is_training else 1, recompute=())


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def smallest_change(job: Job, limit: float) -> Change | None:
    """Return the first change that makes a job fit, in the order of what it costs; None if nothing does."""
    for propose in _KINDS:
        for change in propose(job, limit):
            if peak(change.job) <= limit:
                return change
    return None


def _recompute(job: Job, limit: float) -> Iterator[Change]:
    fitting = recomputing(job, limit) if job.is_training else None
    if fitting is not None:
        yield Change("recompute more layers", recompute_keys(fitting), fitting)


def _smaller_batch(job: Job, limit: float) -> Iterator[Change]:
    del limit
    rows, key = job.rows, "batch_size" if job.is_training else "predict_batch_size"
    while rows > 1:
        rows //= 2
        parts = job.micro_batches * job.rows // rows if job.is_training else 1
        keys = f"--{key} {rows}"
        if job.is_training:
            keys += f", {_parts_key(job)} {parts}"
        yield Change("smaller micro batches", keys, replace(job, rows=rows, micro_batches=parts))


def _parts_key(job: Job) -> str:
    name = (
        "parallel_config.micro_batch_num"
        if job.layout.pipeline > 1
        else "gradient_accumulation_steps"
    )
    return f"--{name}"


def _shared_optimizer(job: Job, limit: float) -> Iterator[Change]:
    del limit
    layout = job.layout
    if job.is_training and layout.data * layout.context > 1 and not layout.shards_optimizer:
        yield Change("share the optimizer's state", "--parallel.enable_parallel_optimizer True",
                     replace(job, layout=replace(layout, shards_optimizer=True)))  # fmt: skip


def _sequence_parallel(job: Job, limit: float) -> Iterator[Change]:
    del limit
    layout = job.layout
    if job.is_training and layout.tensor > 1 and not layout.is_sequence_parallel:
        shared = replace(layout, is_sequence_parallel=True)
        if is_possible(job, shared):
            yield Change("share norms along the tokens", "--parallel_config.use_seq_parallel True",
                         replace(job, layout=shared))  # fmt: skip


def _more_processes(job: Job, limit: float) -> Iterator[Change]:
    """Yield more stages and larger groups, first on the devices there are, then on more."""
    factor = 1
    while job.layout.size * factor <= _MOST_DEVICES:
        devices = job.layout.size * factor
        fitting = [
            _on(job, layout) for layout in layouts(job, devices)
            if layout.tensor >= job.layout.tensor and layout.pipeline >= job.layout.pipeline
        ]  # fmt: skip
        fitting = [done for each in fitting if (done := recomputing(each, limit)) is not None]
        if fitting:
            # As little of what slows a step down as possible: context, then tensor, then pipeline.
            least = min(fitting, key=lambda each: (each.layout.context, each.layout.tensor,
                                                   each.layout.pipeline))  # fmt: skip
            yield Change(f"another layout, {devices} devices", layout_keys(least), least)
            return
        factor *= 2


def _adapters(job: Job, limit: float) -> Iterator[Change]:
    if not job.is_training or job.adapters is not None:
        return
    layout = Layout(data=job.layout.size)
    network = {"param_init_type": "bfloat16", "pet_config": LoraSection().model_dump()}
    changed = with_changes(job, network, adapters=LoraSection(), recompute=())
    fitting = recomputing(_on(changed, layout), limit)
    if fitting is not None:
        keys = "pet_config: {pet_type: lora}, param_init_type: bfloat16"
        yield Change("train adapters only (LoRA)", f"{keys}, {layout_keys(fitting)}", fitting)


def _rounded(job: Job, limit: float) -> Iterator[Change]:
    del limit
    if job.is_training or not job.on_cpu or job.network.quantization:
        return
    for kind in ("int8", "int4"):
        yield Change("round the weights", f"--quantization {kind}",
                     with_changes(job, {"quantization": kind}))  # fmt: skip


def _shorter_rows(job: Job, limit: float) -> Iterator[Change]:
    """Yield shorter rows as the last resort, on the devices there are."""
    length = int(job.network.seq_length)
    while length > 128:
        length //= 2
        network: dict[str, Any] = {"seq_length": length}
        changed = with_changes(job, network)
        if faults_of(changed.layout, changed.sizes()):
            return
        fitting = recomputing(changed, limit)
        if fitting is not None:
            keys = f"--model.model_config.seq_length {length}"
            yield Change("shorter rows", f"{keys}, {recompute_keys(fitting)}".strip(", "), fitting)


_KINDS: tuple[Callable[[Job, float], Iterator[Change]], ...] = (
    _recompute, _smaller_batch, _shared_optimizer, _sequence_parallel, _rounded, _more_processes,
    _adapters, _shorter_rows,
)  # fmt: skip


def recompute_keys(job: Job) -> str:
    """Return the setting of a job's recomputation; empty when predicting."""
    if not job.is_training or not isinstance(job.recompute, tuple):
        return "recompute: True" if job.is_training and job.recompute else ""
    return f"recompute: {list(job.recompute)}" if any(job.recompute) else "recompute: False"


def layout_keys(job: Job) -> str:
    """Return the settings of a job's layout, as they stand in a file."""
    layout = job.layout
    degrees = {
        "data_parallel": layout.data,
        "model_parallel": layout.tensor,
        "pipeline_stage": layout.pipeline,
        "context_parallel": layout.context,
    }
    found = [f"{name} {value}" for name, value in degrees.items() if value > 1]
    if layout.is_vocab_parallel and layout.pipeline == 1:
        found.append("vocab_emb_dp False")
    if job.is_training:
        name = "micro_batch_num" if layout.pipeline > 1 else "gradient_accumulation_steps"
        found += [f"{name} {job.micro_batches}"] if job.micro_batches > 1 else []
        found += ["use_seq_parallel True"] if layout.is_sequence_parallel else []
        found += ["enable_parallel_optimizer True"] if layout.shards_optimizer else []
        found.append(recompute_keys(job))
    return ", ".join(found) or "one process"

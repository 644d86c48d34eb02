"""Layouts for a number of devices: those that divide the network and fit, the fastest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mindformers.parallel.layout import Layout, faults_of
from mindformers.tasks.plan_devices import Device
from mindformers.tasks.plan_job import Job
from mindformers.tasks.plan_memory import layer_bytes, memory_of, stage_memory
from mindformers.tasks.plan_time import answer_time, step_time


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
    possible = [on_layout(job, layout) for layout in layouts(job, devices)]
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


def on_layout(job: Job, layout: Layout) -> Job:
    """Return the job on another layout; a step keeps its rows where they divide."""
    rows = job.rows * job.micro_batches * job.layout.data
    parts = max(1, rows // (job.rows * layout.data))
    if layout.pipeline > 1:
        parts = max(parts, layout.pipeline)
    return replace(job, layout=layout, micro_batches=parts if job.is_training else 1, recompute=())


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


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

"""The smallest change that makes a run fit, in the order of what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mindformers.config.pet import LoraSection
from mindformers.parallel.layout import Layout, faults_of
from mindformers.tasks.plan_job import Job, with_changes
from mindformers.tasks.plan_search import (
    is_possible,
    layout_keys,
    layouts,
    on_layout,
    peak,
    recompute_keys,
    recomputing,
)

_MOST_DEVICES = 4096


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


def smallest_change(job: Job, limit: float) -> Change | None:
    """Return the first change that makes a job fit, in the order of what it costs; None if nothing does."""
    for propose in _KINDS:
        for change in propose(job, limit):
            if peak(change.job) <= limit:
                return change
    return None


def _recompute(job: Job, limit: float) -> Iterator[Change]:
    fitting = recomputing(job, limit) if job.is_training else None
    if fitting is None:
        return
    stages = range(job.layout.pipeline)
    counts = tuple(max(job.recomputed(each), fitting.recomputed(each)) for each in stages)
    changed = replace(job, recompute=counts)
    yield Change("recompute more layers", recompute_keys(changed), changed)


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
        shared = replace(layout, shards_optimizer=True)
        if is_possible(job, shared):
            yield Change("share the optimizer's state", "--parallel.enable_parallel_optimizer True",
                         replace(job, layout=shared))  # fmt: skip


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
            on_layout(job, layout) for layout in layouts(job, devices)
            if layout.tensor >= job.layout.tensor and layout.pipeline >= job.layout.pipeline
        ]  # fmt: skip
        fitting = [done for each in fitting if (done := recomputing(each, limit)) is not None]
        if fitting:
            # As little of what slows a step down as possible: context, then tensor, then pipeline.
            least = min(fitting, key=lambda each: (each.layout.context, each.layout.tensor,
                                                   each.layout.pipeline))  # fmt: skip
            keys = layout_keys(least) + (", offset 0" if job.layout.offset else "")
            yield Change(f"another layout, {devices} devices", keys, least)
            return
        factor *= 2


def _adapters(job: Job, limit: float) -> Iterator[Change]:
    if not job.is_training or job.is_frozen:
        return
    layout = Layout(data=job.layout.size)
    network = {"param_init_type": "bfloat16", "pet_config": LoraSection().model_dump()}
    changed = with_changes(job, network, adapters=LoraSection(), recompute=())
    fitting = recomputing(on_layout(changed, layout), limit)
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

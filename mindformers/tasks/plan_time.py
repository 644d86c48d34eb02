"""How long a step takes: arithmetic at an assumed share of the peak, then messages; nothing overlaps. An estimate."""

from __future__ import annotations

from dataclasses import dataclass

from mindformers.tasks.plan_devices import Device, link_speed
from mindformers.tasks.plan_job import Job
from mindformers.tasks.plan_memory import memory_of, token_cache_bytes
from mindformers.tasks.plan_traffic import Exchange, forward_passes, traffic_of


@dataclass(frozen=True)
class StepTime:
    """Seconds of a training step, on the slowest stage.

    Attributes:
        compute: Arithmetic of its micro batches.
        exchange: Messages between processes, in micro batches.
        bubble: Waiting for the pipeline to fill and to empty.
        update: Sums of gradients, update of the weights, gathering them.
        tokens: Of a step, over all processes.
    """

    compute: float
    exchange: float
    bubble: float
    update: float
    tokens: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.compute + self.exchange + self.bubble + self.update

    @property
    def tokens_per_second(self) -> float:
        """Of all processes together."""
        return self.tokens / self.total


@dataclass(frozen=True)
class AnswerTime:
    """Seconds of an answer.

    Attributes:
        prompt: Until the first token, of prompts as long as the rows.
        token: Of each further token of all rows.
        rows: Rows answered at once.
    """

    prompt: float
    token: float
    rows: int

    @property
    def tokens_per_second(self) -> float:
        """Of all rows together."""
        return self.rows / self.token


def bubble_share(job: Job) -> float:
    """Return the share of a step's slots a stage waits in: (p - 1) / (m + p - 1)."""
    stages, parts = job.layout.pipeline, job.micro_batches
    return (stages - 1) / (parts + stages - 1)


def stage_flops(job: Job, stage: int) -> float:
    """Return the operations of one micro batch: 2 a weight and token for each product, the scores besides."""
    layers, tokens = job.layers(stage), job.tokens
    matrices = [each for each in job.held(stage) if each.is_matrix]
    forward = 2.0 * tokens * sum(each.size for each in matrices)
    # The causal half, and the prefix whole.
    pairs = tokens * (job.length / (1 if job.is_composed else 2) + job.prefix_length)
    scores = 4.0 * pairs * job.heads * job.network.kv_channels * layers
    head = 2.0 * tokens * job.network.hidden_size * job.network.vocab_size / job.layout.tensor
    head = head if stage == job.layout.pipeline - 1 else 0.0
    if not job.is_training:
        return forward + scores
    passes, again = forward_passes(job, stage)
    back = 1.0 if job.is_frozen else 2.0  # no slopes of frozen weights
    repeated = passes + again / layers
    return (repeated + back) * forward + (repeated + 2.5) * scores + (1 + back) * head


def step_time(job: Job, device: Device) -> StepTime:
    """Return the time of a training step."""
    stages, parts = job.layout.pipeline, job.micro_batches
    slots, updates = [], []
    for stage in range(stages):
        traffic = traffic_of(job, stage)
        compute = stage_flops(job, stage) / (device.flops * device.utilisation)
        often = [each for each in traffic if each.is_per_micro_batch]
        exchange = sum(_seconds(each, job, device) for each in often) / parts
        slots.append((compute, exchange))
        once = sum(_seconds(each, job, device) for each in traffic if not each.is_per_micro_batch)
        updates.append(once)
    compute, exchange = max(slots, key=sum)
    moved = max(each.weights + each.optimizer * 2 + each.trained * 4 for each in memory_of(job))
    update = max(updates) + moved / (device.bandwidth * device.efficiency)
    return StepTime(
        compute=parts * compute,
        exchange=parts * exchange,
        bubble=(stages - 1) * (compute + exchange),
        update=update,
        tokens=job.step_tokens,
    )


def answer_time(job: Job, device: Device) -> AnswerTime:
    """Return the times of an answer: a token reads every weight and the cache once."""
    prompt = stage_flops(job, 0) / (device.flops * device.utilisation)
    prompt += sum(_seconds(each, job, device) for each in traffic_of(job, 0))
    read = memory_of(job)[0].weights + job.rows * job.length * token_cache_bytes(job)
    token = read / (device.bandwidth * device.efficiency)
    if job.layout.tensor > 1:
        row = job.rows * job.network.hidden_size * job.compute_bytes
        speed = link_speed(device, job.layout.tensor)
        token += 2 * job.network.num_layers * (2 * row / speed + device.latency)
    return AnswerTime(prompt, token, job.rows)


def _seconds(each: Exchange, job: Job, device: Device) -> float:
    layout = job.layout
    ranks, stride = {
        "model_parallel": (layout.tensor, 1),
        "model": (layout.tensor * layout.pipeline, 1),
        "kv_copies": (layout.copies_of_kv_head(job.network.n_kv_heads), 1),
        "context_parallel": (layout.context, layout.tensor),
        "data_parallel": (layout.data * layout.context, layout.tensor),
        "pipeline": (2, layout.tensor * layout.context * layout.data),
    }[each.group]
    return each.sent / link_speed(device, ranks, stride) + each.messages * device.latency

"""What a process sends in a step, by group and kind, counted as the textbook's ring does; as ``mesh().traffic()``.

Letters: T tokens of a micro batch in one process, H hidden, t, c, R sizes of the tensor group, the context
group, and of data x context.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mindformers.models.glm2.glm2_shares import prefix_copies, prefix_parts
from mindformers.tasks.plan_held import Held
from mindformers.tasks.plan_job import Job

_KEY_ADAPTERS = ("query_key_value.lora_b", "wk.lora_b")  # wv has as many rows as wk
_BUCKET_BYTES = 8 * 2**20  # training/gradient_sync.py


@dataclass(frozen=True)
class Exchange:
    """Messages of one kind in one group.

    Attributes:
        group: ``model_parallel``, ``kv_copies``, ``model`` (all that hold one copy of the network),
            ``context_parallel``, ``data_parallel`` or ``pipeline``.
        kind: ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``send``.
        sent: Bytes this process sends in a step.
        messages: How many times, in a step.
        is_per_micro_batch: Else once a step.
    """

    group: str
    kind: str
    sent: float
    messages: int
    is_per_micro_batch: bool = True


def traffic_of(job: Job, stage: int) -> list[Exchange]:
    """Return what a process of a stage sends in a step of training, or for the prompts when predicting.

    What takes a few bytes (sums of losses, counts of labels) is left out.
    """
    held, found = job.held(stage), list(_tensor(job, stage))
    if job.is_training:
        found += [*_context(job, stage), *_pipeline(job, stage), *_gradients(job, stage, held)]
    merged: dict[tuple[str, str, bool], list[float]] = {}
    for each in found:
        entry = merged.setdefault((each.group, each.kind, each.is_per_micro_batch), [0.0, 0])
        entry[0] += each.sent
        entry[1] += each.messages
    return [Exchange(group, kind, sent, int(messages), is_often)
            for (group, kind, is_often), (sent, messages) in merged.items() if sent]  # fmt: skip


def total_sent(exchanges: Iterable[Exchange]) -> dict[tuple[str, str], tuple[float, int]]:
    """Return the bytes and messages of a step by group and kind."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for each in exchanges:
        sent, messages = found.get((each.group, each.kind), (0.0, 0))
        found[each.group, each.kind] = (sent + each.sent, messages + each.messages)
    return found


def forward_passes(job: Job, stage: int) -> tuple[int, int]:
    """Return how often a stage computes its forward pass, and how many of its layers once more.

    All stages but the last compute it again where their backward pass is due.
    """
    if not job.is_training:
        return 1, 0
    return (1 if stage == job.layout.pipeline - 1 else 2), job.recomputed(stage)


def _tensor(job: Job, stage: int) -> Iterator[Exchange]:
    """Yield the sums of a tensor group; with sequence parallelism each is a gathering and a scattering."""
    size = job.layout.tensor
    if size == 1:
        return
    passes, again = forward_passes(job, stage)
    times, layers = job.micro_batches, job.layers(stage)
    rows = job.tokens * job.network.hidden_size
    forward = 2 * (passes * layers + again)
    backward = 2 * layers if job.is_training else 0
    yield from _sums(job, (forward + backward) * times, rows * job.compute_bytes)
    layout = job.at_stage(stage)
    part = (size - 1) / size
    if layout.is_first_stage and layout.is_vocab_parallel:
        yield from _leave(job, passes * times, rows * job.stream_bytes)
    elif layout.is_first_stage and layout.is_sequence_parallel:
        yield Exchange(
            "model_parallel", "all_gather", part * rows * job.stream_bytes * times, times
        )
    if not layout.is_last_stage:
        return
    if not job.is_training:
        logits = job.rows * job.network.vocab_size // size * job.compute_bytes
        yield Exchange("model_parallel", "all_gather", (size - 1) * logits, 1)
        return
    yield from _sums(job, times, rows * job.compute_bytes)  # before the output layer
    yield Exchange("model_parallel", "all_reduce", 2 * part * 12 * job.tokens * times, 2 * times)


def _sums(job: Job, times: int, num_bytes: int) -> Iterator[Exchange]:
    """Yield all-reduces; with sequence parallelism the halves they are made of."""
    size = job.layout.tensor
    part = (size - 1) / size * num_bytes * times
    if job.layout.is_sequence_parallel:
        yield Exchange("model_parallel", "all_gather", part, times)
        yield Exchange("model_parallel", "reduce_scatter", part, times)
    else:
        yield Exchange("model_parallel", "all_reduce", 2 * part, times)


def _leave(job: Job, times: int, num_bytes: int) -> Iterator[Exchange]:
    """Yield the sum of an embedding's parts, with its way back."""
    size = job.layout.tensor
    part = (size - 1) / size * num_bytes
    if job.layout.is_sequence_parallel:
        back = job.micro_batches
        yield Exchange("model_parallel", "reduce_scatter", part * times, times)
        yield Exchange("model_parallel", "all_gather", part * back, back)
    else:
        yield Exchange("model_parallel", "all_reduce", 2 * part * times, times)


def _context(job: Job, stage: int) -> Iterator[Exchange]:
    size = job.layout.context
    if size == 1:
        return
    passes, again = forward_passes(job, stage)
    layers, times = job.layers(stage), job.micro_batches
    keys = job.tokens * job.groups * job.network.kv_channels * job.compute_bytes
    once = 2 * (size - 1) * keys
    forward = (passes * layers + again) * times
    yield Exchange("context_parallel", "all_gather", once * forward, 2 * forward)
    back = layers * times
    yield Exchange("context_parallel", "reduce_scatter", once * back, 2 * back)


def _pipeline(job: Job, stage: int) -> Iterator[Exchange]:
    last = job.layout.pipeline - 1
    stream = job.stream_tokens * job.network.hidden_size * job.stream_bytes
    times = job.micro_batches * ((stage < last) + (stage > 0))
    if times:
        yield Exchange("pipeline", "send", float(stream * times), times)


def _gradients(job: Job, stage: int, held: Sequence[Held]) -> Iterator[Exchange]:
    """Yield the sums over the copies of the weights, and the updated rows that a shared optimizer gathers."""
    layout = job.layout
    yield from _copied(job, stage, held)
    yield from _copied_prefix(job, stage)
    replicas = layout.data * layout.context
    if replicas == 1:
        return
    trained = [each for each in held if each.is_trained]
    part = (replicas - 1) / replicas
    size = sum(each.size for each in trained)
    yield Exchange("data_parallel", "all_reduce", 2 * part * 4 * size, _buckets(trained), False)
    if layout.shards_optimizer:
        shared = [each for each in trained if each.shape[0] % replicas == 0]
        weights = sum(each.size * each.type_bytes for each in shared)
        yield Exchange("data_parallel", "all_gather", part * weights,
                       sum(each.count for each in shared), False)  # fmt: skip


def _buckets(trained: Sequence[Held]) -> int:
    """Return about how many messages gradients are summed in: large ones alone, small ones together."""
    large = [each for each in trained if 4 * each.size > _BUCKET_BYTES * each.count]
    small = sum(4 * each.size for each in trained) - sum(4 * each.size for each in large)
    return sum(each.count for each in large) + math.ceil(small / _BUCKET_BYTES)


def _copied(job: Job, stage: int, held: Sequence[Held]) -> Iterator[Exchange]:
    """Yield the sums of gradients of what several processes of a tensor group hold."""
    layout, network = job.layout, job.network
    if layout.tensor == 1:
        return
    is_shared = layout.is_sequence_parallel
    whole = [each for each in held if each.is_trained
             and (each.is_partial or (is_shared and each.name.endswith("norm.weight")))]  # fmt: skip
    part = (layout.tensor - 1) / layout.tensor
    sent = 2 * part * 4 * sum(each.size for each in whole)
    yield Exchange("model_parallel", "all_reduce", sent, sum(each.count for each in whole), False)
    copies = layout.copies_of_kv_head(network.n_kv_heads)
    if copies == 1 or job.prefix is not None:
        return
    width, messages = network.hidden_size + network.add_qkv_bias, 4 * job.layers(stage)
    if job.adapters is not None:  # B's rows of keys and values
        ranks = [(each.shape[1], each.count) for each in held if each.name.endswith(_KEY_ADAPTERS)]
        width = sum(rank * count for rank, count in ranks) / job.layers(stage)
        messages = 2 * sum(count for _, count in ranks)
    sent = 2 * (copies - 1) / copies * 4 * 2 * network.kv_channels * width * job.layers(stage)
    yield Exchange("kv_copies", "all_reduce", sent, messages, False)


def _copied_prefix(job: Job, stage: int) -> Iterator[Exchange]:
    """Yield the sums of gradients of what several processes of a copy of the network hold of a prefix."""
    if job.prefix is None:
        return
    seen, network = job.at_stage(stage), job.network
    parts = prefix_parts(job.prefix, network, seen)
    names = {"model": "model" if seen.pipeline > 1 else "model_parallel"}
    for name, rows in prefix_copies(job.prefix, network, seen).items():
        for each in rows:
            part = 2 * (each.copies - 1) / each.copies
            sent = part * 4 * math.prod(parts[name].own_shape)
            yield Exchange(names.get(each.group, each.group), "all_reduce", sent, 1, False)

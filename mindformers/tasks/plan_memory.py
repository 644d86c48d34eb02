"""The memory of a process: weights and optimizer exactly, gradients and activations as an upper bound.

Letters: T tokens of a micro batch in one process, H hidden, F ffn, V vocabulary, N query heads, G key/value
heads, D head size, S tokens of a row, t, c, R sizes of the tensor group, the context group, and of data x context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mindformers.models.cache_size import cached_token_bytes
from mindformers.tasks.plan_held import Held
from mindformers.tasks.plan_job import Job
from mindformers.training.optimizer_slots import slot_shapes

_MIB = 2**20
# modules/shared_loss.py: logits of a chunk, and the tensors of that size that exist at once.
_LOGIT_CHUNK, _LOGIT_COPIES = 32 * _MIB, 6
_NATIVE_LOGITS = 64 * _MIB
_FLASH_SUMS = 2 * 8 * 4  # bytes a head and token: maximum and sum, eight float32 each
# Measured: MindSpore in a process on a CPU, and what it takes to exchange tensors; answering needs no MindSpore.
_PROCESS, _EXCHANGE, _ANSWERING = 545 * _MIB, 95 * _MIB, 60 * _MIB
_PREFILL_CHUNK = 1024  # tokens of prompts that go through the network at once on a CPU


@dataclass(frozen=True)
class StageMemory:
    """Bytes of each process of a pipeline stage.

    Attributes:
        stage: The stage.
        layers: Its layers.
        parameters: Elements, of which ``trained`` have gradients.
        trained: Elements with gradients.
        weights: Exact.
        optimizer: Its state and float32 copies; exact.
        copies: The own rows of every weight, which a shared optimizer holds twice; exact.
        summed: The float32 sum of the gradients, while micro batches accumulate.
        newest: The gradients of the newest micro batch, all of them: where its way back ends.
        activations: What the layers keep for the way back, and their temporary tensors.
        last_layer: What is left of these where the way back ends.
        vocabulary: What there is beside the activations where the way back begins: logits, the output
            layer's gradient, a first layer's gradients; or the embedding's table in another type.
        cache: Keys and values, when predicting.
        process: On a CPU, what the process takes besides: MindSpore, and memory that allocators keep.
    """

    stage: int
    layers: int
    parameters: int
    trained: int
    weights: int
    optimizer: int
    copies: int
    summed: int
    newest: int
    activations: int
    last_layer: int
    vocabulary: int
    cache: int
    process: int

    @property
    def total(self) -> int:
        """What exists at once."""
        return (
            self.weights + self.optimizer + self.copies + self.summed + self.cache + self.process
            + max(self.newest + self.last_layer, self.activations + self.vocabulary)
        )  # fmt: skip

    def to_dict(self) -> dict[str, int]:
        """Return the figures, and what exists at once as ``total``."""
        return {**asdict(self), "total": self.total}


def memory_of(job: Job) -> list[StageMemory]:
    """Return the memory of the processes of every pipeline stage; within a stage they are alike."""
    return [stage_memory(job, stage) for stage in range(job.layout.pipeline)]


def rank_memory(job: Job, rank: int) -> StageMemory:
    """Return the memory of one process."""
    return stage_memory(job, job.layout.at(rank).stage)


def stage_memory(job: Job, stage: int) -> StageMemory:
    """Return the memory of the processes of a stage."""
    held = job.held(stage)
    trained = [each for each in held if each.is_trained]
    kept, last_layer = _activations(job, stage, held)
    count = sum(each.size for each in trained)
    return StageMemory(
        stage=stage,
        layers=job.layers(stage),
        parameters=sum(each.size for each in held),
        trained=count,
        weights=math.ceil(sum(each.size * each.type_bytes for each in held)),
        optimizer=sum(_state_bytes(each, job) for each in trained),
        copies=sum(_own_rows(each, job) for each in trained),
        summed=4 * count if job.micro_batches > 1 else 0,
        newest=_newest(trained),
        activations=kept,
        last_layer=last_layer,
        vocabulary=_vocabulary(job, stage, held),
        cache=0 if job.is_training else _cache(job),
        process=_process(job, 4 * count) if job.on_cpu else 0,
    )


def _shards(each: Held, job: Job) -> int:
    """Return among how many processes the state of a weight is shared: its rows must divide."""
    replicas = job.layout.data * job.layout.context
    return replicas if job.layout.shards_optimizer and each.shape[0] % replicas == 0 else 1


def _state_bytes(each: Held, job: Job) -> int:
    shapes = list(slot_shapes(job.optimizer.type, each.name, each.shape, _arguments(job)).values())
    shapes += [each.shape] if each.type_bytes != 4 else []
    return sum(4 * math.prod(shape) for shape in shapes) * each.count // _shards(each, job)


def _arguments(job: Job) -> dict[str, Any]:
    return job.optimizer.model_dump()


def _own_rows(each: Held, job: Job) -> int:
    shards = _shards(each, job)
    return int(each.size // shards * each.type_bytes) if shards > 1 else 0


def _process(job: Job, gradients: int) -> int:
    """Return what a process on a CPU takes besides its tensors.

    Gradients are made in the kernels' pool, summed in MindSpore's and exchanged in a third, and the rows of
    weights that are gathered lie beside the old ones; no pool gives back.
    """
    if not job.is_training:
        return _ANSWERING
    found = _PROCESS + (0 if job.layout.is_single else _EXCHANGE)
    layout = job.layout
    sets = (job.micro_batches > 1) + (layout.data * layout.context > 1) + layout.shards_optimizer
    return found + sets * gradients


def _newest(trained: Sequence[Held]) -> int:
    """Return the bytes of float32 gradients, and of those in a shorter type that they are cast from."""
    short = sum(each.size * each.type_bytes for each in trained if each.type_bytes < 4)
    return int(sum(4 * each.size for each in trained) + short)


def layer_bytes(job: Job) -> int:
    """Return what a layer keeps for the way back of one micro batch."""
    network, compute = job.network, job.compute_bytes
    hidden, ffn = network.hidden_size, network.ffn_hidden_size // job.layout.tensor
    query, key = job.heads * network.kv_channels, job.groups * network.kv_channels
    norms = 2 + network.post_self_attn_layernorm + network.post_mlp_layernorm
    stream = job.stream_tokens * norms * hidden * job.norm_bytes
    # Frozen weights: our CPU kernels keep no input that only the weight's gradient would need.
    is_lean = job.is_frozen and job.on_cpu
    inputs = hidden if is_lean else 2 * hidden + ffn  # of qkv, gate/up and down
    row_keys = job.layout.context  # keys and values of the whole row are gathered
    row_keys *= 2 if job.prefix else 1  # and lie behind the prefix once more
    attention = 2 * query + 2 * key * row_keys
    elements = inputs + attention + 2 * ffn
    sums = job.heads * (4 if job.on_cpu else _FLASH_SUMS)
    before = 2 * job.rows * job.prefix_length * key * compute
    return stream + job.tokens * (elements * compute + sums) + before + _scores(job)


def _cheap_bytes(job: Job) -> int:
    """Return what of a layer ``select_recompute`` does not keep: scores, and the product of gate and up."""
    scores = _scores(job) if job.is_composed else 0
    if job.is_frozen and job.on_cpu:
        return scores
    return (
        job.tokens * job.network.ffn_hidden_size // job.layout.tensor * job.compute_bytes + scores
    )


def _scores(job: Job) -> int:
    """Return the bytes a layer keeps for every pair of tokens: probabilities, or the mask of a fused operator."""
    pairs = job.tokens * (job.length + job.prefix_length)
    if job.is_composed:
        return 4 * job.heads * pairs
    return 0 if job.on_cpu else pairs


def _mask(job: Job) -> int:
    """Return the bytes of the one float32 mask; our CPU kernels need none for a causal one."""
    if job.on_cpu and not job.is_composed:
        return 0
    return 4 * (job.length + job.prefix_length) * (job.length // job.layout.context)


def _activations(job: Job, stage: int, held: Sequence[Held]) -> tuple[int, int]:
    """Return what there is of activations where the way back begins, and where it ends."""
    if not job.is_training:
        return _answering(job), 0
    layers, again = job.layers(stage), job.recomputed(stage)
    stream = job.stream_tokens * job.network.hidden_size * job.stream_bytes
    layer = layer_bytes(job) + _cast_weights(job, held) // layers
    kept = (layers - again) * layer - job.partly_recomputed(stage) * _cheap_bytes(job)
    kept = max(kept, min(again, 1) * layer) + again * stream
    network = job.network
    widest = 3 * network.ffn_hidden_size // job.layout.tensor + 2 * network.hidden_size
    slopes = job.tokens * widest * job.compute_bytes
    slopes += 2 * _scores(job) if job.is_composed else 0
    rest = slopes + _mask(job) + _under_way(job, stage) * stream
    return kept + rest, layer + rest


def _under_way(job: Job, stage: int) -> int:
    """Return how many micro batches' inputs a stage keeps; the first is given ids only."""
    if stage == 0:
        return 0
    return min(job.layout.pipeline - stage, job.micro_batches)


def _cast_weights(job: Job, held: Sequence[Held]) -> int:
    """Return the bytes of the matrices of the stage's layers in the compute type, kept for the way back."""
    if job.on_cpu:
        return 0
    return sum(each.size * job.compute_bytes for each in held
               if each.is_matrix and each.type_bytes != job.compute_bytes)  # fmt: skip


def _answering(job: Job) -> int:
    """Return the temporary tensors of a prompt's pass."""
    network, tensor = job.network, job.layout.tensor
    tokens = min(job.tokens, _PREFILL_CHUNK) if job.on_cpu else job.tokens
    widest = 3 * network.ffn_hidden_size // tensor + 4 * network.hidden_size
    found = tokens * (widest * job.compute_bytes + network.hidden_size * job.stream_bytes)
    if not job.on_cpu:
        found += (
            5 * job.rows * job.length * job.length
        )  # the float32 mask, and its form for the operator
    return found


def _vocabulary(job: Job, stage: int, held: Sequence[Held]) -> int:
    """Return what the ends of the network take: the table cast for a lookup, logits, the head's slopes."""
    network = job.network
    hidden, rows = network.hidden_size, network.vocab_size // job.layout.tensor
    if not job.is_training:
        return job.rows * network.vocab_size * 4
    first, last = 0, _newest([each for each in held if each.is_trained and each.is_in_layer])
    last //= job.layers(stage)
    if stage == 0:
        table = next(each for each in held if "embedding" in each.name)
        is_cast = not job.on_cpu and table.type_bytes != job.compute_bytes
        first = table.size * job.compute_bytes if is_cast else 0
    if stage == job.layout.pipeline - 1:
        last += _head(job, hidden, rows)
    return max(first, last)


def _head(job: Job, hidden: int, rows: int) -> int:
    slopes = 4 * job.tokens * hidden
    if job.on_cpu and job.layout.tensor == 1:
        slopes += 0 if job.is_frozen else 4 * rows * hidden
        return min(_NATIVE_LOGITS, 4 * job.tokens * rows) + slopes
    if not job.layout.is_single:  # modules/shared_loss.py
        chunk = max(1, _LOGIT_CHUNK // (4 * rows))
        # Operators run behind Python, so that the next chunk begins before the last one's memory is free.
        logits = _LOGIT_COPIES * 4 * min(2 * chunk, job.tokens) * rows
        return logits + 2 * slopes + 2 * 4 * rows * hidden
    slopes += 0 if job.is_frozen else 4 * rows * hidden
    # modules/loss.py, PortableHeadLoss: log-softmax, its slope and the logits' slope, of all tokens.
    return 3 * 4 * job.tokens * rows + slopes


def cache_tokens(job: Job) -> int:
    """Return the tokens the cache has room for: rows with their prefix, at most ``num_blocks`` blocks, a spare one."""
    network = job.network
    blocks = job.rows * -(-(job.prefix_length + network.seq_length) // network.block_size)
    return int((min(blocks, network.num_blocks) + 1) * network.block_size)


def token_cache_bytes(job: Job) -> float:
    """Return the bytes a token's keys and values take in the layers of one process."""
    return cached_token_bytes(job.network, job.groups, job.on_cpu)


def _cache(job: Job) -> int:
    return math.ceil(cache_tokens(job) * token_cache_bytes(job)) if job.network.use_past else 0

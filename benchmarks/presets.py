"""The sizes the benchmarks run at, and what each kind of work must read and compute.

Standard library only: the rivals' environments load this file as well.
"""

from __future__ import annotations

from dataclasses import dataclass

EPS = 1.5625e-07  # GLM-4 config.json: layernorm_epsilon
PROMPT, NEW = 64, 128  # tokens before and in a decode measurement
PREFILL = 1024  # tokens of a prefill measurement
TRAIN_LENGTH = 512  # tokens per row of a training step
LORA_RANK = 8  # on the query, key and value projections
CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)  # where the growth curves are taken
CACHED_MIB = 16  # models no larger are held to the speed of a cache of this size
GROWTH_NEW = 16  # tokens timed after each

# Bits a stored weight takes, scales included (blocks of 32 with one 16-bit scale for the integers).
BITS = {"fp32": 32, "bf16": 16, "int8": 8.5, "int4": 4.5, "f32": 32, "f16": 16}
BITS |= {"q8_0": 8.5, "q4_0": 4.5}


@dataclass(frozen=True)
class Size:
    """One GLM-4 shape: L layers, H hidden, N heads, G key/value groups, F ffn, V vocabulary.

    Attributes:
        train_batch: Rows of 512 tokens in a training step.
    """

    layers: int
    hidden: int
    heads: int
    groups: int
    ffn: int
    vocab: int
    train_batch: int = 4

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads

    @property
    def kv_size(self) -> int:
        """Channels of the keys (or the values) of one token in one layer."""
        return self.groups * self.head_size

    @property
    def matrix_weights(self) -> int:
        """Weights of all layers' matrices."""
        attention = self.hidden * (2 * self.hidden + 2 * self.kv_size)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head_weights(self) -> int:
        """Weights of the output head; the embedding has as many."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, biases and norms included."""
        vectors = self.layers * (3 * self.hidden + 2 * self.kv_size) + self.hidden
        return self.matrix_weights + 2 * self.head_weights + vectors

    def attention_flops(self, tokens: int) -> float:
        """Operations of causal attention over one row, scores and weighted sum."""
        return self.layers * 4 * self.hidden * tokens * (tokens + 1) / 2

    def decode_bytes(self, dtype: str, batch: int, context: int = PROMPT + NEW // 2) -> float:
        """Bytes one decode step must read: the matrices and head once, each row's cache (16-bit at most)."""
        weights = (self.matrix_weights + self.head_weights) * BITS[dtype] / 8
        return weights + batch * context * self.cache_bytes(dtype)

    def cache_bytes(self, dtype: str) -> int:
        """Bytes of keys and values of one token in all layers: fp32 beside fp32 weights, else 16-bit."""
        return 2 * self.layers * self.kv_size * (4 if dtype in ("fp32", "f32") else 2)

    def decode_flops(self, batch: int) -> float:
        """Operations of one decode step, attention left out (it is small at these contexts)."""
        return 2.0 * batch * (self.matrix_weights + self.head_weights)

    def prefill_flops(self, tokens: int) -> float:
        """Operations of reading one prompt; the head is needed for the last token only."""
        return (
            2.0 * tokens * self.matrix_weights
            + 2.0 * self.head_weights
            + self.attention_flops(tokens)
        )

    def train_flops(self, lora: bool = False) -> float:
        """Operations of one training step: 2 a weight and token forward, 2 back to the inputs, 2 to the weights.

        With LoRA the frozen matrices need no gradient of their own; the adapters' work is left out.
        """
        tokens = self.train_batch * TRAIN_LENGTH
        per_weight = 4.0 if lora else 6.0
        attention = 3 * self.train_batch * self.attention_flops(TRAIN_LENGTH)
        return per_weight * tokens * (self.matrix_weights + self.head_weights) + attention


SIZES = {
    "tiny": Size(layers=4, hidden=256, heads=8, groups=2, ffn=688, vocab=4096),
    "small": Size(layers=12, hidden=768, heads=12, groups=2, ffn=2048, vocab=32000),
    "base": Size(layers=22, hidden=2048, heads=32, groups=2, ffn=5632, vocab=32000, train_batch=1),
}

"""A GLM run one layer at a time in NumPy: calibration rows pass through while its weights are rounded.

Only the weights of one layer are in memory. Each layer is rounded for the inputs that the rounded layers before
it produce, so that their errors are made up for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mindformers.checkpoint.gptq import Correlations, quantize_for_inputs
from mindformers.checkpoint.quantized import QuantizedMatrix, dequantize
from mindformers.checkpoint.quantized_files import Description
from mindformers.models.glm2.glm2_config import ChatGLM2Config

Floats = NDArray[np.float32]
ReadWeight = Callable[[str], Floats]
_TOKENS = 2048  # that pass through a matrix at once


class CalibrationWalk:
    """Rows of tokens on their way through a network.

    Args:
        config: The network's settings.
        read: Name of a weight, as a parameter has it, -> its values in float32.
        embedding: (V, H) float32.
        rows: Ids of each row, (S,) of any length.
    """

    def __init__(
        self,
        config: ChatGLM2Config,
        read: ReadWeight,
        embedding: Floats,
        rows: Sequence[NDArray[np.int32]],
    ):
        self.config, self.read = config, read
        self.lengths = [len(row) for row in rows]
        self.hidden = embedding[np.concatenate(rows)]
        table = config.rotary_table(max(self.lengths))
        self.angles = np.concatenate([table[:length] for length in self.lengths])

    def next_layer(self, index: int, description: Description) -> dict[str, QuantizedMatrix]:
        """Round the matrices of a layer and let the rows pass through it; layers come in order.

        Returns:
            Name -> rounded matrix, of the matrices the description does not exclude.
        """
        prefix, config = f"transformer.encoder.layers.{index}.", self.config
        done: dict[str, QuantizedMatrix] = {}

        def through(names: Sequence[str], inputs: Floats) -> Floats:
            return self._through([prefix + name for name in names], inputs, description, done)

        def normed(name: str, values: Floats) -> Floats:
            return rms_norm(values, self.read(f"{prefix}{name}.weight"), config.layernorm_epsilon)

        qkv = ["self_attention.query_key_value"] if config.qkv_concat else [
            f"self_attention.{name}" for name in ("wq", "wk", "wv")
        ]  # fmt: skip
        gate_up = (
            ["mlp.dense_h_to_4h"] if config.mlp_concat else ["mlp.dense_left", "mlp.dense_right"]
        )
        mixed = self._attend(through(qkv, normed("input_layernorm", self.hidden)))
        added = through(["self_attention.dense"], mixed)
        if config.post_self_attn_layernorm:
            added = normed("post_self_attn_layernorm", added)
        self.hidden = self.hidden + added
        wide = through(gate_up, normed("post_attention_layernorm", self.hidden))
        added = through(["mlp.dense_4h_to_h"], gated(wide))
        if config.post_mlp_layernorm:
            added = normed("post_mlp_layernorm", added)
        self.hidden = self.hidden + added
        return done

    def round_head(self, name: str, description: Description) -> QuantizedMatrix:
        """Round the output layer, after the last layer."""
        norm = self.read("transformer.encoder.final_layernorm.weight")
        inputs = rms_norm(self.hidden, norm, self.config.layernorm_epsilon)
        steps = _correlations(inputs).steps()
        return quantize_for_inputs(self.read(name), steps, description.scheme_of(name), name)

    def _through(
        self,
        names: Sequence[str],
        inputs: Floats,
        description: Description,
        done: dict[str, QuantizedMatrix],
    ) -> Floats:
        """Round matrices that share their inputs; return the outputs side by side, (tokens, channels)."""
        steps = _correlations(inputs).steps()
        outputs = []
        for name in names:
            weight, bias = f"{name}.weight", f"{name}.bias"
            matrix = self.read(weight)
            if weight not in description.excluded:
                scheme = description.scheme_of(weight)
                done[weight] = quantize_for_inputs(matrix, steps, scheme, weight)
                matrix = dequantize(done[weight])
            product = inputs @ matrix.T
            has_bias = self.config.add_qkv_bias and name.rpartition(".")[2] in _BIASED
            outputs.append(product + self.read(bias) if has_bias else product)
        return np.concatenate(outputs, axis=1) if len(outputs) > 1 else outputs[0]

    def _attend(self, qkv: Floats) -> Floats:
        """Return the heads' mixtures of values, (tokens, heads * D), for queries, keys and values side by side."""
        config = self.config
        heads, groups, dim = config.num_heads, config.n_kv_heads, config.kv_channels
        tokens = qkv.reshape(len(qkv), heads + 2 * groups, dim)
        rotate(tokens[:, : heads + groups], self.angles)
        out = np.empty((len(qkv), heads, dim), np.float32)
        first = 0
        for length in self.lengths:
            row, target = tokens[first : first + length], out[first : first + length]
            hidden = np.triu(np.full((length, length), -np.inf, np.float32), 1)
            keys = row[:, heads : heads + groups].transpose(1, 2, 0)
            values = row[:, heads + groups :].transpose(1, 0, 2)
            for head in range(heads):
                group = head * groups // heads
                scores = row[:, head] @ keys[group] / np.float32(np.sqrt(dim)) + hidden
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                target[:, head] = (scores / scores.sum(axis=1, keepdims=True)) @ values[group]
            first += length
        return out.reshape(len(qkv), heads * dim)


_BIASED = ("query_key_value", "wq", "wk", "wv")


def rms_norm(values: Floats, weight: Floats, eps: float) -> Floats:
    """Return values / root mean square * weight, over the last axis."""
    square = np.einsum("tc,tc->t", values, values)[:, None] / np.float32(values.shape[1])
    return values * (weight / np.sqrt(square + np.float32(eps)))


def gated(wide: Floats) -> Floats:
    """Return silu(gate) * up of (tokens, 2 * channels), the gates first."""
    gate, up = np.split(wide, 2, axis=1)
    return gate / (1 + np.exp(-np.clip(gate, -80, None))) * up


def rotate(heads: Floats, angles: Floats) -> None:
    """Turn pairs of neighbouring channels in place.

    Args:
        heads: (tokens, N, D).
        angles: (tokens, R / 2, 2), cos and sin for the first R channels.
    """
    pairs = heads[..., : 2 * angles.shape[1]].reshape(*heads.shape[:-1], -1, 2)
    cos, sin = angles[:, None, :, 0], angles[:, None, :, 1]
    even = pairs[..., 0] * cos - pairs[..., 1] * sin
    odd = pairs[..., 1] * cos + pairs[..., 0] * sin
    turned = np.stack([even, odd], axis=-1)
    heads[..., : 2 * angles.shape[1]] = turned.reshape(*heads.shape[:-1], -1)


def _correlations(inputs: Floats) -> Correlations:
    found = Correlations(inputs.shape[1])
    for first in range(0, len(inputs), _TOKENS):
        found.add(inputs[first : first + _TOKENS])
    return found


def layer_of(name: str) -> int | None:
    """Return the number of the layer a weight belongs to; None outside the layers."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None

"""Loss and gradients of a GLM network written out in NumPy float64, documents of one row apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.support.golden_model import GoldenCase
from tests.support.training_reference import attention, rms_norm, rotate, swiglu

Arrays = dict[str, np.ndarray]


def loss_and_gradients(
    weights: Mapping[str, np.ndarray],
    case: GoldenCase,
    ids: np.ndarray,
    labels: np.ndarray,
    starts: np.ndarray | None = None,
) -> tuple[float, Arrays]:
    """Return the mean loss over the labels that are not -100, and its gradients by name.

    Args:
        weights: Under this library's names, query, key and value in one, gate and up in one.
        case: Sizes; without norms behind attention and MLP.
        ids: (B, S).
        labels: (B, S).
        starts: (B, S), where in its row the document of each token begins; None: a row is one.
    """
    w = {name: each.astype(np.float64) for name, each in weights.items()}
    steps = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    angles = _angles(case, steps if starts is None else steps - starts)
    x = w["transformer.embedding.embedding_weight"][ids]
    kept = []
    for index in range(case.layers):
        layer = f"transformer.encoder.layers.{index}."
        kept.append(x)
        x = _layer(w, layer, case, x, angles, starts, None)[0]
    final, head = (
        w["transformer.encoder.final_layernorm.weight"],
        w["transformer.output_layer.weight"],
    )
    hidden = rms_norm(x, final, case.eps, np.zeros_like(x))[0]
    loss, slopes = _cross_entropy(hidden @ head.T, labels)
    found: Arrays = {"transformer.output_layer.weight": _outer(slopes, hidden)}
    _, dx, found["transformer.encoder.final_layernorm.weight"] = rms_norm(
        x, final, case.eps, slopes @ head
    )
    for index in reversed(range(case.layers)):
        layer = f"transformer.encoder.layers.{index}."
        _, dx, own = _layer(w, layer, case, kept[index], angles, starts, dx)
        found |= {f"{layer}{name}": each for name, each in own.items()}
    table = np.zeros_like(w["transformer.embedding.embedding_weight"])
    np.add.at(table, ids, dx)
    return loss, {**found, "transformer.embedding.embedding_weight": table}


def _angles(case: GoldenCase, positions: np.ndarray) -> np.ndarray:
    rotated = case.head_dim // 2
    return positions[:, :, None] * case.rope_theta ** (-np.arange(0, rotated, 2) / rotated)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    rows, places = np.nonzero(labels != -100)
    picked = (rows, places, labels[rows, places])
    loss = -np.log(shares[picked]).mean()
    shares[picked] -= 1
    return float(loss), shares * (labels != -100)[:, :, None] / len(rows)


def _outer(slopes: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return the gradient of a weight (out, in)."""
    return np.einsum("bso,bsi->oi", slopes, inputs)


def _layer(
    w: Arrays, layer: str, case: GoldenCase, x: np.ndarray, angles: np.ndarray,
    starts: np.ndarray | None, dout: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, Arrays]:  # fmt: skip
    """Return what a layer gives and, for ``dout``, the gradients of ``x`` and of its weights."""
    first, last = w[f"{layer}input_layernorm.weight"], w[f"{layer}post_attention_layernorm.weight"]
    qkv = w[f"{layer}self_attention.query_key_value.weight"]
    bias = w[f"{layer}self_attention.query_key_value.bias"]
    dense, up = w[f"{layer}self_attention.dense.weight"], w[f"{layer}mlp.dense_h_to_4h.weight"]
    down = w[f"{layer}mlp.dense_4h_to_h.weight"]
    heads, groups = case.heads, case.groups
    form = (*x.shape[:2], heads + 2 * groups, case.head_dim)

    normed = rms_norm(x, first, case.eps, np.zeros_like(x))[0]
    parts = np.split((normed @ qkv.T + bias).reshape(form), [heads, heads + groups], 2)
    query, key = (rotate(each, angles) for each in parts[:2])
    zeros = np.zeros_like(query)
    mixed = attention(query, key, parts[2], None, zeros, starts)[0].reshape(*x.shape[:2], -1)
    middle = x + mixed @ dense.T
    after = rms_norm(middle, last, case.eps, np.zeros_like(x))[0]
    gate, upper = np.split(after @ up.T, 2, -1)
    product = swiglu(gate, upper, np.zeros_like(gate))[0]
    out = middle + product @ down.T
    if dout is None:
        return out, x, {}

    own = {"mlp.dense_4h_to_h.weight": _outer(dout, product)}
    slopes = np.concatenate(swiglu(gate, upper, dout @ down)[1:], -1)
    own["mlp.dense_h_to_4h.weight"] = _outer(slopes, after)
    _, back, own["post_attention_layernorm.weight"] = rms_norm(middle, last, case.eps, slopes @ up)
    dmiddle = dout + back
    own["self_attention.dense.weight"] = _outer(dmiddle, mixed)
    dmixed = (dmiddle @ dense).reshape(query.shape)
    _, dquery, dkey, dvalue = attention(query, key, parts[2], None, dmixed, starts)
    turned = [rotate(each, angles, -1.0) for each in (dquery, dkey)]
    slopes = np.concatenate([*turned, dvalue], 2).reshape(*x.shape[:2], -1)
    own["self_attention.query_key_value.weight"] = _outer(slopes, normed)
    own["self_attention.query_key_value.bias"] = slopes.sum((0, 1))
    _, back, own["input_layernorm.weight"] = rms_norm(x, first, case.eps, slopes @ qkv)
    return out, dmiddle + back, own

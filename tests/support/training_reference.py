"""What the training kernels compute, written out in NumPy float64: results and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def rms_norm(
    x: np.ndarray, weight: np.ndarray, eps: float, dout: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the result, and the gradients of x and weight."""
    factor = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    normed, scaled = x * factor, dout * weight
    dx = factor * (scaled - normed * (scaled * normed).mean(-1, keepdims=True))
    return normed * weight, dx, (dout * normed).reshape(-1, x.shape[-1]).sum(0)


def swiglu(
    gate: np.ndarray, up: np.ndarray, dout: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the result, and the gradients of gate and up."""
    share = 1 / (1 + np.exp(-gate))
    silu = gate * share
    return silu * up, dout * up * (share + silu * (1 - share)), dout * silu


def rotate(heads: np.ndarray, angles: np.ndarray, sign: float = 1.0) -> np.ndarray:
    """Rotate heads (B, S, N, D) by angles (B or 1, S, R/2), channel pairs as complex numbers."""
    width = 2 * angles.shape[-1]
    pairs = heads[..., 0:width:2] + 1j * heads[..., 1:width:2]
    turned = pairs * np.exp(1j * sign * angles)[:, :, None]
    out = heads.copy()
    out[..., 0:width:2], out[..., 1:width:2] = turned.real, turned.imag
    return out


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    visible: np.ndarray | None,
    dout: np.ndarray,
    starts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what causal attention mixes (B, S, N, D), and the gradients of query, key and value.

    ``visible`` (B, S) is 0 where a key is hidden; a query that sees no key gets 0. ``starts`` (B, S) is the
    first key a query sees.
    """
    tokens, repeats = query.shape[1], query.shape[2] // key.shape[2]
    keys, values = np.repeat(key, repeats, 2), np.repeat(value, repeats, 2)
    scale = query.shape[-1] ** -0.5
    seen = np.tril(np.ones((tokens, tokens), bool))[None, None]
    if visible is not None:
        seen = seen & (visible != 0)[:, None, None, :]
    if starts is not None:
        seen = seen & (np.arange(tokens) >= starts[:, :, None])[:, None]
    scores = np.where(seen, np.einsum("bqnd,bknd->bnqk", query, keys) * scale, -1e300)
    weights = softmax(scores) * seen  # (B, N, S, S)
    out = np.einsum("bnqk,bknd->bqnd", weights, values)
    dvalues = np.einsum("bnqk,bqnd->bknd", weights, dout)
    dweights = np.einsum("bqnd,bknd->bnqk", dout, values)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True)) * scale
    dquery = np.einsum("bnqk,bknd->bqnd", dscores, keys)
    dkeys = np.einsum("bnqk,bqnd->bknd", dscores, query)

    def grouped(each: np.ndarray) -> np.ndarray:  # heads of a group share their key
        shape = (*key.shape[:3], repeats, key.shape[3])
        return each.reshape(shape).sum(3)

    return out, dquery, grouped(dkeys), grouped(dvalues)


def head_loss(
    hidden: np.ndarray, weight: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the weighted sum of the tokens' losses, and the gradients of hidden and weight."""
    shares = softmax(hidden @ weight.T)
    rows, known = np.arange(len(labels)), np.maximum(labels, 0)
    loss = -(weights * np.log(shares[rows, known])).sum()
    slopes = shares.copy()
    slopes[rows, known] -= 1
    slopes *= weights[:, None]
    return float(loss), slopes @ weight, slopes.T @ hidden


def adamw(state: list[np.ndarray], grad: np.ndarray, step: int, rates: dict[str, float]) -> None:
    """Update ``[weight, first, second]`` in place by AdamW with bias correction."""
    weight, first, second = state
    weight *= 1 - rates["lr"] * rates["decay"]
    first += (1 - rates["beta1"]) * (grad - first)
    second += (1 - rates["beta2"]) * (grad**2 - second)
    mean, square = first / (1 - rates["beta1"] ** step), second / (1 - rates["beta2"] ** step)
    weight -= rates["lr"] * mean / (np.sqrt(square) + rates["eps"])


def moment_rule(
    state: list[np.ndarray], grad: np.ndarray, rule: Any, rates: tuple[float, float]
) -> None:
    """Update ``[weight, moment]`` in place by SGD, Lion or an average; ``rates``: learning rate, decay."""
    (weight, moment), (lr, decay) = state, rates
    if rule.name == "average":
        moment += rule.take * (weight - moment)
    elif rule.name == "sgd":
        slope = grad + decay * weight
        moment[...] = rule.keep * moment + rule.take * slope
        weight -= lr * (slope + rule.keep * moment if rule.is_ahead else moment)
    else:
        direction = np.sign(rule.keep * moment + (1 - rule.keep) * grad)
        moment[...] = rule.take * moment + (1 - rule.take) * grad
        weight -= lr * (direction + decay * weight)

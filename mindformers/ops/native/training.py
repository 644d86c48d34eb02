"""The training kernels on MindSpore tensors: each call checks type, shape and layout, then runs one kernel.

Letters: T tokens of all rows, H hidden, F ffn, V vocabulary.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers.errors import TrainingError
from mindformers.ops.native.library import DTYPES, PartStruct, WeightStruct, required
from mindformers.ops.native.memory import empty
from mindformers.ops.native.train_abi import HeadStruct

WEIGHT_DTYPES = {ms.float32: "float32", ms.bfloat16: "bfloat16", ms.float16: "float16"}


def address(
    tensor: Tensor, what: str, shape: Sequence[int], dtype: ms.dtype.Type = ms.float32
) -> int:
    """Return where a tensor's elements lie.

    Raises:
        TrainingError: If its type or shape is another, or its rows are not side by side.
    """
    if tensor.dtype != dtype or tensor.shape != tuple(shape) or not tensor.is_contiguous():
        raise TrainingError(
            f"is {tensor.dtype} {tuple(tensor.shape)}",
            where=what,
            allowed=f"{dtype} {tuple(shape)}",
        )
    return tensor.data_ptr()


def weight_struct(weight: Tensor, what: str, bias: int | None = None) -> WeightStruct:
    """Return a weight (rows, cols) as the kernels see it; ``bias`` is an address.

    Raises:
        TrainingError: If it is no matrix of floating point numbers.
    """
    name = WEIGHT_DTYPES.get(weight.dtype)
    if name is None or weight.ndim != 2 or not weight.is_contiguous():
        raise TrainingError(f"is {weight.dtype} {tuple(weight.shape)}", where=what,
                            allowed="a matrix in float32, bfloat16 or float16")  # fmt: skip
    rows, cols = weight.shape
    found = WeightStruct(rows=rows, cols=cols, parts=1, dtype=DTYPES[name], bias=bias)
    found.part[0] = PartStruct(data=weight.data_ptr(), rows=rows)
    return found


def rounded_struct(values: Tensor, scales: Tensor) -> WeightStruct:
    """Return a weight rounded to int8 or int4 as the kernels see it; form as of ``QuantizedMatrix``."""
    is_packed = values.dtype == ms.uint8
    rows, cols = values.shape[0], values.shape[1] * (2 if is_packed else 1)
    name = "int4" if is_packed else "int8"
    group = cols // scales.shape[1]
    found = WeightStruct(rows=rows, cols=cols, parts=1, dtype=DTYPES[name], group=group)
    start = address(scales, "scales", (rows, cols // group), ms.float16)
    found.part[0] = PartStruct(data=values.data_ptr(), scale=start, rows=rows)
    return found


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """Return a weight rounded to int8 or int4 in float32, (rows, cols)."""
    struct = rounded_struct(values, scales)
    ids = _counted(struct.rows)
    out = empty((struct.rows, struct.cols))
    required().mf_embedding(ctypes.byref(struct), ids.ctypes.data, struct.rows, out.data_ptr())
    return out


@lru_cache(maxsize=8)
def _counted(rows: int) -> np.ndarray:
    return np.arange(rows, dtype=np.int32)


def rows_of(tensor: Tensor) -> int:
    """Return how many rows a tensor (..., width) has."""
    return math.prod(tensor.shape[:-1])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, is_trained: bool = False) -> Tensor:
    """Return x W^T + b, (..., out).

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) float32, or None.
        is_trained: A row is the same bit for bit however many stand beside it; else a few rows are summed in
            another order than many, as fast as the weight can be read.
    """
    rows, cols = weight.shape
    offset = None if bias is None else address(bias, "bias", (rows,))
    struct = weight_struct(weight, "weight", offset)
    start = address(x, "input", (*x.shape[:-1], cols))
    out = empty((*x.shape[:-1], rows))
    product = required().mf_train_linear if is_trained else required().mf_linear
    product(start, rows_of(x), ctypes.byref(struct), out.data_ptr(), rows)
    return out


def linear_backward(
    x: Tensor | None, weight: Tensor, dout: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias that are needed, else None.

    Args:
        x: (..., in); may be None where the weight needs no gradient.
        weight: (out, in).
        dout: (..., out).
        needs: Whether input, weight and bias need a gradient.
    """
    rows, cols = weight.shape
    struct, slope = (
        weight_struct(weight, "weight"),
        address(dout, "gradient", (*dout.shape[:-1], rows)),
    )
    dx = empty((*dout.shape[:-1], cols)) if needs[0] else None
    dweight, start = None, None
    if needs[1]:
        assert x is not None
        start, dweight = address(x, "input", (*dout.shape[:-1], cols)), empty((rows, cols))
    dbias = empty((rows,)) if needs[2] else None
    required().mf_linear_backward(
        start,
        slope,
        rows_of(dout),
        ctypes.byref(struct),
        _start(dx),
        _start(dweight),
        _start(dbias),
    )
    return dx, dweight, dbias


def _start(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x`` (..., H) normalized and times ``weight`` (H,)."""
    start, scale = address(x, "input", x.shape), address(weight, "norm weight", x.shape[-1:])
    out = empty(x.shape)
    required().mf_rms_norm(start, scale, eps, rows_of(x), x.shape[-1], out.data_ptr())
    return out


def rms_norm_backward(
    x: Tensor, weight: Tensor, eps: float, dout: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of ``x`` and ``weight`` that are needed, else None."""
    slope = address(dout, "gradient", x.shape)
    dx = empty(x.shape) if needs[0] else None
    dweight = empty(weight.shape) if needs[1] else None
    required().mf_rms_norm_backward(
        x.data_ptr(),
        weight.data_ptr(),
        eps,
        slope,
        rows_of(x),
        x.shape[-1],
        _start(dx),
        _start(dweight),
    )
    return dx, dweight


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """Return silu(gate) * up, (..., F), for both (..., F); or for both in one (..., 2F), gate first."""
    width = gate.shape[-1] if up is not None else gate.shape[-1] // 2
    step = gate.shape[-1]
    first = address(gate, "gate", (*gate.shape[:-1], width if up is not None else 2 * width))
    second = first + 4 * width if up is None else address(up, "up", gate.shape)
    out = empty((*gate.shape[:-1], width))
    required().mf_swiglu(first, second, step, rows_of(gate), width, out.data_ptr())
    return out


def swiglu_backward(gate: Tensor, up: Tensor | None, dout: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of gate and up, or of the one tensor that holds both, for ``dout`` (..., F)."""
    step, width = gate.shape[-1], dout.shape[-1]
    slope = address(dout, "gradient", (*gate.shape[:-1], step if up is not None else step // 2))
    first, dgate = gate.data_ptr(), empty(gate.shape)
    if up is None:
        dup, second, target = None, first + 4 * width, dgate.data_ptr() + 4 * width
    else:
        dup = empty(up.shape)
        second, target = up.data_ptr(), dup.data_ptr()
    required().mf_swiglu_backward(
        first, second, step, slope, rows_of(gate), width, dgate.data_ptr(), target
    )
    return dgate, dup


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """Return the rows of ``table`` (V, H) for ``ids`` (...) int32, float32 (..., H).

    Raises:
        TrainingError: If an id is outside the table.
    """
    start, struct = address(ids, "ids", ids.shape, ms.int32), weight_struct(table, "embedding")
    values = ids.asnumpy()
    if values.size and not 0 <= values.min() <= values.max() < table.shape[0]:
        raise TrainingError(f"found {values.min()} to {values.max()}", where="input_ids",
                            allowed=f"0 to {table.shape[0] - 1}")  # fmt: skip
    out = empty((*ids.shape, table.shape[1]))
    required().mf_embedding(ctypes.byref(struct), start, values.size, out.data_ptr())
    return out


def embedding_backward(ids: Tensor, dout: Tensor, num_rows: int) -> Tensor:
    """Return the gradient (V, H) of the table for ``dout`` (..., H)."""
    width = dout.shape[-1]
    slope = address(dout, "gradient", (*ids.shape, width))
    out = empty((num_rows, width))
    required().mf_embedding_backward(
        slope, ids.data_ptr(), rows_of(dout), num_rows, width, out.data_ptr()
    )
    return out


def head_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, needs: Sequence[bool]
) -> tuple[float, Tensor | None, Tensor | None]:
    """Return the weighted sum of the tokens' losses and its gradients, a chunk of logits at a time.

    Args:
        hidden: (T, H).
        weight: (V, H), the output layer.
        labels: (T,) int32; what stands where the weight is 0 does not matter.
        weights: (T,) float32, what a token's loss counts.
        needs: Whether ``hidden`` and ``weight`` need a gradient.

    Raises:
        TrainingError: If a label that counts is outside the vocabulary.
    """
    tokens = hidden.shape[0]
    struct = weight_struct(weight, "output layer")
    counted = labels.asnumpy()[weights.asnumpy() != 0]
    if counted.size and not 0 <= counted.min() <= counted.max() < weight.shape[0]:
        raise TrainingError(f"found {counted.min()} to {counted.max()}", where="labels",
                            allowed=f"0 to {weight.shape[0] - 1}")  # fmt: skip
    loss = ctypes.c_double()
    dhidden = empty(hidden.shape) if needs[0] else None
    dweight = empty(weight.shape) if needs[1] else None
    call = HeadStruct(
        hidden=address(hidden, "hidden", (tokens, weight.shape[1])), head=ctypes.addressof(struct),
        labels=address(labels, "labels", (tokens,), ms.int32),
        weights=address(weights, "weights", (tokens,)), tokens=tokens,
        loss=ctypes.addressof(loss), dhidden=_start(dhidden), dhead=_start(dweight),
    )  # fmt: skip
    required().mf_head_loss(ctypes.byref(call))
    return loss.value, dhidden, dweight


def scale_in_place(tensor: Tensor, factor: float) -> None:
    """Multiply a float32 tensor by ``factor``."""
    required().mf_scale(address(tensor, "tensor", tensor.shape), tensor.size, factor)

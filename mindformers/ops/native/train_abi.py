"""The training kernels' side of the C interface: structures and signatures."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int32, c_int64, c_void_p


class RotateStruct(ctypes.Structure):
    """``RotateCall`` of kernels_train.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("data", "cosine", "sine")),
        *((name, c_int64) for name in ("rows", "step", "heads", "dim", "pairs", "angle_rows")),
        ("is_inverse", c_int32),
    )


class AttentionStruct(ctypes.Structure):
    """``TrainAttentionCall`` of kernels_train.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value")),
        *((name, c_int64) for name in ("query_step", "key_step", "value_step")),
        *((name, c_void_p) for name in ("visible", "starts")),
        *((name, c_int64) for name in ("batch", "tokens", "heads", "groups", "dim")),
        *((name, c_void_p) for name in ("out", "lse", "dout", "dquery", "dkey", "dvalue")),
    )


class HeadStruct(ctypes.Structure):
    """``HeadCall`` of kernels_train.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("hidden", "head", "labels", "weights")),
        ("tokens", c_int64),
        *((name, c_void_p) for name in ("loss", "dhidden", "dhead")),
    )


class AdamTargetStruct(ctypes.Structure):
    """``AdamTarget`` of kernels_train.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("parameter", "master", "first", "second", "gradient")),
        ("count", c_int64),
        ("decay", c_float),
        ("dtype", c_int32),
    )


class AdamStruct(ctypes.Structure):
    """``AdamCall`` of kernels_train.h."""

    _fields_ = (
        ("targets", c_void_p),
        ("count", c_int64),
        *((name, c_float) for name in ("lr", "beta1", "beta2", "eps", "scale")),
    )


class MomentTargetStruct(ctypes.Structure):
    """``MomentTarget`` of kernels_train.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("parameter", "master", "moment", "gradient")),
        ("count", c_int64),
        *((name, c_float) for name in ("lr", "decay")),
        ("dtype", c_int32),
    )


class MomentStruct(ctypes.Structure):
    """``MomentCall`` of kernels_train.h."""

    _fields_ = (
        ("targets", c_void_p),
        ("count", c_int64),
        *((name, c_float) for name in ("keep", "take", "scale")),
        *((name, c_int32) for name in ("rule", "is_ahead")),
    )


class SpanStruct(ctypes.Structure):
    """``FloatSpan`` of kernels_train.h."""

    _fields_ = (("data", c_void_p), ("count", c_int64))


_P, _N = c_void_p, c_int64
# All return 0, or 1 when there was no memory.
TRAIN_SIGNATURES: dict[str, tuple[tuple, type]] = {
    "mf_train_linear": ((_P, _N, _P, _P, _N), c_int),
    "mf_linear_backward": ((_P, _P, _N, _P, _P, _P, _P), c_int),
    "mf_rms_norm": ((_P, _P, c_float, _N, _N, _P), c_int),
    "mf_rms_norm_backward": ((_P, _P, c_float, _P, _N, _N, _P, _P), c_int),
    "mf_swiglu": ((_P, _P, _N, _N, _N, _P), c_int),
    "mf_swiglu_backward": ((_P, _P, _N, _P, _N, _N, _P, _P), c_int),
    "mf_rotate": ((_P,), c_int),
    "mf_embedding": ((_P, _P, _N, _P), c_int),
    "mf_embedding_backward": ((_P, _P, _N, _N, _N, _P), c_int),
    "mf_train_attention": ((_P,), c_int),
    "mf_train_attention_backward": ((_P,), c_int),
    "mf_head_loss": ((_P,), c_int),
    "mf_adam_update": ((_P,), c_int),
    "mf_moment_update": ((_P,), c_int),
    "mf_square_sum": ((_P, _N, _P), c_int),
    "mf_scale": ((_P, _N, c_float), c_int),
}

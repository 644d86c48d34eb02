"""Run the kernels of a library over odd shapes and compare with NumPy: ``python kernel_exercise.py LIBRARY SET``.

Meant for a library with sanitizers, so it loads NumPy and the library and as little else as it can.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from mindformers.ops.native import network
from mindformers.ops.native.arrays import of_array
from mindformers.ops.native.library import open_library
from mindformers.ops.native.self_test import refuse_wrong_numbers
from mindformers.ops.native.weights import LinearWeight
from tests.support.native_kernels import Sequences, linear, make_case, reference_logits, sizes

SIZES = (
    {},
    {"groups": 1, "block_size": 1},
    {"head_dim": 3, "rotary_dim": 2, "hidden": 7, "ffn": 5, "vocab": 11},
    {"hidden": 301, "heads": 2, "groups": 1, "head_dim": 4, "rotary_dim": 2, "ffn": 3, "block_size": 16},
)  # fmt: skip


def main(path: str, instruction_set: str) -> None:
    library = open_library(path)
    assert library.mf_use_instruction_set(instruction_set.encode()) == 0
    network.required = lambda: library
    for threads in (1, 2):
        library.mf_set_threads(threads)
        refuse_wrong_numbers(library)
        for dtype in ("float32", "bfloat16", "float16"):
            products(library, dtype)
        for dtype in ("int8", "uint8"):
            quantized(library, dtype)
        for cache_dtype in ("float32", "bfloat16", "int8"):
            for changes in SIZES:
                steps(cache_dtype, changes)


def products(library: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for rows, cols in ((1, 1), (97, 52), (37, 300)):
        weight, exact = linear(rng.normal(size=(rows, cols)), dtype)
        struct = weight.struct()
        for tokens in (1, 2, 3, 4, 5, 7, 8, 9, 33, 40):
            x = rng.normal(size=(tokens, cols)).astype(np.float32)
            y = np.empty((tokens, rows), np.float32)
            library.mf_linear(x.ctypes.data, tokens, ctypes.addressof(struct), y.ctypes.data, rows)
            np.testing.assert_allclose(y, x @ exact.T, rtol=1e-4, atol=1e-3)


def quantized(library: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(1)
    for rows, cols, group in ((1, 32, 32), (37, 96, 32), (97, 320, 64)):
        width = cols // 2 if dtype == "uint8" else cols
        data = rng.integers(0, 255, (rows, width)).astype(dtype)
        scales = np.full((rows, cols // group), 2**-6, np.float16)
        zeros = rng.integers(0, 15, scales.shape).astype(np.uint8)
        weight = LinearWeight(
            (of_array(data),), scales=(of_array(scales),),
            zeros=(of_array(zeros),) if dtype == "uint8" else (),
        )  # fmt: skip
        struct = weight.struct()
        for tokens in (1, 2, 3, 5, 8, 9, 33, 40):
            x = rng.normal(size=(tokens, cols)).astype(np.float32)
            y = np.empty((tokens, rows), np.float32)
            library.mf_linear(x.ctypes.data, tokens, ctypes.addressof(struct), y.ctypes.data, rows)
            assert np.isfinite(y).all()


def steps(cache_dtype: str, changes: dict[str, int]) -> None:
    case = make_case(
        sizes(**changes), cache_dtype=cache_dtype, num_layers=1, positions=320, is_split=not changes,
        has_after_norms=bool(changes),
    )  # fmt: skip
    texts = [np.random.default_rng(i).integers(0, case.sizes.vocab, 300).tolist() for i in range(3)]
    wanted = [reference_logits(case, text) for text in texts]
    rows = Sequences(case, 3, 300)
    for call in (
        [(0, 9), (1, 3)],
        [(2, 1), (0, 1), (1, 140)],
        [(1, 150), (0, 5)],
        [(1, 1), (0, 1)],
    ):
        before = dict(enumerate(rows.lengths))
        found = rows.step([(row, texts[row][before[row] :][:count]) for row, count in call])
        expected = np.stack([wanted[row][before[row] + count - 1] for row, count in call])
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Files of quantized weights that are not what their header says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.quantized import Scheme, dequantize, quantize
from mindformers.checkpoint.tensor_io import array_to_write, write_safetensors
from mindformers.errors import CheckpointError

MATRIX = np.random.default_rng(0).standard_normal((6, 128)).astype(np.float32)
HEADER = {"bits": 4, "group_size": 32, "symmetric": False, "others": {}, "excluded": []}


def write(path: Path, header: Any = HEADER, **changes: np.ndarray | None) -> Path:
    rounded = quantize(MATRIX, Scheme(4, 32, symmetric=False))
    assert rounded.zeros is not None
    arrays = {
        "qweight": rounded.values,
        "scales": rounded.scales,
        "zeros": rounded.zeros,
        **changes,
    }
    tensors = [array_to_write(f"w.{k}", v) for k, v in arrays.items() if v is not None]
    tensors.append(array_to_write("plain", MATRIX))
    metadata = {} if header is None else {"quantization": json.dumps(header)}
    return write_safetensors(path / "model.safetensors", tensors, metadata)


def test_a_quantized_file_reads_as_float32_in_whole_and_in_rows(tmp_path: Path) -> None:
    wanted = dequantize(quantize(MATRIX, Scheme(4, 32, symmetric=False)))
    with open_weights(write(tmp_path)) as source:
        assert source.shapes == {"plain": (6, 128), "w": (6, 128)}
        assert source.tensors["w"].dtype.name == "float32"
        np.testing.assert_array_equal(source.read("w"), wanted)
        np.testing.assert_array_equal(np.concatenate(list(source.blocks("w", 2, 5))), wanted[2:5])
        out = np.empty((2, 128), np.float32)
        source.read_into("w", 3, out)
        np.testing.assert_array_equal(out, wanted[3:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": None}, r"w: has no \.scales; convert the weights again"),
        ({"zeros": None}, r"w: has no \.zeros"),
        (
            {"scales": np.ones((6, 2), np.float16)},
            r"\.scales is float16 \[6, 2\]; allowed: float16 \[6, 4\], for the groups of 32",
        ),
        (
            {"scales": np.ones((6, 4), np.float32)},
            r"\.scales is float32 \[6, 4\]; allowed: float16",
        ),
        ({"zeros": np.ones((6, 4), np.int8)}, r"\.zeros is int8"),
        (
            {"qweight": np.ones((6, 128), np.int8)},
            r"\.qweight is int8 \[6, 128\]; allowed: uint8 with two axes for the 4 bits",
        ),
        ({"qweight": np.ones((6, 40), np.uint8)}, "80 columns in groups of 32"),
        ({"qweight": np.ones(64, np.uint8)}, r"\.qweight is uint8 \[64\]"),
    ],
)
def test_parts_that_are_missing_or_do_not_fit_are_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_weights(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, r"w\.qweight is there, but the header has no quantization"),
        ({"bits": 4}, r"allowed: bits \(int\), group_size \(int\), symmetric \(bool\)"),
        ({**HEADER, "bits": "4"}, r"allowed: bits \(int\)"),
        ({**HEADER, "bits": 3}, "3 bits; allowed: 8 or 4"),
        ({**HEADER, "group_size": 64}, "for the groups of 64 the header says"),
        ({**HEADER, "group_size": 0}, "a group of 0 columns"),
        ({**HEADER, "others": []}, "others: {}, excluded"),
        ({**HEADER, "others": {"w": 3}}, "quantization of the header is 3"),
    ],
)
def test_a_header_that_says_nothing_or_nonsense_is_refused(
    tmp_path: Path, header: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_weights(write(tmp_path, header))

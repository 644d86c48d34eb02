"""The weights every contestant reads: published names, both number forms, the same values each time."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from benchmarks import weights
from benchmarks.presets import Size
from mindformers.models.glm2.glm2_weights import PUBLISHED, stored_tensors
from mindformers.models.glm2.hf_config import config_from_hf

MICRO = Size(layers=2, hidden=32, heads=4, groups=2, ffn=48, vocab=96)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(weights.SIZES, "micro", MICRO)
    for dtype in ("fp32", "bf16"):
        weights.write(tmp_path, "micro", dtype)
    return tmp_path


def test_a_directory_holds_the_tensors_a_glm_directory_has(models: Path) -> None:
    folder = models / "micro-fp32"
    config = config_from_hf(json.loads((folder / "config.json").read_text()))
    wanted = {each.name: tuple(each.shape) for each in stored_tensors(config, PUBLISHED["glm"])}
    assert {name: array.shape for name, array in weights.read(folder).items()} == wanted
    assert sum(array.size for array in weights.read(folder).values()) == MICRO.parameters


def test_the_safetensors_library_reads_the_same_values(models: Path) -> None:
    folder = models / "micro-fp32"
    with safe_open(folder / weights.FILE, "np") as file:
        for name, array in weights.read(folder).items():
            assert np.array_equal(file.get_tensor(name), array)


def test_bfloat16_is_the_float32_value_rounded_to_nearest_even(models: Path) -> None:
    exact = np.array([1.0, 1.00390625, 1.01171875, -0.1, 3e38, 1e-40], np.float32)
    assert np.array_equal(
        weights.to_bf16(exact).view(ml_dtypes.bfloat16), exact.astype(ml_dtypes.bfloat16)
    )
    path = models / "micro-bf16" / weights.FILE
    width = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + width + 2 * MICRO.parameters


def test_what_is_there_is_not_written_again(models: Path) -> None:
    path = models / "micro-fp32" / weights.FILE
    before = path.stat().st_mtime_ns
    weights.write(models, "micro", "fp32")
    assert path.stat().st_mtime_ns == before


def test_integer_forms_start_from_the_bf16_directory() -> None:
    found = [weights.directory(Path("m"), "small", form).name for form in ("fp32", "bf16", "int4")]
    assert found == ["small-fp32", "small-bf16", "small-bf16"]

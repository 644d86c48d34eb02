"""Rotary angles of the published models: exact at a million positions, YaRN as transformers turns.

Goldens of scripts/make_rope_goldens.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.ops.rotary_table import RotaryTable

pytestmark = pytest.mark.parity
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "parity" / "rope.json").read_text())
MODELS = GOLDEN["models"]
POSITIONS = [0, 1, 8191, 32767, 32768, 131071, 1048575]
# Half a unit of the last place of a float32 below 1, and what float64 angles of a million may be off.
BOUND = 2.0**-25 + 1e-9


def config(name: str, length: int = 1048576) -> ChatGLM2Config:
    model = MODELS[name]
    return ChatGLM2Config(
        rope_ratio=model["rope_ratio"], rope_scaling=model["rope_scaling"], seq_length=length
    )


def exact(positions: list[int], rope_ratio: float) -> np.ndarray:
    """Return cos and sin (P, 32, 2) of angles formed with 64 bits of fraction where the machine has them."""
    wide = np.longdouble
    turns = wide(1e4 * rope_ratio) ** (-np.arange(0, 64, 2, dtype=wide) / wide(64))
    angle = np.array(positions, wide)[:, None] * turns
    return np.stack([np.cos(angle), np.sin(angle)], -1)


@pytest.mark.parametrize("rope_ratio", [1, 500, 10000])
def test_the_table_is_right_to_the_last_bit_at_a_million_positions(rope_ratio: int) -> None:
    settings = ChatGLM2Config(rope_ratio=rope_ratio)
    table = settings.rotary_table(POSITIONS[-1] + 1)[POSITIONS]
    assert table.dtype == np.float32
    assert np.abs(table - exact(POSITIONS, rope_ratio)).max() <= BOUND
    # What the bound is worth: angles formed in float32 are off by a hundredth there.
    angle = np.array(POSITIONS, np.float32)[:, None] * np.float32(
        settings.rope_base ** (-np.arange(0, 64, 2) / 64)
    )
    assert np.abs(np.cos(angle) - exact(POSITIONS, rope_ratio)[..., 0]).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_each_pair_turns_as_in_transformers(name: str) -> None:
    model, settings = MODELS[name], config(name)
    table = settings.rotary_table(2)
    # From position 0 to 1, over cos and sin that the gain multiplies both.
    found = np.arctan2(table[1, :, 1].astype(np.float64), table[1, :, 0].astype(np.float64))
    np.testing.assert_allclose(found, model["turns"], rtol=2e-6)
    np.testing.assert_allclose(table[0], [[model["gain"], 0.0]] * 32, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if "times" in name or "twice" in name])
def test_yarn_beyond_the_trained_length(name: str) -> None:
    model, settings = MODELS[name], config(name)
    positions = [32768, 50000, model["seq_length"] - 1]
    table = settings.rotary_table(positions[-1] + 1)[positions]
    angle = np.array(positions, np.float64)[:, None] * np.array(model["turns"])
    wanted = model["gain"] * np.stack([np.cos(angle), np.sin(angle)], -1)
    # The oracle's turns are float32: an angle of 131,071 times one is off by up to its half unit in the last place.
    slack = positions[-1] * np.array(model["turns"]) * 2.0**-23 * model["gain"] + 1e-6
    assert (np.abs(table - wanted) <= slack[:, None]).all()
    assert (
        np.abs(table - config("GLM-4-9B-0414").rotary_table(positions[-1] + 1)[positions]).max()
        > 0.5
    )


def test_a_table_is_formed_as_far_as_it_is_asked_for() -> None:
    whole = config("glm-4-9b-chat-1m").rotary_table(20000)
    table = RotaryTable(20000, 64, 1e8)
    assert not table.rows.any()
    for count in (1, 10, 4097):
        table.form(count)
        formed = len(np.flatnonzero(table.rows[:, 0, 0]))
        assert count <= formed < count + 4096
        np.testing.assert_array_equal(table.rows[:formed], whole[:formed])
    table.form(10**9)
    np.testing.assert_array_equal(table.rows, whole)

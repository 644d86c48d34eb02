"""Recorded lines become medians, ratios within a round, shares of the limit, a table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import GROUPS, LLAMA, OURS, TRANSFORMERS, select
from benchmarks.plots import draw
from benchmarks.presets import SIZES
from benchmarks.run import order_of, publish
from benchmarks.summary import Key, figures, limit_of, machine_limits, ratios, read_lines
from benchmarks.table import document, number

PNG = b"\x89PNG\r\n\x1a\n"


def line(who: str, value: float | None, turn: int, **changed: Any) -> dict[str, Any]:
    return {
        "who": who,
        "what": "decode",
        "config": "small",
        "dtype": "fp32",
        "batch": 1,
        "value": value,
        "unit": "tokens/s",
        "peak_mib": 600,
        "load": 0.1,
        "round": turn,
        **changed,
    }


def limit(what: str, value: float, turn: int = 0) -> dict[str, Any]:
    return {"who": "limit", "what": what, "value": value, "unit": "GB/s", "round": turn}


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """Three rounds on a machine that gets twice as fast, then slow again."""
    speed = [1.0, 2.0, 1.0]
    found = [limit("read", 24.0 * factor, each) for each, factor in enumerate(speed)]
    found += [limit("fma", 200.0, 0), limit("gemm", 150.0, 0)]
    for each, factor in enumerate(speed):
        found += [
            line(OURS, 50 * factor + each, each),
            line(TRANSFORMERS, 20 * factor, each, peak_mib=800),
            line(LLAMA, 40 * factor, each, dtype="f32", peak_mib=500),
        ]
    return found


OURS_KEY = Key("small", "decode", 1, OURS, "fp32")


def test_a_median_is_over_the_rounds(lines: list[dict[str, Any]]) -> None:
    found = figures(lines)
    assert found[OURS_KEY].values == {0: 50.0, 1: 101.0, 2: 52.0}
    assert found[OURS_KEY].median == 52.0
    assert found[OURS_KEY].peak == 600
    assert found[OURS_KEY].load == 0.1


def test_a_ratio_is_taken_within_each_round_so_that_a_drifting_machine_does_not_matter(
    lines: list[dict[str, Any]],
) -> None:
    against = {each.who: each for each in ratios(OURS_KEY, figures(lines))}
    # 50/20, 101/40, 52/20: the medians alone would give 52/20.
    assert against[TRANSFORMERS].median == pytest.approx(101 / 40)
    assert against[TRANSFORMERS].lowest == pytest.approx(2.5)
    assert against[TRANSFORMERS].highest == pytest.approx(2.6)
    assert against[TRANSFORMERS].memory == pytest.approx(0.75)
    assert against[LLAMA].median == pytest.approx(101 / 80)
    assert against[LLAMA].memory == pytest.approx(1.2)


def test_only_rounds_both_took_part_in_are_compared(lines: list[dict[str, Any]]) -> None:
    without = [each for each in lines if not (each["who"] == TRANSFORMERS and each["round"] != 2)]
    against = {each.who: each.median for each in ratios(OURS_KEY, figures(without))}
    assert against[TRANSFORMERS] == pytest.approx(2.6)


def test_a_disturbed_round_is_left_out_where_three_others_remain(
    lines: list[dict[str, Any]],
) -> None:
    loaded = line(OURS, 5.0, 3, load=1.2)
    figure = figures([*lines, loaded])[OURS_KEY]
    assert (sorted(figure.values), figure.disturbed) == ([0, 1, 2], 1)
    few = figures([each for each in [*lines, loaded] if each["round"] != 1])[OURS_KEY]
    assert (sorted(few.values), few.disturbed) == ([0, 2, 3], 0)
    slow = {**limit("read", 1.0, 3), "load": 1.5}
    assert machine_limits([*lines, slow])["read"] == 24.0


def test_fewer_seconds_is_faster() -> None:
    cold = {"what": "first-token", "unit": "s"}
    found = figures([line(OURS, 2.0, 0, **cold), line(TRANSFORMERS, 6.0, 0, **cold)])
    (against,) = ratios(Key("small", "first-token", 1, OURS, "fp32"), found)
    assert against.median == pytest.approx(3.0)


def test_the_limits_are_bytes_by_bandwidth_and_operations_by_peak(
    lines: list[dict[str, Any]],
) -> None:
    machine = machine_limits(lines)
    assert machine == {"read": 24.0, "fma": 200.0, "gemm": 150.0}
    size = SIZES["small"]
    # GLM's layer by hand: q and o 768 x 768, k and v 128 x 768, gate, up and down 2048 x 768.
    matrices = 12 * (2 * 768 * 768 + 2 * 128 * 768 + 3 * 2048 * 768)
    assert size.matrix_weights == matrices
    assert size.parameters == matrices + 2 * 32000 * 768 + 12 * (3 * 768 + 256) + 768
    read = 4 * (matrices + 32000 * 768) + 128 * 2 * 12 * 128 * 4
    assert limit_of(OURS_KEY, machine) == pytest.approx(24e9 / read)
    # Eight rows share a read of int8 weights; then the multiply-adds are the limit.
    eight = Key("small", "decode", 8, OURS, "int8")
    assert limit_of(eight, machine) == pytest.approx(200e9 / (2 * (matrices + 32000 * 768)))
    prompt = 1024 * 2 * matrices + 2 * 32000 * 768 + 12 * 4 * 768 * 1024 * 1025 / 2
    prefill = Key("small", "prefill", 1, OURS, "fp32")
    assert limit_of(prefill, machine) == pytest.approx(1024 * 150e9 / prompt)


def test_a_model_that_fits_the_cache_is_held_to_the_cache_s_speed() -> None:
    machine = {"read": 24.0, "read, cached": 160.0, "fma": 1e6}
    tiny = Key("tiny", "decode", 1, OURS, "bf16")
    assert limit_of(tiny, machine) == pytest.approx(160e9 / SIZES["tiny"].decode_bytes("bf16", 1))
    assert limit_of(tiny, {"fma": 1.0}) is None


def test_the_table_says_the_ratio_the_share_of_the_limit_and_why_something_is_missing(
    lines: list[dict[str, Any]],
) -> None:
    missing = line(OURS, None, 0, what="lora", batch=4, skipped="the package has no LoRA yet")
    text = document([*lines, missing])
    assert "| small, 1 | fp32 | 52.0 | 50.0-101 | 85% of 61.2 |" in text
    assert "transformers fp32 2.52 (2.50-2.60); llama.cpp f32 1.26 (1.25-1.30)" in text
    assert "transformers fp32 0.75; llama.cpp f32 1.20" in text
    assert "| small, 4 | fp32 | the package has no LoRA yet |" in text
    assert "| read | 24.0 GB/s |" in text


def test_growth_is_told_as_time_per_token_at_each_context() -> None:
    points = [
        line(OURS, value, 0, what="growth", part=part, context=context)
        for context, part, value in (
            (1024, "decode", 40.0),
            (1024, "prefill", 500.0),
            (2048, "decode", 20.0),
            (2048, "prefill", 400.0),
        )
    ]
    text = document([*points, limit("read", 24.0), limit("fma", 200.0), limit("gemm", 150.0)])
    assert "| small | mindformers | fp32 | 1,024 | 25.0 |" in text
    assert "| small | mindformers | fp32 | 2,048 | 50.0 |" in text


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (25.55, "25.6"), (0.333, "0.33")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_record_becomes_a_table_and_a_plot_beside_it(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    pytest.importorskip("matplotlib")
    record = tmp_path / "run.jsonl"
    growth = [
        line(OURS, value, 0, what="growth", part=part, context=1024)
        for part, value in (("decode", 40.0), ("prefill", 500.0))
    ]
    record.write_text("\n".join(json.dumps(each) for each in [*lines, *growth]) + "\n")
    table, plot = publish(record)
    assert table.read_text() == document(read_lines(record))
    assert plot.read_bytes().startswith(PNG)


def test_a_run_without_any_figure_still_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    failed = line(OURS, None, 0, error="out of memory")
    assert draw([failed], tmp_path / "none.png").read_bytes().startswith(PNG)


def test_each_round_has_another_order_and_a_seed_gives_the_same_again() -> None:
    group = max(GROUPS, key=lambda each: len(each.entrants))
    orders = [order_of(group, turn, 0) for turn in range(5)]
    assert all(sorted(order) == sorted(group.entrants) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert orders == [order_of(group, turn, 0) for turn in range(5)]


def test_measurements_are_selected_by_pattern_and_contestant() -> None:
    chosen = select(["decode-small-*"], [LLAMA], ["*-8"])
    assert [group.name for group in chosen] == ["decode-small-1"]
    assert {dtype for _, dtype in chosen[0].entrants} == {"f32", "f16", "q8_0", "q4_0"}
    with pytest.raises(ValueError, match="no measurement is called 'decode-huge'"):
        select(["decode-huge"], [])

"""What is handed to the kernels: anything that would make them leave a buffer is refused before they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers.errors import ConfigError, DeviceError
from mindformers.ops.native.arrays import Buffer, as_float32, of_array
from mindformers.ops.native.checks import check_linear
from mindformers.ops.native.library import kernels as own_kernels
from mindformers.ops.native.network import NativeNetwork
from mindformers.ops.native.weights import LinearWeight
from tests.support.native_kernels import Sequences, make_case, reference_logits

pytestmark = pytest.mark.skipif(own_kernels() is None, reason="there are no kernels here")
CASE = make_case(num_layers=1, positions=48)


def a_step() -> dict[str, np.ndarray]:
    """Three sequences: a prompt, a later piece, a token."""
    rows = Sequences(CASE, 3, 24)
    rows.step([(1, [1, 2, 3, 4, 5, 6]), (2, [7])])
    return rows.arrays([(0, [1, 2, 3, 4, 5, 6, 7]), (1, [8, 9]), (2, [10])])


def refused(step: dict[str, Any], network: NativeNetwork = CASE.network) -> str:
    with pytest.raises(ConfigError) as caught:
        network.run(**step)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("ids", 0, 97, "ids: 2 to 97; allowed: 0 to 96"),
        ("ids", 3, -1, "ids: -1 to 10; allowed: 0 to 96"),
        ("positions", 9, 48, "positions: 0 to 48; allowed: 0 to 47"),
        ("positions", 0, -5, "positions: -5 to"),
        ("slots", 4, 19 * 4, "slots: "),
        ("slots", 4, -1, "slots: -1 to"),
        ("starts", 0, 1, "sequences: 10 tokens, sequences from [1, 7, 9, 10]"),
        ("starts", 3, 11, "sequences: 10 tokens, sequences from [0, 7, 9, 11]"),
        ("starts", 1, 9, "sequences: 10 tokens, sequences from [0, 9, 9, 10]"),
        ("starts", 2, 2**31 - 1, "sequences: "),
        ("lengths", 0, 6, "sequences: 10 tokens"),
        ("lengths", 0, 25, "block tables: "),
        ("lengths", 0, 2**31 - 1, "block tables: "),
        ("lengths", 2, -1, "sequences: "),
        ("tables", (0, 1), 19, "block tables: "),
        ("tables", (0, 1), -1, "block tables: blocks -1 to"),
        ("picked", 0, 10, "picked tokens: 8 to 10; allowed: 0 to 9, rising"),
        ("picked", 2, -1, "picked tokens: -1 to 8"),
        ("picked", 1, 6, "picked tokens: 6 to 9; allowed: 0 to 9, rising"),
        ("ids", 0, 2**32 + 1, "ids: 2 to 4294967297; allowed: numbers of 32 bits"),
        ("positions", 0, -(2**40), "allowed: numbers of 32 bits"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(
    name: str, index: Any, value: int, message: str
) -> None:
    step = a_step()
    step[name] = step[name].astype(np.int64)
    step[name][index] = value
    assert message in refused(step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.zeros(10)}, "ids: float64; allowed: whole numbers"),
        ({"ids": np.zeros(10, bool)}, "ids: bool; allowed: whole numbers"),
        ({"ids": np.zeros((2, 5), int)}, "ids (2, 5)"),
        ({"ids": np.zeros(0, int)}, "ids (0,)"),
        ({"positions": np.zeros(9, int)}, "positions (9,)"),
        ({"slots": np.zeros(11, int)}, "slots (11,)"),
        ({"starts": np.array([0, 10])}, "starts (2,)"),
        ({"lengths": np.zeros((0,), int), "starts": np.array([0])}, "lengths (0,)"),
        ({"tables": np.zeros(6, int)}, "block tables (6,)"),
        ({"tables": np.zeros((3, 0), int)}, "block tables: "),
        ({"tables": np.zeros((2, 6), int)}, "block tables (2, 6)"),
        ({"picked": np.zeros((1, 1), int)}, "picked tokens (1, 1)"),
    ],
)
def test_an_array_of_another_shape_or_kind_is_refused(change: dict, message: str) -> None:
    assert message in refused({**a_step(), **change})


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([0, 10], "kept tokens: 0 to 10; allowed: 0 to 9, rising"),
        ([-1, 3], "kept tokens: -1 to 3; allowed: 0 to 9, rising"),
        ([3, 3], "kept tokens: 3 to 3; allowed: 0 to 9, rising"),
        ([[3]], "kept tokens (1, 1)"),
    ],
)
def test_tokens_that_cannot_be_kept_are_refused(kept: list, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CASE.network.run_keeping(**a_step(), kept=np.array(kept))
    assert message in str(caught.value)


def test_what_is_not_used_may_hold_anything() -> None:
    step = a_step()
    wanted = CASE.network.run(**step)
    step["tables"] = step["tables"].copy()
    step["tables"][2, 1:] = -7  # the third sequence has two tokens: one block
    np.testing.assert_array_equal(CASE.network.run(**step), wanted)
    wide = np.concatenate([step["tables"], np.full((3, 5), 2**31 - 1)], 1)
    np.testing.assert_array_equal(CASE.network.run(**{**step, "tables": wide}), wanted)


def test_no_logits_wanted_gives_none() -> None:
    found = CASE.network.run(**{**a_step(), "picked": np.zeros(0)})
    assert found.shape == (0, 97)


def test_a_network_without_a_cache_says_so() -> None:
    step = a_step()
    assert "no cache; call allocate_cache first" in refused(step, make_case().network)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_step_spoilt_at_random_is_computed_or_refused_but_never_crashes(
    data: st.DataObject,
) -> None:
    step = {name: array.astype(np.int64) for name, array in a_step().items()}
    numbers = st.one_of(
        st.integers(-3, 100), st.sampled_from([2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63)])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(step)))
        kind = data.draw(st.sampled_from(["number", "shorter", "longer", "flat"]))
        array = step[name]
        if kind == "number" and array.size:
            array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = data.draw(numbers)
        elif kind == "shorter":
            step[name] = array[: data.draw(st.integers(0, len(array)))].copy()
        elif kind == "longer":
            step[name] = np.concatenate([array, array])
        else:
            step[name] = array.reshape(-1).copy()
    try:
        found = CASE.network.run(**step)
    except ConfigError as error:
        found = None
        refusal = str(error)
    if found is None:
        assert "allowed" in refusal
    else:
        assert found.shape == (len(step["picked"]), 97)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_way_of_cutting_texts_into_calls_gives_the_same_logits(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    lengths = [data.draw(st.integers(1, 20)) for _ in range(count)]
    texts = [np.random.default_rng(i).integers(0, 97, n).tolist() for i, n in enumerate(lengths)]
    wanted = [reference_logits(CASE, text) for text in texts]
    rows = Sequences(CASE, count, 20, seed=data.draw(st.integers(0, 99)))
    while open_rows := [row for row in range(count) if rows.lengths[row] < lengths[row]]:
        chosen = data.draw(st.lists(st.sampled_from(open_rows), min_size=1, unique=True))
        pieces = []
        for row in chosen:
            done = rows.lengths[row]
            pieces.append((row, texts[row][done : done + data.draw(st.integers(1, 20))]))
        found = rows.step(pieces)
        for (row, _), logits in zip(pieces, found, strict=True):
            np.testing.assert_allclose(
                logits, wanted[row][rows.lengths[row] - 1], rtol=1e-4, atol=2e-4
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 4}, "6 heads in 4 groups"),
        ({"rotary_dim": 7}, "rotary_dim: found 7; allowed: even, 0 to 20"),
        ({"rotary_dim": 22}, "rotary_dim: found 22"),
        ({"rotary_dim": -2}, "rotary_dim: found -2"),
        ({"head_dim": 0}, "head_dim: found 0; allowed: 1 to"),
        ({"vocab": 0}, "vocab: found 0"),
        ({"block_size": -1}, "block_size: found -1"),
        ({"hidden": 2**31}, "hidden: found 2147483648"),
        ({"ffn": 36.0}, "ffn: found 36.0"),
        ({"eps": float("nan")}, "eps: found nan"),
        ({"hidden": 53}, "layer 0, qkv: found [(240, 52)]; allowed: (240, 53) in all"),
        ({"vocab": 98}, "embedding: found [(97, 52)]; allowed: (98, 52) in all"),
        ({"rotary_dim": 12}, "angles: found (64, 5, 2); allowed: (P, 6, 2)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    case = make_case()
    layers, embedding, head, final = case.network._kept
    with pytest.raises(ConfigError) as caught:
        NativeNetwork(
            replace(case.sizes, **changes), layers, embedding, head, final, case.network.angles
        )
    assert message in str(caught.value)


def test_a_network_without_layers_or_with_another_norm_is_refused() -> None:
    case = make_case()
    layers, embedding, head, final = case.network._kept
    with pytest.raises(ConfigError, match="without layers"):
        NativeNetwork(case.sizes, [], embedding, head, final, case.network.angles)
    for norm in (final[:-1], final.astype(np.float64), np.zeros(104, np.float32)[::2], None):
        with pytest.raises(ConfigError, match="final norm: (found|elements)"):
            NativeNetwork(case.sizes, layers, embedding, head, norm, case.network.angles)
    with pytest.raises(ConfigError, match="layer 0, input_norm"):
        wrong = [replace(layers[0], input_norm=final[1:])]
        NativeNetwork(case.sizes, wrong, embedding, head, final, case.network.angles)
    with pytest.raises(ConfigError, match="cache dtype: found 'int4'"):
        NativeNetwork(case.sizes, layers, embedding, head, final, case.network.angles, "int4")


INT8 = of_array(np.zeros((6, 64), np.int8))
SCALES = of_array(np.zeros((6, 2), np.float16))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (LinearWeight(()), "0 pieces"),
        (LinearWeight((SCALES,) * 4), "4 pieces"),
        (LinearWeight((of_array(np.zeros(6, np.float32)),)), "float32 (6,)"),
        (LinearWeight((of_array(np.zeros((6, 4), np.int32)),)), "int32 (6, 4)"),
        (LinearWeight((of_array(np.zeros((0, 64), np.float32)),)), "(0, 64)"),
        (LinearWeight((Buffer(0, "float32", (6, 64), None),)), "at address 0"),
        (LinearWeight((Buffer(66, "float32", (6, 64), None),)), "at address 66; allowed: a multiple of 4"),
        (LinearWeight((INT8,)), "1 pieces with 0 scales"),
        (LinearWeight((INT8,), scales=(of_array(np.zeros((6, 2), np.float32)),)), "allowed: float16 (6, 2)"),
        (LinearWeight((INT8,), scales=(of_array(np.zeros((5, 2), np.float16)),)), "allowed: float16 (6, 2)"),
        (LinearWeight((INT8,), scales=(of_array(np.zeros((6, 4), np.float16)),)), "4 scales for 64 columns"),
        (LinearWeight((INT8,), scales=(of_array(np.zeros((6, 0), np.float16)),)), "0 scales for 64 columns"),
        (LinearWeight((INT8,), scales=(SCALES,), zeros=(INT8,)), "int8 with zeros"),
        (
            LinearWeight((of_array(np.zeros((6, 32), np.uint8)),), scales=(SCALES,), zeros=(SCALES,)),
            "zeros: float16 (6, 2); allowed: uint8 (6, 2)",
        ),
        (LinearWeight((of_array(np.zeros((6, 64), np.float32)),), scales=(SCALES,)), "float32 with scales"),
        (
            LinearWeight((of_array(np.zeros((6, 64), np.float32)),), np.zeros(5, np.float32)),
            "bias: found float32 (5,); allowed: float32 (6,)",
        ),
    ],
)  # fmt: skip
def test_a_matrix_the_kernels_cannot_read_is_refused(weight: LinearWeight, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_linear("the weight", weight, (6, 64))
    assert str(caught.value).startswith("the weight")
    assert message in str(caught.value)


def test_arrays_of_the_other_byte_order_or_with_gaps_are_copied() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    swapped = values.astype(">f4")
    np.testing.assert_array_equal(as_float32(of_array(swapped)), values)
    np.testing.assert_array_equal(as_float32(of_array(values[:, ::2])), values[:, ::2])
    odd = np.frombuffer(b"\0" + values.tobytes(), np.float32, offset=1)
    assert of_array(odd).address % 4 == 0
    with pytest.raises(ConfigError, match="an array of float64"):
        of_array(np.zeros(3))


@pytest.mark.parametrize("count", [0, -1, 2**31])
def test_a_cache_without_blocks_or_beyond_int32_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="num_blocks: found"):
        CASE.network.allocate_cache(count)


def test_a_cache_the_machine_has_no_memory_for_leaves_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = make_case(num_blocks=8)

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(case.network, "_layer_cache", no_memory)
        with pytest.raises(DeviceError, match="no memory for 9 blocks of 4 tokens"):
            case.network.allocate_cache(9)
    assert "no cache" in refused(a_step(), case.network)


def test_two_threads_may_use_one_network_while_a_third_replaces_its_cache() -> None:
    case = make_case()
    texts = [[row + 1] * 12 for row in range(2)]
    wanted = [reference_logits(case, text)[-1] for text in texts]
    rows = Sequences(case, 2, 12)
    steps = [rows.arrays([(row, texts[row])]) for row in range(2)]
    blocks, failures, ends = case.network.num_blocks, [], time.monotonic() + 1.0

    def run(row: int) -> None:
        while time.monotonic() < ends:
            found = case.network.run(**steps[row])[0]
            if not np.allclose(found, wanted[row], rtol=1e-4, atol=1e-3):
                failures.append(row)

    def replace_cache() -> None:
        while time.monotonic() < ends:
            case.network.allocate_cache(blocks)

    threads = [threading.Thread(target=run, args=(row,)) for row in range(2)]
    threads.append(threading.Thread(target=replace_cache))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []


def test_a_forked_child_computes_with_a_pool_of_its_own() -> None:
    rows = Sequences(CASE, 1, 20)
    step = rows.arrays([(0, list(range(20)))])
    wanted = CASE.network.run(**step)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(CASE.network.run(**step), wanted) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(CASE.network.run(**step), wanted)


PROGRAM = """
import time, numpy as np
from tests.support.native_kernels import Sequences, make_case
case = make_case(num_layers=1)
step = Sequences(case, 1, 64).arrays([(0, [1] * 64)])
case.network.run(**step)
"""


def run_program(rest: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "MINDFORMERS_THREADS": "3"},
    )  # fmt: skip


def test_a_program_ends_while_workers_sleep_or_spin() -> None:
    for rest in ("time.sleep(0.1)", ""):
        done = run_program(rest)
        _, errors = done.communicate(timeout=60)
        assert (done.returncode, errors) == (0, "")


def test_an_interrupt_during_a_call_reaches_the_program_when_it_returns() -> None:
    program = run_program(
        "print('ready', flush=True)\n"
        "try:\n"
        "    while True: case.network.run(**step)\n"
        "except KeyboardInterrupt:\n"
        "    found = case.network.run(**step)\n"
        "    print('stopped', np.isfinite(found).all())\n"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate(timeout=60)
    assert (out, errors, program.returncode) == ("stopped True\n", "", 0)


def test_a_step_the_machine_has_no_memory_for_is_an_error_and_the_next_one_works() -> None:
    program = run_program(
        "import resource\n"
        "from mindformers.errors import DeviceError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)\n"
        "count = 200000\n"
        "zeros = np.zeros(count, np.int32)\n"
        "try:\n"
        "    case.network.run(zeros, zeros, zeros, np.array([0, count]), np.array([count]),\n"
        "                     np.zeros((1, count // 4), np.int32), np.array([3]))\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
        "print(np.isfinite(case.network.run(**step)).all())\n"
    )
    out, errors = program.communicate(timeout=60)
    fix = "take fewer or shorter rows at once"
    assert (out, errors) == (f"not enough memory for a kernel; {fix}\nTrue\n", "")

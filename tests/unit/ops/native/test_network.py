"""A whole step of the kernels against the same network in NumPy float64, over odd sizes and ragged calls."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.support.compare import BF16, MODEL_FP32
from tests.support.native_kernels import (
    Sequences,
    make_case,
    reference_logits,
    reference_states,
    sizes,
)

CACHED_INT8 = 5e-2  # a channel of a cached row is rounded to 1/127 of the row's largest


def check(found: np.ndarray, wanted: np.ndarray, tolerance: float = MODEL_FP32) -> None:
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=tolerance, atol=tolerance)


def random_ids(case, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, case.sizes.vocab, count).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groups": 1},
        {"groups": 6},
        {"block_size": 1},
        {"block_size": 16},
        {"head_dim": 3, "rotary_dim": 2, "hidden": 7, "ffn": 5, "vocab": 11},
        {"head_dim": 64, "rotary_dim": 64, "heads": 8, "groups": 2, "ffn": 65},
        {"rotary_dim": 0},
        {"heads": 1, "groups": 1, "hidden": 200, "ffn": 1, "vocab": 1, "head_dim": 1},
    ],
    ids=str,
)
def test_prompts_and_single_tokens_give_the_same_logits_as_numpy(
    kernels: ctypes.CDLL, changes: dict
) -> None:
    if changes.get("head_dim") == 1:
        changes = {**changes, "rotary_dim": 0}
    case = make_case(sizes(**changes))
    ids = random_ids(case, 23)
    wanted = reference_logits(case, ids)
    rows = Sequences(case, 1, 40)
    check(rows.step([(0, ids[:9])], "all"), wanted[:9])  # tiles
    check(rows.step([(0, ids[9:13])], "all"), wanted[9:13])  # below the tiles' threshold
    for index in range(13, 16):
        check(rows.step([(0, ids[index : index + 1])]), wanted[index : index + 1])
    check(rows.step([(0, ids[16:])], "all"), wanted[16:])  # a later piece of a prompt


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_prompts_pieces_and_tokens_of_several_sequences_share_a_call(
    kernels: ctypes.CDLL, threads: int
) -> None:
    kernels.mf_set_threads(threads)
    case = make_case()
    texts = [random_ids(case, 30, seed) for seed in range(4)]
    wanted = [reference_logits(case, text) for text in texts]
    rows = Sequences(case, 4, 40)
    calls = [
        [(0, 11), (2, 1)],
        [(3, 7), (0, 1), (1, 20)],
        [(2, 6), (1, 1), (3, 2)],
        [(0, 1), (1, 1)],
    ]
    for call in calls:
        before = dict(enumerate(rows.lengths))
        pieces = [(row, texts[row][before[row] : before[row] + count]) for row, count in call]
        found = rows.step(pieces)
        check(found, np.stack([wanted[row][before[row] + count - 1] for row, count in call]))


@pytest.mark.parametrize(
    ("cache_dtype", "tolerance"), [("float32", MODEL_FP32), ("bfloat16", BF16), ("int8", CACHED_INT8)]
)  # fmt: skip
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_long_contexts_go_past_every_tile_and_split(
    kernels: ctypes.CDLL, cache_dtype: str, tolerance: float, block_size: int
) -> None:
    # Prompts are taken in tiles of 128 keys, single tokens in splits of 256.
    case = make_case(
        sizes(block_size=block_size), cache_dtype=cache_dtype, num_layers=1, positions=700
    )
    ids = random_ids(case, 601)
    wanted = reference_logits(case, ids)
    rows = Sequences(case, 1, 700)
    check(rows.step([(0, ids[:300])], "all"), wanted[:300], tolerance)
    check(rows.step([(0, ids[300:599])], "all"), wanted[300:599], tolerance)
    for index in (599, 600):
        check(rows.step([(0, [ids[index]])]), wanted[index : index + 1], tolerance)


@pytest.mark.parametrize("is_split", [False, True], ids=["joined", "split"])
@pytest.mark.parametrize("has_after_norms", [False, True], ids=["pre-norm", "sandwich"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_layout_of_weights_gives_the_same_logits(
    kernels: ctypes.CDLL, dtype: str, is_split: bool, has_after_norms: bool
) -> None:
    case = make_case(dtype=dtype, is_split=is_split, has_after_norms=has_after_norms)
    ids = random_ids(case, 40)
    wanted = reference_logits(case, ids)
    rows = Sequences(case, 1, 40)
    check(rows.step([(0, ids[:39])]), wanted[38:39])
    check(rows.step([(0, ids[39:])]), wanted[39:])


def test_a_residual_is_added_once_to_each_picked_token(kernels: ctypes.CDLL) -> None:
    # hidden is larger than all else, so what the head reads must not share a narrower buffer
    case = make_case(sizes(hidden=301, heads=2, groups=1, head_dim=4, rotary_dim=2, ffn=3))
    ids = random_ids(case, 12)
    found = Sequences(case, 1, 12).step([(0, ids)], "all")
    check(found, reference_logits(case, ids))


def test_hidden_states_of_some_tokens_are_kept_beside_the_logits_of_others(
    kernels: ctypes.CDLL,
) -> None:
    case = make_case(has_after_norms=True)
    first, second = random_ids(case, 30), random_ids(case, 9, seed=1)
    rows = Sequences(case, 2, 30)
    rows.step([(0, first[:10])])
    arrays = rows.arrays([(0, first[10:]), (1, second)])
    # Of tokens 19 and 28 both are wanted: the last ones of each sequence.
    kept = np.array([0, 4, 19, 22, 28])
    arrays["picked"] = np.array([3, 19, 28])
    logits, states = case.network.run_keeping(**arrays, kept=kept)
    whole = [reference_states(case, ids) for ids in (first, second)]
    check(states, np.concatenate([whole[0][[10, 14, 29]], whole[1][[2, 8]]]))
    wanted = [reference_logits(case, ids) for ids in (first, second)]
    check(logits, np.concatenate([wanted[0][[13, 29]], wanted[1][[8]]]))

"""Hugging Face's beam search (goldens of scripts/make_beam_goldens.py): the same answers with the same scores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mindformers.generation.config import GenerationConfig
from tests.support.beams import SEARCH_CASES, SEARCHES, prompts
from tests.support.compare import MODEL_FP32
from tests.support.engine import chunks, is_empty, open_core, run_all, submit
from tests.support.golden_model import GoldenCase
from tests.support.networks import golden_network
from tests.support.parity import GOLDEN

CASE_NAMES = [case.name for case in SEARCH_CASES]


def golden(case: GoldenCase) -> list[list[list[dict[str, Any]]]]:
    """Return the oracle's answers by search and prompt."""
    path = GOLDEN / "beams.json"
    return json.loads(path.read_text(encoding="utf-8"))[case.name]


def check_searches(network: Any, case: GoldenCase, places: range) -> None:
    for place in places:
        output = network.generate(prompts(case), **SEARCHES[place], return_dict_in_generate=True)
        wanted = [answer for answers in golden(case)[place] for answer in answers]
        starts = output.num_prompt_tokens
        found = [ids[n:].tolist() for ids, n in zip(output.sequences, starts, strict=True)]
        assert found == [answer["ids"] for answer in wanted], SEARCHES[place]
        assert output.sequences_scores == pytest.approx(
            [answer["score"] for answer in wanted], rel=MODEL_FP32, abs=MODEL_FP32
        )
        assert output.num_generated == [len(ids) for ids in found]
        ends = SEARCHES[place].get("eos_token_id", [])
        assert output.finish_reasons == ["stop" if ids[-1] in ends else "length" for ids in found]


@pytest.mark.parametrize("case", SEARCH_CASES, ids=CASE_NAMES)
def test_generate_finds_the_answers_of_hugging_face(native: None, pynative: None, case: GoldenCase):
    check_searches(golden_network(case), case, range(len(SEARCHES)))


def test_the_portable_form_finds_them_too(pynative: None, monkeypatch: pytest.MonkeyPatch):
    from mindformers.ops.native.library import choose_backend

    choose_backend("portable")
    case = SEARCH_CASES[0]
    check_searches(golden_network(case, num_blocks=64), case, range(7, 8))


@pytest.mark.parametrize("num_blocks", [400, 52])
def test_searches_share_an_engine_with_one_another_and_with_plain_answers(
    native: None, pynative: None, num_blocks: int
):
    case = SEARCH_CASES[0]
    network = golden_network(case)
    greedy = GenerationConfig(max_new_tokens=40)
    alone = [row[len(p) :].tolist() for p in prompts(case) for row in network.generate([p], greedy)]
    core = open_core(network.build_step(), num_blocks, step_tokens=16)
    plain = [submit(core, prompt, greedy) for prompt in prompts(case)]
    searched = []
    for settings, answers in zip(SEARCHES, golden(case), strict=True):
        for prompt, wanted in zip(prompts(case), answers, strict=True):
            searched.append((submit(core, prompt, GenerationConfig(**settings)), wanted))
            core.run_once()
    run_all(core)
    for handle, wanted in searched:
        found = chunks(handle)
        assert [list(chunk.tokens) for chunk in found.values()] == [a["ids"] for a in wanted]
    assert [list(chunks(handle)[0].tokens) for handle in plain] == alone
    assert is_empty(core)
    assert (core.stats().preemptions > 0) == (num_blocks == 52)

"""Our models in lm-evaluation-harness: likelihoods against NumPy, borders of texts, prompts, the command itself."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mindformers.errors import ConfigError, MissingExtraError, TokenizerError
from mindformers.models.auto import AutoTokenizer
from mindformers.tasks.lm_harness import register, run_harness
from mindformers.tasks.lm_harness_prompts import ChatPrompts
from tests.support.evaluation import EvalParts

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed"
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> EvalParts:
    return EvalParts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def model(parts: EvalParts) -> Any:
    from mindformers.tasks.lm_harness_model import MindFormersLM

    return MindFormersLM(pretrained=str(parts.model), batch_size=2)


@pytest.fixture(scope="module")
def network(parts: EvalParts) -> Any:
    from mindformers.models.auto import AutoModel

    return AutoModel.from_pretrained(parts.model)


def asked(*pairs: Any) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def by_hand(network: Any, ids: list[int], start: int) -> tuple[float, bool]:
    """Return the log likelihood of ``ids[start:]`` after the rest, and whether each is the likeliest, in NumPy."""
    from mindspore import Tensor

    logits = network(Tensor(np.array([ids], np.int32)))[0].asnumpy()[0].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    places = range(start - 1, len(ids) - 1)
    value = sum(logits[place, ids[place + 1]] for place in places)
    return float(value), all(int(logits[place].argmax()) == ids[place + 1] for place in places)


@needs_harness
def test_likelihoods_are_those_of_the_logits(model: Any, network: Any) -> None:
    pairs = [
        ("Hello world", " and the model"),
        ("你好", "，世界"),
        ("one", " two"),
        ("one", " three"),
    ]
    found = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    for (context, rest), (value, is_greedy) in zip(pairs, found, strict=True):
        before = list(model.tokenizer(context)["input_ids"])
        whole = list(model.tokenizer(context + rest)["input_ids"])
        assert whole[: len(before)] == before
        expected, expected_greedy = by_hand(network, whole, len(before))
        assert value == pytest.approx(expected, rel=1e-4)
        assert is_greedy == expected_greedy


@needs_harness
def test_a_greedy_continuation_is_told(model: Any, network: Any) -> None:
    context = list(model.tokenizer("Hello")["input_ids"])
    ids = network.generate([context], max_new_tokens=3, eos_token_id=[])[0].tolist()
    likely = model._loglikelihood_tokens([(None, context, ids[len(context) :])])
    other = model._loglikelihood_tokens([(None, context, [ids[-3], (ids[-2] + 1) % 256, ids[-1]])])
    assert [likely[0][1], other[0][1]] == [True, False]


@needs_harness
def test_a_blank_belongs_to_the_continuation_and_an_empty_context_is_the_end_token(
    model: Any, network: Any
) -> None:
    with_blank, without = model.loglikelihood(
        asked(("one ", "two"), ("one", " two")), disable_tqdm=True
    )
    assert with_blank == without
    ((value, _),) = model.loglikelihood(asked(("", "the model")), disable_tqdm=True)
    rest = list(model.tokenizer("the model", add_special_tokens=False)["input_ids"])
    assert value == pytest.approx(by_hand(network, [model.eot_token_id, *rest], 1)[0], rel=1e-4)


@needs_harness
def test_a_long_text_is_read_in_windows_that_share_no_token(parts: EvalParts, network: Any) -> None:
    from mindformers.tasks.lm_harness_model import MindFormersLM

    short = MindFormersLM(pretrained=str(parts.model), max_length=6, add_bos_token=False)
    text = "Hello world, the model and the tool: one two three"
    ids = list(short.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(ids) % 6
    expected = by_hand(network, [short.eot_token_id, *ids[:6]], 1)[0]
    for start in range(6, len(ids), 6):
        end = min(start + 6, len(ids))
        window = ids[max(0, end - 7) : end]
        expected += by_hand(network, window, len(window) - (end - start))[0]
    (found,) = short.loglikelihood_rolling(asked((text,)), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-4)


@needs_harness
def test_answers_end_before_a_stop_string_and_come_in_the_order_asked(
    model: Any, network: Any
) -> None:
    contexts = ["Hello", "the model and the tool", "one"]
    plain = model.generate_until(
        asked(*((c, {"max_gen_toks": 12}) for c in contexts)), disable_tqdm=True
    )
    for context, answer in zip(contexts, plain, strict=True):
        ids = list(model.tokenizer(context)["input_ids"])
        whole = network.generate([ids], max_new_tokens=12, do_sample=False,
                                 allowed_vocab_size=len(model.tokenizer))[0]  # fmt: skip
        assert answer == model.tokenizer.decode(whole[len(ids) :], skip_special_tokens=True)
    stop = plain[1][4:6]
    settings = {"until": [stop], "max_gen_toks": 12, "temperature": 0.0, "do_sample": False}
    (cut,) = model.generate_until(asked((contexts[1], settings)), disable_tqdm=True)
    assert cut == plain[1].partition(stop)[0]
    with pytest.raises(ConfigError, match="answers of 96 tokens, the model holds 96"):
        model.generate_until(asked(("a", {"max_gen_toks": 96})), disable_tqdm=True)


@needs_harness
def test_a_wrong_model_argument_is_refused_by_name(parts: EvalParts) -> None:
    from mindformers.tasks.lm_harness_model import MindFormersLM

    with pytest.raises(ConfigError, match="model_args.max_lenght: no such argument"):
        MindFormersLM(pretrained=str(parts.model), max_lenght=3)


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
output_type: {kind}
test_split: train
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
"""


@needs_harness
def test_the_harness_runs_a_task_with_our_model(
    parts: EvalParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "rows.jsonl"
    rows = [{"question": "one", "choices": ["two", "three"], "answer": 0}] * 2
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]'
    task = TASK.format(name="tiny", data=data, kind="multiple_choice", more=more)
    (tmp_path / "tiny.yaml").write_text(task)
    arguments = [
        "--model", "mindformers", "--model_args", f"pretrained={parts.model}", "--tasks", "tiny",
        "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--apply_chat_template",
    ]  # fmt: skip
    assert run_harness(arguments) == 0
    (written,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(written.read_text())["results"]["tiny"]["acc,none"] in (0.0, 1.0)
    assert sys.argv[0] != "lm_eval"


@needs_harness
def test_a_task_that_is_not_there_is_a_mistake(parts: EvalParts, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tasks: Tasks not found: no_such"):
        run_harness(
            [
                "--model",
                "mindformers",
                "--model_args",
                f"pretrained={parts.model}",
                "--tasks",
                "no_such",
            ]
        )


def test_without_the_harness_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(
        MissingExtraError, match=r"needs lm_eval.*pip install 'mindformers\[harness\]'"
    ):
        register()


CHAT = [{"role": "user", "content": "Say <|user|> and <|assistant|>"}]


def test_a_rendered_prompt_keeps_its_control_tokens_and_a_question_has_none(
    parts: EvalParts,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts.model)
    prompts = ChatPrompts(tokenizer)
    text = prompts.render(CHAT, True)
    assert text.endswith("<|assistant|>\n")
    newline = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    expected = list(tokenizer.apply_chat_template(CHAT, add_generation_prompt=True))
    assert prompts.encode(text) == expected + newline
    answer = list(tokenizer("\n two", add_special_tokens=False)["input_ids"])
    assert prompts.encode(text + " two") == expected + answer
    assert expected.count(tokenizer.special_tokens["<|user|>"]) == 1


def test_an_answer_that_was_begun_goes_on(parts: EvalParts) -> None:
    tokenizer = AutoTokenizer.from_pretrained(parts.model)
    prompts = ChatPrompts(tokenizer)
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    text = prompts.render(messages, False)
    assert prompts.encode(text) == list(tokenizer.apply_chat_template(messages))


def test_plain_texts_are_left_alone_and_a_prompt_of_another_process_is_refused(
    parts: EvalParts,
) -> None:
    prompts = ChatPrompts(AutoTokenizer.from_pretrained(parts.model))
    assert prompts.encode("Hello <|assistant|>") is None
    with pytest.raises(TokenizerError, match=r"\[gMASK\]<sop> was not rendered.*--cache_requests"):
        prompts.encode("[gMASK]<sop><|user|>\nHello<|assistant|>")

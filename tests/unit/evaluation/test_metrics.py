"""Metrics of texts, against values of the packages upstream calls and against counting by hand."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mindformers.errors import MissingExtraError
from mindformers.evaluation.metrics import (
    ADGENMetric,
    EmF1Metric,
    EnglishTextMetric,
    ToolCallMetric,
)
from mindformers.evaluation.overlap import rouge_l, rouge_n, sentence_bleu
from mindformers.evaluation.words import english_words
from mindformers.registry import MindFormerModuleType, MindFormerRegister

# Answer, reference, and what upstream's ADGENMetric gives: jieba 0.42.1, rouge-chinese 1.0.3,
# nltk 3.9 sentence_bleu with method3.
CHINESE = [
    ("今天天气很好，我们去公园散步。", "今天天气不错，我们一起去公园散步吧。", (73.6842, 35.2941, 73.6842, 41.2259)),
    ("我是人工智能助手", "我是一个智能助手，很高兴为你服务", (40.0, 15.3846, 40.0, 15.1248)),
    ("好", "完全不同的回答", (0.0, 0.0, 0.0, 0.0)),
    ("abc", "a", (0.0, 0.0, 0.0, 22.5901)),
    ("中国的首都是北京。", "中国的首都是北京。", (100.0, 100.0, 100.0, 100.0)),
]  # fmt: skip
# What rouge-score 0.1.2 gives without stemming.
ENGLISH = [
    ("The cat sat on the mat, the very same mat.", "A cat is sitting on the mat.", (47.058824, 26.666667, 47.058824)),
    ("police killed the gunman", "the gunman police killed", (100.0, 66.666667, 50.0)),
    ("no match", "entirely different words", (0.0, 0.0, 0.0)),
]  # fmt: skip


def results(metric: Any, *pairs: tuple[str, str]) -> dict[str, float]:
    for answer, reference in pairs:
        metric.update([answer], [reference])
    found: dict[str, float] = metric.eval()
    return found


def needs(*packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)


@pytest.mark.parametrize(("answer", "reference", "values"), CHINESE)
def test_chinese_texts_score_as_with_upstreams_packages(
    answer: str, reference: str, values: tuple[float, ...]
) -> None:
    needs("jieba", "rouge_chinese")
    found = results(ADGENMetric(), (answer, reference))
    assert list(found) == ["rouge-1", "rouge-2", "rouge-l", "bleu-4"]
    assert list(found.values()) == pytest.approx(values, abs=5e-5)


def test_a_chinese_pair_is_what_one_counts_by_hand() -> None:
    """9 words and 10, of which 7 are in common; 15 characters and 18, of which 13 are."""
    needs("jieba", "rouge_chinese")
    found = results(ADGENMetric(), CHINESE[0][:2])
    assert found["rouge-1"] == pytest.approx(100 * 2 * 7 / (9 + 10), abs=1e-4)
    matches = ((13, 15), (9, 14), (6, 13), (3, 12))  # of 1 to 4 characters
    shares = 1.0
    for number, count in matches:
        shares *= number / count
    assert found["bleu-4"] == pytest.approx(
        100 * shares**0.25 * 2.718281828 ** (1 - 18 / 15), rel=1e-6
    )


def test_an_empty_answer_counts_as_nothing_in_the_mean() -> None:
    needs("jieba", "rouge_chinese")
    found = results(ADGENMetric(), ("中国的首都是北京。",) * 2, ("", "你好"))
    assert list(found.values()) == pytest.approx([50.0] * 4)


@pytest.mark.parametrize(("answer", "reference", "values"), ENGLISH)
def test_english_texts_score_as_with_rouge_score(
    answer: str, reference: str, values: tuple[float, ...]
) -> None:
    words, wanted = english_words(answer), english_words(reference)
    found = (rouge_n(words, wanted, 1), rouge_n(words, wanted, 2), rouge_l(words, wanted))
    assert [100 * each for each in found] == pytest.approx(values, abs=1e-5)


def test_english_bleu_is_sacrebleus_of_the_whole_set_and_not_a_mean() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    pairs = [(answer, reference) for answer, reference, _ in ENGLISH]
    found = results(EnglishTextMetric(), *pairs)
    whole = sacrebleu.corpus_bleu([a for a, _ in pairs], [[r for _, r in pairs]]).score
    assert found["en-bleu"] == pytest.approx(whole)
    assert found["en-rouge-l"] == pytest.approx((47.058824 + 50.0) / 3, abs=1e-5)


def test_sentence_bleu_of_a_long_text_is_sacrebleus_with_exponential_smoothing() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    answer = "the small model answers every question of the test in one line"
    reference = "the small model has answered each question of the test on one line today"
    theirs = sacrebleu.sentence_bleu(answer, [reference], smooth_method="exp").score
    assert 100 * sentence_bleu(answer.split(), reference.split()) == pytest.approx(theirs)


def test_exact_match_forgives_punctuation_and_f1_is_of_the_longest_run() -> None:
    needs("jieba")
    # Upstream's own example.
    found = results(
        EmF1Metric(),
        ("I love Beijing, because it's beautiful", "I love Beijing."),
        ("Hello world。", "Hello world"),
    )
    assert found == {"F1": pytest.approx(75.0), "Em": pytest.approx(50.0)}
    assert results(EmF1Metric(), ("郑州市。\n第二行", "郑州市"))["Em"] == 100.0
    # 1 of 2 characters of the answer, 1 of 3 of the reference.
    assert results(EmF1Metric(), ("郑张", "郑州市"))["F1"] == pytest.approx(100 * 2 / 5)


WANTED = 'weather\n{"city": "北京", "days": 2}'


@pytest.mark.parametrize(
    ("answer", "name", "arguments"),
    [
        ('weather\n{"days": 2, "city": "北京"}', 100, 100),
        ('weather\n{"city": "北京", "days": "2"}', 100, 0),
        ('wether\n{"city": "北京", "days": 2}', 0, 100),
        ('weather\n{"city": "北京"', 0, 0),
        ('\nLet me see.\nweather\n{"city": "北京", "days": 2}', 100, 100),
        ('weather\n{"city": "北京", "days": 2}weather\n{}', 0, 0),
        ("\nIt is sunny.", 0, 0),
    ],
)
def test_a_call_is_right_by_name_and_by_arguments(answer: str, name: int, arguments: int) -> None:
    found = results(ToolCallMetric(), (answer, WANTED))
    both = 100.0 if name == arguments == 100 else 0.0
    assert found == {
        "tool_name": name, "tool_arguments": arguments, "tool_call": both, "tool_calls": 1,
    }  # fmt: skip


def test_calls_where_none_is_wanted_are_told() -> None:
    found = results(ToolCallMetric(), (WANTED, "\nHello"), ("\nHello", "\nHello"), (WANTED, WANTED))
    assert found["tool_needless"] == 50.0
    assert found["tool_calls"] == 1
    assert found["tool_call"] == 100.0


@pytest.mark.parametrize(
    "text", ["\nweather\n{}", "two words\n{}", '{"a": 1}\n{}', "a\ntext", "f\n{broken"]
)
def test_plain_text_is_no_call(text: str) -> None:
    assert results(ToolCallMetric(), (text, text)) == {"tool_needless": 0.0, "tool_calls": 0}


def test_several_calls_are_right_only_together() -> None:
    both = 'f\n{"a": 1}g\n{}'
    assert results(ToolCallMetric(), (both, both))["tool_call"] == 100.0
    assert results(ToolCallMetric(), ('f\n{"a": 1}', both))["tool_call"] == 0.0


@pytest.mark.parametrize(
    ("metric", "package"),
    [(ADGENMetric, "rouge_chinese"), (EnglishTextMetric, "sacrebleu")],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    metric: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("jieba")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'mindformers\[eval\]'"):
        metric().check()


def test_the_names_of_a_yaml_file_are_registered() -> None:
    for name in (
        "PerplexityMetric",
        "ADGENMetric",
        "EmF1Metric",
        "EnglishTextMetric",
        "ToolCallMetric",
    ):
        assert MindFormerRegister.get_cls(MindFormerModuleType.METRIC, name).__name__ == name

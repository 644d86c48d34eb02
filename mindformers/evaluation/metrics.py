"""The metrics a YAML file names: upstream's and ours, each with ``clear``, ``update`` and ``eval``.

A metric that reads texts is given the model's answers and those of the data; ``PerplexityMetric`` is
given logits. They load no MindSpore.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, ClassVar

import numpy as np

from mindformers.evaluation.overlap import (
    f1,
    longest_common_run,
    rouge_l,
    rouge_n,
    sentence_bleu,
)
from mindformers.evaluation.score import TokenScore, score_logits, total
from mindformers.evaluation.words import english_words, jieba_words, mixed_words, without_marks
from mindformers.extras import import_extra
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.tokenizer.call_form import arguments_object
from mindformers.tokenizer.tool_calls import ToolCall, parse_answer

# A tool's name where a message of an answer begins, and an object below it.
_CALL_HEAD = re.compile(r"(?:\A|\}|<\|assistant\|>)([^\s{}\[\]()\"'<>]+)[ \t]*\n\s*\{")
_register = MindFormerRegister.register(MindFormerModuleType.METRIC)
Results = dict[str, float]


class TextMetric:
    """What compares answers with those of the data, both as texts.

    Attributes:
        needs_markup: It reads all that follows ``<|assistant|>``, a tool's name too.
    """

    needs_markup: ClassVar[bool] = False

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was compared."""
        self.pairs: list[tuple[str, str]] = []

    def update(self, answers: Sequence[str], references: Sequence[str]) -> None:
        """Compare some answers, each with the text of the same place in ``references``."""
        self.pairs += zip(answers, references, strict=True)

    def eval(self) -> Results:
        """Return the results by name, 0 to 100; empty where there was nothing to compare."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse to begin where a package is missing.

        Raises:
            MissingExtraError: With the line that installs it.
        """


@_register
class PerplexityMetric:
    """Loss and perplexity of the tokens that count, by token.

    Upstream's takes the mean of the batches, so that a batch of few trained tokens weighs as much as one of
    many; this one sums over the tokens.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self.score = TokenScore()

    def update(self, *inputs: Any) -> None:
        """Add a batch.

        Args:
            inputs: Logits (B, S + 1, V), labels (B, S + 1) and mask (B, S + 1), as a network that is not
                training gives them: position t of the logits foresees position t + 1 of the labels.
        """
        logits, labels, mask = (_array(each) for each in inputs)
        counts = mask[:, 1:] > 0
        found = score_logits(
            np.array(logits[:, :-1][counts], np.float32), labels[:, 1:][counts].astype(np.int32)
        )
        self.score = total([self.score, found])

    def eval(self) -> Results:
        """Return ``loss`` (nats) and ``PPL``."""
        return {"loss": self.score.mean_loss, "PPL": self.score.perplexity}


@_register
class ADGENMetric(TextMetric):
    """ROUGE-1, -2 and -L over jieba's words and BLEU-4 over characters, each the mean of the answers.

    As upstream defines it, but an empty answer counts as 0; upstream leaves it out of the mean.
    """

    def eval(self) -> Results:
        """Return ``rouge-1``, ``rouge-2``, ``rouge-l`` and ``bleu-4``, 0 to 100."""
        return _means(self._score(*pair) for pair in self.pairs)

    def check(self) -> None:
        """Refuse to begin without jieba and rouge-chinese."""
        jieba_words("")
        _chinese_rouge()

    @staticmethod
    def _score(answer: str, reference: str) -> Results:
        words, wanted = (" ".join(jieba_words(text)) for text in (answer, reference))
        if not words.strip() or not wanted.strip():
            return dict.fromkeys(("rouge-1", "rouge-2", "rouge-l", "bleu-4"), 0.0)
        found = _chinese_rouge().get_scores(words, wanted)[0]
        scores = {name: float(value["f"]) for name, value in found.items()}
        return {**scores, "bleu-4": sentence_bleu(list(answer), list(reference))}


@_register
class EnglishTextMetric(TextMetric):
    """BLEU of all answers together (sacrebleu), and the means of ROUGE-1, -2 and -L over English words."""

    def eval(self) -> Results:
        """Return ``en-bleu``, ``en-rouge-1``, ``en-rouge-2`` and ``en-rouge-l``, 0 to 100."""
        if not self.pairs:
            return {}
        answers, references = zip(*self.pairs, strict=True)
        bleu = _sacrebleu().corpus_bleu(list(answers), [list(references)]).score
        return {"en-bleu": float(bleu), **_means(self._score(*pair) for pair in self.pairs)}

    def check(self) -> None:
        """Refuse to begin without sacrebleu."""
        _sacrebleu()

    @staticmethod
    def _score(answer: str, reference: str) -> Results:
        words, wanted = english_words(answer), english_words(reference)
        return {
            "en-rouge-1": rouge_n(words, wanted, 1),
            "en-rouge-2": rouge_n(words, wanted, 2),
            "en-rouge-l": rouge_l(words, wanted),
        }


@_register
class EmF1Metric(TextMetric):
    """Share of answers that are the data's but for punctuation, and F1 of the longest run in common.

    As upstream: the first line of an answer counts.
    """

    def eval(self) -> Results:
        """Return ``F1`` and ``Em``, 0 to 100."""
        return _means(self._score(*pair) for pair in self.pairs)

    def check(self) -> None:
        """Refuse to begin without jieba."""
        jieba_words("")

    @staticmethod
    def _score(answer: str, reference: str) -> Results:
        answer = answer.strip().split("\n")[0]
        words, wanted = mixed_words(answer), mixed_words(reference)
        common = longest_common_run(wanted, words)
        return {
            "F1": f1(common, len(words), len(wanted)),
            "Em": float(without_marks(answer) == without_marks(reference)),
        }


@_register
class ToolCallMetric(TextMetric):
    """Calls of tools: are they made where the data makes one, of the right tool, with its arguments?"""

    needs_markup = True

    def eval(self) -> Results:
        """Return ``tool_name``, ``tool_arguments`` and ``tool_call`` (both right), 0 to 100.

        Of the rows whose answer is a call; ``tool_calls`` is their number, ``tool_needless`` the share of the
        other rows that are answered by a call. A call whose arguments are no JSON object is none.
        """
        scores, needless = [], []
        for answer, reference in self.pairs:
            wanted = _calls(reference)
            made = _calls(answer, (call.name for call in wanted))
            if wanted:
                scores.append(self._score(made, wanted))
            else:
                needless.append(bool(made))
        results: Results = _means(scores)
        if needless:
            results["tool_needless"] = 100.0 * fmean(needless)
        return {**results, "tool_calls": len(scores)}

    @staticmethod
    def _score(made: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> Results:
        name = [each.name for each in made] == [each.name for each in wanted]
        arguments = [arguments_object(each.arguments) for each in made] == [
            arguments_object(each.arguments) for each in wanted
        ]
        return {
            "tool_name": float(name),
            "tool_arguments": float(arguments),
            "tool_call": float(name and arguments),
        }


def _calls(text: str, names: Iterable[str] = ()) -> Sequence[ToolCall]:
    """Return the calls of an answer: of the tools named, and of any named where a message begins."""
    found = dict.fromkeys([*names, *_CALL_HEAD.findall(text)])
    tools = [{"type": "function", "function": {"name": name}} for name in found]
    return parse_answer(text, tools, "stop").tool_calls


def _means(scores: Iterable[Results]) -> Results:
    """Return the means of scores of 0 to 1, as 0 to 100."""
    found = list(scores)
    names = found[0] if found else {}
    return {name: 100.0 * fmean(each[name] for each in found) for name in names}


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.asnumpy() if hasattr(values, "asnumpy") else values)


def _chinese_rouge() -> Any:
    return import_extra("rouge_chinese", "ROUGE of Chinese texts", "eval").Rouge()


def _sacrebleu() -> Any:
    return import_extra("sacrebleu", "BLEU of English texts", "eval")

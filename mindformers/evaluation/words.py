"""Texts as words: Chinese by jieba, English by letters and digits, both mixed as upstream's EmF1Metric does."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from mindformers.extras import import_extra

# Upstream's list: what a text may have or lack and still be the same answer.
_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile(r"[\u4e00-\u9fa5]")
_ENGLISH = re.compile(r"[a-z0-9]+")


@cache
def _jieba() -> Any:
    module = import_extra("jieba", "cutting Chinese texts into words", "eval")
    module.setLogLevel(logging.WARNING)  # it tells where it keeps its dictionary
    return module


def jieba_words(text: str) -> list[str]:
    """Return the words of a text, blanks among them."""
    return list(_jieba().cut(text))


def english_words(text: str) -> list[str]:
    """Return the runs of letters and digits, in lower case (rouge-score's words, without stemming)."""
    return _ENGLISH.findall(text.lower())


def mixed_words(text: str) -> list[str]:
    """Return Chinese characters one by one and the words between them, without punctuation."""
    words: list[str] = []
    other = ""
    for character in without_marks(text):
        if _CHINESE.match(character):
            words += [*(jieba_words(other) if other else []), character]
            other = ""
        else:
            other += character
    return words + (jieba_words(other) if other else [])


def without_marks(text: str) -> str:
    """Return a text in lower case without punctuation."""
    return "".join(each for each in text.lower().strip() if each not in _MARKS)

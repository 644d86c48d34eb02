"""A tokenizer over the tiny vocabulary, and one over the published one where that is at hand."""

from __future__ import annotations

import logging

import pytest

import mindformers.logger
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.shared import shared_file
from tests.support.vocab import write_tiny_vocab


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture
def tiny(tiny_file):
    return ChatGLM4Tokenizer(tiny_file)


@pytest.fixture(scope="session")
def published():
    return ChatGLM4Tokenizer(shared_file("data/glm4_tokenizer.model"))


@pytest.fixture
def fresh_log(caplog, monkeypatch):
    """The package's log of this test, whatever earlier tests logged once or set up."""
    monkeypatch.setattr(mindformers.logger, "_seen_once", set())
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    return caplog

"""A tiny SentencePiece model of ChatGLM's kind: BPE, bytes for what is unknown, nothing normalised."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import pytest

_TEXT = """Hello world, this is a small model. How are you today? I am fine, thank you.
What is the capital of France? The capital of France is Paris. One two three four five.
你好，世界。我是一个小模型。今天天气很好，我们去北京。人工智能助手可以回答问题。
[Round 1] 问：你好 答：你好！有什么可以帮你的吗？ [Round 2] 问：天气 答：很好。
user assistant system observation sop eop MASK gMASK"""


@lru_cache(maxsize=2)
def tiny_model(remove_blanks: bool = False) -> bytes:
    """Return the bytes of a trained model, the same on every call."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    file = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(_TEXT.splitlines()),
        model_writer=file,
        model_type="bpe",
        vocab_size=400,
        character_coverage=0.98,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=remove_blanks,
        num_threads=1,
        minloglevel=2,
    )
    return file.getvalue()


def write_tiny_model(folder: Path, remove_blanks: bool = False) -> Path:
    """Write ``tokenizer.model`` into ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.model"
    path.write_bytes(tiny_model(remove_blanks))
    return path

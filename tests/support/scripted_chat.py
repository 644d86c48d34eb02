"""``mindformers chat`` with a model that repeats what it is told; run as a program of its own.

The first argument is the folder of a vocabulary, the rest are those of the command. Questions that begin
with ``slow`` are answered slowly, ``call NAME ARGUMENTS`` calls a tool, ``raw`` writes control characters,
``cut`` ends at a limit.
"""

from __future__ import annotations

import sys
from typing import Any

import mindformers.tasks.chat
from mindformers.cli.main import main
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from tests.support.scripted_model import ScriptedNetwork


def answer_to(prompt: str) -> str:
    asked = prompt.rpartition("<|user|>\n")[2].removesuffix("<|assistant|>")
    question, _, told = asked.partition("<|observation|>\n")
    if told:
        return f"\nthe tool said {told}<|user|>"
    word, _, rest = question.partition(" ")
    said = {
        "slow": "\n" + " ".join(map(str, range(2000))) + "<|user|>",
        "call": rest.replace(" ", "\n", 1) + "<|observation|>",
        "raw": "\n\x1b[2Jhidden\x07<|user|>",
        "cut": "\nnever done",
    }
    return said.get(word, f"\nyou said: {question}<|user|>")


def run(folder: str, arguments: list[str]) -> int:
    tokenizer = ChatGLM4Tokenizer(f"{folder}/tokenizer.model")
    seconds = 0.01 if arguments[1:] and arguments[1] == "slowly" else 0.0
    network: Any = ScriptedNetwork(answer_to, seconds)
    mindformers.tasks.chat.open_chat = lambda *_: (network, tokenizer)
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))

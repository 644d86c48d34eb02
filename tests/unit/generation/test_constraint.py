"""Constraints: random walks through what is allowed always end in what was asked for."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindformers.errors import FormError, GenerationError, MissingExtraError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.constraint import GrammarCompiler
from mindformers.generation.engine import generate
from mindformers.models.glm2.glm3_tokenizer import ChatGLM3Tokenizer
from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer
from mindformers.tokenizer.tool_calls import DIALECTS, parse_answer
from mindformers.tokenizer.tool_schema import argument_problems, schema_problems
from tests.support.dialects import dialect_tokenizer
from tests.support.generation import FakeRunner
from tests.support.sentence_pieces import write_tiny_model
from tests.support.vocab import write_tiny_vocab

pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
PADDING = 60  # rows of the head above the vocabulary
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
        "at": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 2},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "number"}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "weather_at", "parameters": {"type": "object", "properties": {}}}},
    {"type": "python"},
]  # fmt: skip
FUNCTIONS = TOOLS[:2]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(params=DIALECTS, scope="module")
def dialect(request: pytest.FixtureRequest) -> str:
    return request.param


class Walker:
    """Draws answers token by token from what a constraint allows; short ones are likelier."""

    def __init__(self, tokenizer: ChatGLM4Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer) + PADDING
        self.compiler = GrammarCompiler(tokenizer, self.size)
        special = tokenizer.special_tokens
        self.ends = [special[text] for text in tokenizer.end_tokens]
        closing = [special[text] for text in special if text.startswith("</")]
        self.closing = [*closing, *(tokenizer.encode_text(mark)[0] for mark in '"}]')]

    def walk(self, opener: Any, rng: np.random.Generator, limit: int = 600) -> tuple[str, str]:
        """Return an answer's text and the token that ended it; empty when the limit did."""
        constraint, ids = opener(), []
        for _ in range(limit):
            allowed = constraint.allowed()
            assert allowed.shape == (self.size,)
            assert allowed.dtype == bool
            assert not allowed[len(self.tokenizer) :].any()
            token = self._draw(allowed, rng)
            constraint.accept(token)
            if token in self.ends:
                assert np.flatnonzero(constraint.allowed()).tolist() == [
                    end for end in sorted(self.ends) if allowed[end]
                ]
                return self._text(ids), str(self.tokenizer.convert_ids_to_tokens(token))
            ids.append(token)
        return self._text(ids), ""

    def _draw(self, allowed: np.ndarray, rng: np.random.Generator) -> int:
        for preferred in (self.ends, self.closing):
            choices = [token for token in preferred if allowed[token]]
            if choices and rng.random() < 0.5:
                return int(rng.choice(choices))
        return int(rng.choice(np.flatnonzero(allowed)))

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, spaces_between_special_tokens=False))


@pytest.fixture(scope="module")
def walker(vocab: Path, dialect: str) -> Walker:
    return Walker(dialect_tokenizer(vocab, dialect))


@pytest.fixture(scope="module")
def plain(vocab: Path) -> Walker:
    return Walker(dialect_tokenizer(vocab, "glm4"))


def seeds(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def without_thoughts(text: str) -> str:
    return text.rpartition("</think>")[2]


def test_json_mode_gives_one_object_and_ends(walker: Walker) -> None:
    opener = walker.compiler.json()
    ended = 0
    for rng in seeds(12):
        text, end = walker.walk(opener, rng)
        if end:
            ended += 1
            assert end in ("<|endoftext|>", "<|user|>")
            assert isinstance(json.loads(without_thoughts(text)), dict)
    assert ended > 6


def test_a_schema_is_kept_to(walker: Walker) -> None:
    schema = {
        **WEATHER,
        "properties": {**WEATHER["properties"], "odd": {"pattern": "^(ab|c)+$", "type": "string"}},
    }
    schema["required"] = ["city", "odd"]
    opener = walker.compiler.json(schema)
    for rng in seeds(12):
        text, end = walker.walk(opener, rng)
        assert end
        assert schema_problems(json.loads(without_thoughts(text)), schema) == []


def test_required_calls_are_of_given_tools_with_arguments_that_fit(
    walker: Walker, dialect: str
) -> None:
    opener = walker.compiler.tool_calls(FUNCTIONS, "required", dialect)
    names, most = set(), 0
    for rng in seeds(16):
        text, end = walker.walk(opener, rng)
        assert end == "<|observation|>"
        parsed = parse_answer(text, FUNCTIONS, "tool_calls", dialect)
        assert parsed.finish_reason == "tool_calls"
        assert without_thoughts(parsed.content).strip() == ""
        for call in parsed.tool_calls:
            # Lengths of bare strings are beyond GLM-4.5's form.
            problems = argument_problems(call, FUNCTIONS)
            assert [
                each for each in problems if dialect != "glm45" or "character" not in each
            ] == []
        names |= {call.name for call in parsed.tool_calls}
        most = max(most, len(parsed.tool_calls))
    assert names == {"weather", "weather_at"}
    assert most > 1


def test_a_named_tool_is_called_once(walker: Walker, dialect: str) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    opener = walker.compiler.tool_calls(FUNCTIONS, choice)
    for rng in seeds(6):
        text, _ = walker.walk(opener, rng)
        parsed = parse_answer(text, FUNCTIONS, "tool_calls", dialect)
        assert [call.name for call in parsed.tool_calls] == ["weather"]


def test_one_call_at_a_time_when_asked_for(walker: Walker, dialect: str) -> None:
    opener = walker.compiler.tool_calls(FUNCTIONS, "required", is_parallel=False)
    for rng in seeds(8):
        text, _ = walker.walk(opener, rng)
        assert len(parse_answer(text, FUNCTIONS, "tool_calls", dialect).tool_calls) == 1


def test_auto_leaves_the_choice(plain: Walker) -> None:
    opener = plain.compiler.tool_calls(TOOLS)
    encode, special = plain.tokenizer.encode_text, plain.tokenizer.special_tokens
    called = [
        *encode('weather\n{"city":"a","unit":"C"}'),
        special["<|assistant|>"],
        *encode("python\n1"),
    ]
    for ids in (
        [*encode("\nHello"), special["<|user|>"]],
        [*called, special["<|observation|>"]],
        [*encode("\nLet me see."), special["<|assistant|>"], *called, special["<|observation|>"]],
    ):
        constraint = opener()
        for token in ids:
            assert constraint.allowed()[token]
            constraint.accept(token)
    constraint = opener()
    for token in encode("weat"):
        constraint.accept(token)
    assert not constraint.allowed()[special["<|user|>"]]  # a name must be whole


def test_a_plain_answer_beside_tools_can_be_held_to_a_schema(walker: Walker, dialect: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    opener = walker.compiler.tool_calls(TOOLS[:1], plain=schema)
    kinds = set()
    for rng in seeds(24):
        text, end = walker.walk(opener, rng)
        if not end:
            continue
        answer = parse_answer(text, TOOLS[:1], "tool_calls", dialect)
        if answer.tool_calls:
            kinds.add("call")
            assert answer.tool_calls[0].name == "weather"
        else:
            kinds.add("json")
            assert schema_problems(json.loads(without_thoughts(answer.content)), schema) == []
    assert kinds == {"call", "json"}
    text, _ = walker.walk(walker.compiler.tool_calls(TOOLS[:1], "none", plain=schema), seeds(1)[0])
    assert schema_problems(json.loads(without_thoughts(text)), schema) == []


def test_none_calls_nothing(walker: Walker, dialect: str) -> None:
    opener = walker.compiler.tool_calls(TOOLS, "none")
    for rng in seeds(6):
        text, end = walker.walk(opener, rng)
        assert end != "<|observation|>"
        assert "<tool_call>" not in text
        assert "<|assistant|>" not in text


def test_a_builtin_tool_takes_any_text(plain: Walker) -> None:
    opener = plain.compiler.tool_calls(TOOLS, {"type": "python"})
    text, end = plain.walk(opener, np.random.default_rng(3))
    assert end == "<|observation|>"
    assert text.startswith("python\n")


def test_a_copy_goes_its_own_way(plain: Walker) -> None:
    first = plain.compiler.json({"enum": ["ab", "cd"]})()
    for token in plain.tokenizer.encode_text('"'):
        first.accept(token)
    second = first.copy()
    first.accept(ord("a"))
    assert first.allowed()[ord("b")]
    assert second.allowed()[ord("a")]
    assert second.allowed()[ord("c")]
    with pytest.raises(GenerationError, match="token 98 cannot come next"):
        second.accept(ord("b"))


def test_answers_of_one_grammar_do_not_meet(plain: Walker) -> None:
    opener = plain.compiler.json()
    first, second = opener(), opener()
    first.accept(ord("{"))
    assert second.allowed()[ord("{")]
    assert not second.allowed()[ord("}")]
    assert first.allowed()[ord("}")]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "integer", "minimum": 5, "maximum": 3},
            "minimum .5. is greater than maximum .3.",
        ),
        ({"not": {}}, r'json_schema: no answer can be held to it: Unimplemented keys: \["not"\]'),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        (
            {"type": "string", "pattern": "("},
            "json_schema.pattern: the pattern '[(]' is no regular",
        ),
        ({"$ref": "#"}, "a [$]ref leads back to itself"),
        ([1], "a schema cannot be a list"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(
    plain: Walker, schema: Any, message: str
) -> None:
    with pytest.raises(GenerationError, match=message):
        plain.compiler.json(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"const": "x" * 20_000}, "too many states"),
        (
            {"type": "object", "properties": {f"a{n}": {"type": "null"} for n in range(1000)}},
            "Current row has",
        ),
    ],
)
def test_a_grammar_that_grows_too_large_is_refused_before_any_answer_begins(
    plain: Walker, schema: Any, message: str
) -> None:
    kept = plain.compiler._compile.cache_info().currsize
    with pytest.raises(FormError, match=f"json_schema: no answer can be held to it: .*{message}"):
        plain.compiler.json(schema)
    assert plain.compiler._compile.cache_info().currsize == kept


def test_a_tool_s_schema_beyond_the_grammar_is_kept_to_as_far_as_it_goes(plain: Walker) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 1}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": odd}}
    assert plain.walk(plain.compiler.tool_calls([tool], "required"), np.random.default_rng(0))[1]
    tool["function"]["strict"] = True
    with pytest.raises(GenerationError, match='tools: no answer.*Unimplemented keys: ."not".'):
        plain.compiler.tool_calls([tool])


def test_tools_and_choices_are_checked(plain: Walker) -> None:
    with pytest.raises(GenerationError, match=r"tools\[0\].function.name: the name is 'a b'"):
        plain.compiler.tool_calls([{"name": "a b"}])
    with pytest.raises(
        GenerationError, match="tool_choice: there is no tool 'wether'.*mean 'weather'"
    ):
        plain.compiler.tool_calls(TOOLS, {"function": {"name": "wether"}})
    with pytest.raises(
        GenerationError, match="tool_choice: a call is required, and there is no tool"
    ):
        plain.compiler.tool_calls([{"type": "python"}], "required", "glm4_0414")
    with pytest.raises(GenerationError, match="has no token '<arg_key>', with which glm45 writes"):
        plain.compiler.tool_calls(FUNCTIONS, "auto", "glm45")


def test_sentence_pieces_are_refused(tmp_path: Path) -> None:
    tokenizer = ChatGLM3Tokenizer(write_tiny_model(tmp_path))
    with pytest.raises(GenerationError, match="ChatGLM3Tokenizer has a SentencePiece vocabulary"):
        GrammarCompiler(tokenizer, len(tokenizer))


def test_the_package_that_is_missing_is_named(
    plain: Walker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'mindformers\[constrain\]'"):
        GrammarCompiler(plain.tokenizer, plain.size)


def test_grammars_are_compiled_once_and_few_are_kept(vocab: Path) -> None:
    tokenizer = dialect_tokenizer(vocab, "glm4")
    compiler = GrammarCompiler(tokenizer, len(tokenizer))
    for number in range(300):
        compiler.json({"const": number})
    info = compiler._compile.cache_info()
    assert info.currsize == info.maxsize < 100
    assert info.misses == 300
    compiler.json({"const": 299})
    assert compiler._compile.cache_info().hits == 1


WORDS = st.sampled_from(
    ["type", "properties", "items", "$ref", "allOf", "anyOf", "required", "enum", "const", "pattern",
     "minItems", "prefixItems", "$defs", "patternProperties", "additionalProperties", "multipleOf", "a"]
)  # fmt: skip
LEAVES = st.sampled_from([None, 1, -1, "a", "(", "#", "#/$defs/a", "object", "string", True, 1.5])
SCHEMAS = st.dictionaries(
    WORDS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(SCHEMAS)
def test_any_schema_is_taken_or_refused(walker: Walker, schema: dict[str, Any]) -> None:
    tools = [{"name": "f", "parameters": schema}]
    for open_form in (
        lambda: walker.compiler.json(schema),
        lambda: walker.compiler.tool_calls(tools, "required"),
    ):
        with suppress(GenerationError):
            assert open_form()().allowed().any()


def test_threads_share_a_compiler(vocab: Path) -> None:
    tokenizer = dialect_tokenizer(vocab, "glm4")
    compiler = GrammarCompiler(tokenizer, len(tokenizer))

    def answer(number: int) -> int:
        constraint = compiler.json({"const": number % 7})()
        for token in tokenizer.encode_text(str(number % 7)):
            assert constraint.allowed()[token]
            constraint.accept(token)
        return int(constraint.allowed().sum())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(answer, range(200))) == {2}  # the two ends of a plain answer


def test_generate_keeps_to_a_constraint(plain: Walker) -> None:
    """The runner would rather say anything else; penalties and draws do not matter, and rows not meet."""
    logits = np.linspace(1, 0, plain.size, dtype=np.float32)
    form = plain.compiler.json({"enum": ["ab", "cd"]})
    for choice in ({}, {"do_sample": True, "temperature": 2.0, "repetition_penalty": 1.5}):
        config = GenerationConfig(max_new_tokens=60, eos_token_id=plain.ends, **choice)
        output = generate(
            FakeRunner(lambda ids: logits, plain.size, 100), [[1, 2], [3]], config,
            constraint=form, tokenizer=plain.tokenizer, seed=0,
        )  # fmt: skip
        for row, length in zip(output.sequences, (2, 1), strict=True):
            answer = plain.tokenizer.decode(row[length:], skip_special_tokens=True)
            assert json.loads(answer) in ("ab", "cd")
        assert output.finish_reasons == ["stop", "stop"]

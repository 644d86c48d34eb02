"""Answers held to a form: JSON, a JSON schema, or calls of given tools. Needs the extra ``constrain``.

``GrammarCompiler`` turns what is asked for into a grammar over a model's tokens, once; each answer then
opens a ``TokenConstraint`` of its own, which tells the tokens that may come next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import numpy as np

from mindformers.errors import FormError, GenerationError, TokenizerError
from mindformers.extras import import_extra
from mindformers.generation.array import Array
from mindformers.generation.call_grammar import CallGrammar
from mindformers.generation.request import Constraint
from mindformers.tokenizer.schema_checks import check_schema
from mindformers.tokenizer.tool_calls import callable_tools, dialect_of
from mindformers.tokenizer.tool_choice import chosen_tools
from mindformers.tokenizer.tool_schema import check_tools

CALL_END = "<|observation|>"  # ends an answer that waits for the result of its calls
_KEPT = 32  # compiled grammars; each may grow to some megabytes
_LEXER_STATES = 20_000  # of one grammar, 1 to 2 kB each
_GRAMMAR_SIZE = 200_000  # symbols of one grammar
_TRIAL_TOKENS = 4  # of an answer, after which most grammars that are too large have shown it

_LISTING = re.compile(r"^ *\d+ \|.*$", re.M)  # lines of a grammar in a library's message

Opener = Callable[[], Constraint]


class GrammarCompiler:
    """Compiles grammars for one vocabulary; threads may share it.

    The most recently used grammars are kept, so that a schema is compiled once however often it is asked
    for, and memory stays bounded however many there are.

    Args:
        tokenizer: The model's, of GLM-4's kind.
        vocab_size: V, length of a row of logits; ids without a token are never allowed.

    Raises:
        MissingExtraError: If llguidance is not installed.
        GenerationError: If the tokenizer is a SentencePiece one, whose tokens have no bytes of their own.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self._guidance = import_extra("llguidance", "an answer held to a form", "constrain")
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._special: dict[str, int] = tokenizer.special_tokens
        self._tokens = token_bytes(tokenizer, vocab_size)
        self._ends = frozenset(self._special[each] for each in tokenizer.end_tokens)
        self._call_ends = self._ends & {self._special.get(CALL_END, -1)}
        self._lock = Lock()
        self._compile = lru_cache(_KEPT)(self._compile_now)

    def json(self, schema: Mapping[str, Any] | None = None) -> Opener:
        """Return what holds an answer to one JSON text, after which it ends.

        Args:
            schema: What the text has to fit; None: any object.

        Raises:
            GenerationError: If the schema is malformed, beyond the limits, or says what cannot be held to.
        """
        schema = {"type": "object"} if schema is None else schema
        _checked(check_schema, schema, "json_schema")
        grammar = CallGrammar(self._special, dialect_of(self._tokenizer)).json(schema)
        return self._opener(grammar, self._ends - self._call_ends, "json_schema")

    def tool_calls(
        self,
        tools: Sequence[Mapping[str, Any]],
        choice: Any = "auto",
        dialect: str = "",
        *,
        is_parallel: bool = True,
        plain: Mapping[str, Any] | None = None,
    ) -> Opener:
        """Return what holds an answer to calls of given tools, with arguments that fit their schemas.

        What a tool's schema says beyond the grammar's means is left out, unless the tool is ``strict``.

        Args:
            tools: As for ``normalise_tools``.
            choice: ``auto``: a plain answer or calls, ``required``: calls, ``none``: a plain answer,
                ``{"type": "function", "function": {"name": NAME}}``: one call of that tool.
            dialect: How the model writes calls; empty: as its tokenizer's chat template does.
            is_parallel: Several calls may be made at once; never of a tool that is named.
            plain: Schema that a plain answer, where there may be one, has to fit as JSON; None: none.

        Raises:
            GenerationError: If the tools, the choice or a schema cannot be used.
        """
        dialect = dialect or dialect_of(self._tokenizer)
        checked = callable_tools(_checked(check_tools, tools, "tools"), dialect)
        allowed, mode = _checked(chosen_tools, checked, choice)
        grammar = CallGrammar(self._special, dialect)
        if not allowed and plain is not None:
            return self.json(plain)
        if plain is not None:
            _checked(check_schema, plain, "json_schema")
        if not allowed:
            return self._opener(grammar.text(), self._ends - self._call_ends, "tools")
        text = grammar.calls(
            allowed,
            is_forced=mode != "auto",
            is_parallel=is_parallel and mode != "named",
            plain=plain,
        )
        return self._opener(text, self._ends if mode == "auto" else self._call_ends, "tools")

    def _opener(self, grammar: str, ends: frozenset[int], where: str) -> Opener:
        try:
            matcher = self._compile(grammar)
        except FormError as error:
            raise FormError(error.found, where=where, fix=error.fix) from error
        other_ends = sorted(self._ends - ends)
        size = self._vocab_size
        return lambda: TokenConstraint(matcher.deep_copy(), sorted(ends), other_ends, size)

    def _compile_now(self, grammar: str) -> Any:
        guidance = self._guidance
        limits = guidance.LLParserLimits(
            max_lexer_states=_LEXER_STATES, max_grammar_size=_GRAMMAR_SIZE, verbose_errors=False
        )
        matcher = guidance.LLMatcher(self._vocabulary, grammar, limits=limits, log_level=0)
        if matcher.is_error():
            raise _too_much(matcher)
        self._try(matcher.deep_copy())
        return matcher

    @staticmethod
    def _try(matcher: Any) -> None:
        """Begin an answer: what is only found out then had better be before others share steps with it."""
        for _ in range(_TRIAL_TOKENS):
            if matcher.is_stopped():
                break
            (tokens,) = np.nonzero(_bits(matcher))
            if not len(tokens) or not matcher.consume_token(int(tokens[0])):
                break
        if matcher.is_error():
            raise _too_much(matcher)

    @property
    def _vocabulary(self) -> Any:
        with self._lock:  # made once, by whichever thread comes first
            return self._built_vocabulary

    @cached_property
    def _built_vocabulary(self) -> Any:
        wrapped = _Wrapped(self._tokens, sorted(self._special.values()), self._tokenizer)
        ends = sorted(self._ends)
        return self._guidance.LLTokenizer(wrapped, n_vocab=self._vocab_size, eos_token=ends)


@lru_cache(maxsize=2)
def compiler_of(tokenizer: Any, vocab_size: int) -> GrammarCompiler:
    """Return the compiler of a tokenizer, made once; see ``GrammarCompiler``."""
    return GrammarCompiler(tokenizer, vocab_size)


class _Wrapped:
    """A tokenizer as llguidance reads it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], tokenizer: Any) -> None:
        self.tokens, self.special_token_ids, self._tokenizer = tokens, special, tokenizer
        self.eos_token_id = tokenizer.eos_token_id

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode_text(text)
        return ids


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
    """Return the bytes of every id below ``vocab_size``; none for an id without a token.

    Raises:
        GenerationError: If the tokenizer's tokens are pieces of SentencePiece.
    """
    special = tokenizer.special_tokens
    tokens = [b""] * vocab_size
    for token, number in tokenizer.get_vocab().items():
        if isinstance(token, str) and token not in special:
            raise GenerationError(
                f"{type(tokenizer).__name__} has a SentencePiece vocabulary, and answers of ChatGLM2 "
                "and ChatGLM3 cannot be held to a form",
                allowed="GLM-4's vocabulary",
            )
        if number < vocab_size:
            tokens[number] = token.encode("utf-8") if isinstance(token, str) else token
    return tokens


def _checked(check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except TokenizerError as error:
        raise GenerationError(
            error.found, where=error.where, allowed=error.allowed, fix=error.fix
        ) from error


def _bits(matcher: Any) -> Array:
    """Return which tokens a matcher lets come next, one 0 or 1 each, to the next whole byte."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")


def _too_much(matcher: Any) -> FormError:
    """Return the error of a matcher that goes on no longer."""
    message = matcher.get_error()
    return FormError(f"no answer can be held to it: {_reason(message)}", fix="simplify the schema")


def _reason(message: str) -> str:
    """Return what a library's message says, on one line, without its places in a grammar of ours."""
    said = message.rpartition("failed to compile JSON schema:")[2]
    return " ".join(_LISTING.sub("", said).split())[:300]


class TokenConstraint:
    """Which tokens may come next in one answer.

    Args:
        matcher: llguidance's state, the answer's own.
        ends: Ids that end the answer, allowed when it is complete.
        other_ends: Ids that end answers of another kind, never allowed.
        vocab_size: V.
    """

    def __init__(
        self, matcher: Any, ends: Sequence[int], other_ends: Sequence[int], vocab_size: int
    ) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size
        self._ends, self._other_ends = list(ends), list(other_ends)
        self._has_ended = False

    def allowed(self) -> Array:
        """Return the ids that may come next, (V,) bool; at least one is True.

        Raises:
            FormError: If the grammar has become too large to go on.
        """
        mask = np.zeros(self._vocab_size, bool)
        is_complete = self._has_ended or self._matcher.is_accepting()
        if not self._has_ended and not self._matcher.is_stopped():
            mask = _bits(self._matcher)[: self._vocab_size].view(bool)
            mask[self._other_ends] = False
        mask[self._ends] = is_complete
        if self._matcher.is_error() or not mask.any():
            raise _too_much(self._matcher)
        return mask

    def accept(self, token: int) -> None:
        """Take the token that was chosen.

        Raises:
            FormError: If it was not allowed, or the grammar has become too large to go on.
        """
        is_end = token in self._ends
        if is_end and (self._has_ended or self._matcher.is_accepting()):
            self._has_ended = True
        elif is_end or self._has_ended or not self._matcher.consume_token(int(token)):
            why = _reason(self._matcher.get_error())
            raise FormError(f"token {token} cannot come next in the form asked for. {why}".strip())

    def copy(self) -> TokenConstraint:
        """Return the same state once more."""
        copied = TokenConstraint(
            self._matcher.deep_copy(), self._ends, self._other_ends, self._vocab_size
        )
        copied._has_ended = self._has_ended
        return copied

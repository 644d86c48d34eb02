"""Run a chat template that came with a model folder: no Python access, bounded time, memory and output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from types import MethodType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from mindformers.errors import TokenizerError
from mindformers.tokenizer.json_text import to_json

MAX_SOURCE_CHARS = 256 * 2**10
MAX_CHARS = 64 * 2**20  # of one value, and of all values printed; a million tokens have some 5 MB
MAX_SECONDS = 10.0
_MAX_INTEGER_BITS = 4096

# Each of these makes a short text long in one call, or reads what the conversation does not hold.
_REFUSED_METHODS = frozenset(
    "format format_map translate expandtabs center ljust rjust zfill encode".split()
)
_REFUSED_FILTERS = (
    "format center indent wordwrap batch slice pprint random xmlattr urlize filesizeformat striptags attr".split()
)


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.printed = 0

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it runs longer than {MAX_SECONDS:g} seconds")

    def count(self, value: Any) -> None:
        self.printed += len(value) if isinstance(value, str) else 1
        if self.printed > MAX_CHARS:
            raise SecurityError(f"it prints more than {MAX_CHARS:,} characters")
        self.tick()


_active: ContextVar[_Budget | None] = ContextVar("template_budget", default=None)


def _bounded(value: Any) -> Any:
    if isinstance(value, str | bytes | list | tuple) and len(value) > MAX_CHARS:
        raise SecurityError(f"it builds a value of more than {MAX_CHARS:,} characters")
    return value


def _print(value: Any) -> Any:
    budget = _active.get()
    if budget is not None:
        budget.count(value)
    return value


def _ticking(iterable: Iterable[Any]) -> Iterator[Any]:
    budget = _active.get()
    for item in iterable:
        if budget is not None:
            budget.tick()
        yield item


def _concat(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > MAX_CHARS:
        raise SecurityError(f"it builds a value of more than {MAX_CHARS:,} characters")
    return "".join(texts)


def _check_growth(name: str, subject: Any, arguments: tuple[Any, ...]) -> None:
    """Refuse the two text operations whose result can be the product of their inputs."""
    size = 0
    if name == "replace" and len(arguments) > 1 and isinstance(subject, str):
        old, new = str(arguments[0]), str(arguments[1])
        size = (subject.count(old) if old else len(subject) + 1) * len(new)
    elif name == "join" and arguments and hasattr(arguments[0], "__len__") and hasattr(subject, "__len__"):
        size = len(arguments[0]) * len(subject)
    if size > MAX_CHARS:
        raise SecurityError(f"{name} builds a text of more than {MAX_CHARS:,} characters")


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)  # copies the marks by which Jinja knows that a filter wants the context
    def run(*args: Any, **kwargs: Any) -> Any:
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0
        if len(args) > skip:
            _check_growth(name, args[skip], (*args[skip + 1 :], *kwargs.values()))
        return _bounded(function(*args, **kwargs))

    return run


class _Instrument(NodeTransformer):
    """Pass loops and ``~`` through functions that watch the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (Jinja's naming)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_ticking", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concat", [], [], None, None, lineno=node.lineno)


class _GenerationBlock(Extension):
    """``{% generation %}...{% endgeneration %}`` marks the answer in some templates; its text is printed as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's template dialect inside Jinja's sandbox, with bounds on what a template may use."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_print,
            optimized=False,  # constant folding would run template code before the bounds are set
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
        )
        for name in _REFUSED_FILTERS:
            self.filters.pop(name, None)
        self.filters = {name: _guarded(name, function) for name, function in self.filters.items()}
        self.filters.update(tojson=to_json, _ticking=_ticking, _concat=_concat)
        self.globals.pop("lipsum", None)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Instrument().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Tell whether a template may read ``obj.attr``."""
        if isinstance(obj, str | bytes) and attr in _REFUSED_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, a macro or a method for the template."""
        budget = _active.get()
        if budget is not None:
            budget.tick()
        if isinstance(getattr(__obj, "__self__", None), str) and not isinstance(__obj, MethodType):
            # ", ".join(items): the subject is the separator
            subject, rest = __obj.__self__, args
            _check_growth(__obj.__name__, subject, rest)
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` unless the result is beyond the bounds."""
        if operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("text formatting with % is not available")
        if operator in ("*", "**"):
            _check_product(operator, left, right)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _bounded_size(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


def _bounded_size(size: int) -> None:
    if size > MAX_CHARS:
        raise SecurityError(f"it builds a value of more than {MAX_CHARS:,} characters")


def _check_product(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_INTEGER_BITS:
            raise SecurityError(f"it builds a number of more than {_MAX_INTEGER_BITS} bits")
    for sequence, count in ((left, right), (right, left)):
        if hasattr(sequence, "__len__") and isinstance(count, int):
            _bounded_size(len(sequence) * count)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(str(pattern)[:200])


class CompiledTemplate:
    """A template ready to render.

    Attributes:
        source: Its text.
        variables: The names it reads from outside.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._template: Template = _environment().from_string(source)
        self.variables = frozenset(meta.find_undeclared_variables(_environment().parse(source)))

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text the template makes of ``variables``.

        Raises:
            TokenizerError: If the template fails, does what the sandbox refuses, or exceeds a bound.
        """
        token = _active.set(_Budget())
        try:
            return "".join(self._template.generate(dict(variables)))
        except SecurityError as error:
            raise TokenizerError(
                f"the chat template was stopped: {error}",
                where="chat_template",
                fix="use the template of a model you trust",
            ) from error
        except TokenizerError:
            raise
        # A template is foreign code: what it raises is its own fault, not ours.
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise TokenizerError(f"the chat template failed: {error}", where="chat_template") from error
        except (RecursionError, MemoryError) as error:
            raise TokenizerError(
                f"the chat template was stopped: {type(error).__name__}", where="chat_template"
            ) from error
        finally:
            _active.reset(token)


@lru_cache(maxsize=1)
def _environment() -> ChatEnvironment:
    return ChatEnvironment()


@lru_cache(maxsize=16)
def compile_template(source: str) -> CompiledTemplate:
    """Return the compiled form of a chat template.

    Raises:
        TokenizerError: If it is too long or no valid template; names the line.
    """
    if len(source) > MAX_SOURCE_CHARS:
        raise TokenizerError(
            f"the chat template has {len(source):,} characters", allowed=f"at most {MAX_SOURCE_CHARS:,}"
        )
    try:
        return CompiledTemplate(source)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise TokenizerError(
            f"the chat template is no valid Jinja template: {error.message}",
            where=f"chat_template:{line}" if line else "chat_template",
        ) from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise TokenizerError("the chat template is nested too deeply", where="chat_template") from error

"""Run a chat template that came with a model folder: no Python access, bounded time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

from mindformers.errors import TokenizerError
from mindformers.tokenizer import sandbox_limits as limits
from mindformers.tokenizer.json_text import to_json

MAX_SOURCE_CHARS = 256 * 2**10

# Each makes a short text long in one call, or reads what the conversation does not hold.
_REFUSED_METHODS = frozenset(
    (
        "center",
        "encode",
        "expandtabs",
        "format",
        "format_map",
        "ljust",
        "rjust",
        "translate",
        "zfill",
    )
)
_REFUSED_FILTERS = (
    *("attr", "batch", "center", "filesizeformat", "format", "indent", "pprint", "random"),
    *("slice", "striptags", "urlize", "wordwrap", "xmlattr"),
)


def _to_json(value: Any, *args: Any, **kwargs: Any) -> str:
    limits.measure(value)
    return to_json(value, *args, **kwargs)


class _Instrument(NodeTransformer):
    """Pass loops, ``~`` and the template's own text through functions that watch the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (Jinja's naming)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "_ticking", [], [], None, None, lineno=node.lineno)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "_concat", [], [], None, None, lineno=node.lineno)


class _GenerationBlock(Extension):
    """``{% generation %}`` marks the answer in some templates; print it as it is."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's template dialect inside Jinja's sandbox, with bounds on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=limits.printed,
            optimized=False,  # constant folding would run template code before the bounds are set
            extensions=["jinja2.ext.loopcontrols", _GenerationBlock],
        )
        for name in _REFUSED_FILTERS:
            self.filters.pop(name, None)
        self.filters = {name: limits.guarded(name, f) for name, f in self.filters.items()}
        self.filters.update(tojson=_to_json, _ticking=limits.ticking, _concat=limits.concat)
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

    def wrap_str_format(self, value: Any) -> None:
        """Offer no ``str.format``, safe or not: one format can ask for a gigabyte of blanks."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, a macro or a method for the template."""
        limits.tick()
        subject = getattr(__obj, "__self__", None)
        if isinstance(subject, str):
            limits.check_growth(__obj.__name__, subject, (*args, *kwargs.values()))
        return limits.check_value(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` unless the result is beyond the bounds."""
        limits.check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(str(pattern)[:200])


def _in_order(node: nodes.Node) -> Iterator[nodes.Name]:
    """Yield the names of a template in the order in which they are evaluated."""
    if isinstance(node, nodes.Name):
        yield node
    children = list(node.iter_child_nodes())
    if isinstance(node, nodes.Assign):
        children.reverse()  # the value before the name it is given
    for child in children:
        yield from _in_order(child)


class CompiledTemplate:
    """A template ready to render.

    Attributes:
        source: Its text.
        variables: The names it reads from outside.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._template: Template = _environment().from_string(source)
        self._tree = _environment().parse(source)
        self.variables = frozenset(meta.find_undeclared_variables(self._tree))

    def reads_before_setting(self, name: str) -> bool:
        """Tell whether the template takes ``name`` from outside, not only after setting it itself.

        ``variables`` holds a name too that is set in one branch only, as GLM-4's template does
        with ``tools``.
        """
        first = next((node for node in _in_order(self._tree) if node.name == name), None)
        return first is not None and first.ctx == "load"

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text the template makes of ``variables``.

        Raises:
            TokenizerError: If the template fails, does what the sandbox refuses, or exceeds a
                bound.
        """
        try:
            with limits.limited_rendering():
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
        except (
            TemplateError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise TokenizerError(
                f"the chat template failed: {error}", where="chat_template"
            ) from error
        except (RecursionError, MemoryError) as error:
            raise TokenizerError(
                f"the chat template was stopped: {type(error).__name__}", where="chat_template"
            ) from error


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
            f"the chat template has {len(source):,} characters",
            allowed=f"at most {MAX_SOURCE_CHARS:,}",
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
        raise TokenizerError(
            "the chat template is nested too deeply", where="chat_template"
        ) from error

"""Python functions as tools: what a model is told of them, and what reaches them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
from typing_extensions import TypedDict

from mindformers.agent.function_schema import read_docstring
from mindformers.agent.function_tool import FunctionTool
from mindformers.agent.tool_file import load_tools
from mindformers.errors import ConfigError, ToolError


class Unit(Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


@dataclass
class Place:
    city: str
    country: str = "FR"


class Options(TypedDict, total=False):
    deep: bool


def call(function: Callable[..., Any], arguments: str, seconds: float = 5.0) -> str:
    return FunctionTool(function).call(arguments, seconds, threading.Event())


def test_the_schema_comes_from_hints_and_docstring() -> None:
    def get_weather(city: str, unit: Unit = Unit.CELSIUS, days: int = 1) -> str:
        """Get the weather
        of a city.

        More that the model does not need.

        Args:
            city: Name of the city,
                in any language.
            unit (Unit): Of the temperature.

        Returns:
            days: not an argument.
        """
        return ""

    assert FunctionTool(get_weather).schema == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of the city, in any language."},
                    "unit": {
                        "type": "string",
                        "enum": ["celsius", "fahrenheit"],
                        "description": "Of the temperature.",
                    },
                    "days": {"type": "integer"},
                },
                "required": ["city"],
            },
        },
    }


@pytest.mark.parametrize(
    ("hint", "schema", "given", "value"),
    [
        (int, {"type": "integer"}, "3", 3),
        (float, {"type": "number"}, "3", 3.0),
        (bool, {"type": "boolean"}, "true", True),
        (str, {"type": "string"}, '"a"', "a"),
        (list, {"type": "array", "items": {}}, "[1]", [1]),
        (list[float], {"type": "array", "items": {"type": "number"}}, "[1]", [1.0]),
        (dict, {"type": "object", "additionalProperties": True}, '{"a": 1}', {"a": 1}),
        (
            dict[str, int],
            {"type": "object", "additionalProperties": {"type": "integer"}},
            '{"a": 1}',
            {"a": 1},
        ),
        (Optional[int], {"type": "integer"}, "null", None),  # noqa: UP045 -- as users write it
        (int | None, {"type": "integer"}, "2", 2),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, '"2"', "2"),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}, '"b"', "b"),
        (Unit, {"type": "string", "enum": ["celsius", "fahrenheit"]}, '"celsius"', Unit.CELSIUS),
        (
            Place,
            {
                "type": "object",
                "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
            '{"city": "Nice"}',
            Place("Nice"),
        ),
        (
            Options,
            {
                "type": "object",
                "properties": {"deep": {"type": "boolean"}},
                "additionalProperties": False,
            },
            '{"deep": true}',
            {"deep": True},
        ),
    ],
)
def test_types_of_parameters(hint: Any, schema: dict[str, Any], given: str, value: Any) -> None:
    seen: list[Any] = []

    def take(json, copy=0):
        seen.append(json)

    take.__annotations__ = {"json": hint, "copy": int}
    tool = FunctionTool(take)
    parameters = tool.schema["function"]["parameters"]
    assert parameters["properties"]["json"] == schema
    assert parameters["required"] == ["json"]
    tool.call(f'{{"json": {given}}}', 5.0, threading.Event())
    assert seen == [value]
    assert type(seen[0]) is type(value)


def test_a_default_stays_the_functions_own() -> None:
    default = object()

    def take(a=default, *rest, **more):
        return a is default

    assert call(take, "{}") == "true"
    assert call(take, "") == "true"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"n": "x"}', "wrong arguments: n: Input should be a valid integer"),
        ("{}", "wrong arguments: n: Field required"),
        ('{"n": 1, "m": 2}', "wrong arguments: m: Extra inputs are not permitted"),
        ("[1]", "wrong arguments: arguments: Input should be an object"),
        ('{"n": 1', "wrong arguments: arguments: Invalid JSON"),
        ('{"n": ' + "[" * 9999, "wrong arguments: arguments: Invalid JSON"),
    ],
)
def test_arguments_that_do_not_fit_never_reach_the_function(arguments: str, told: str) -> None:
    def take(n: int) -> None:
        raise AssertionError

    with pytest.raises(ToolError) as caught:
        call(take, arguments)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ({"天气": "晴", "a": [1, None]}, '{"天气": "晴", "a": [1, null]}'),
        (Place("Nice"), '{"city": "Nice", "country": "FR"}'),
        (None, "null"),
        (2.5, "2.5"),
    ],
)
def test_results_become_text(result: Any, text: str) -> None:
    assert call(lambda_named(result), "{}") == text


def lambda_named(result: Any) -> Callable[[], Any]:
    def give() -> Any:
        return result

    return give


def test_a_result_that_json_does_not_know_is_its_str() -> None:
    assert call(lambda_named(threading.Lock()), "{}").startswith("<unlocked _thread.lock")


def test_a_coroutine_is_run() -> None:
    async def double(n: int) -> int:
        return 2 * n

    assert call(double, '{"n": 21}') == "42"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no")])
def test_what_a_function_raises_does_not_end_the_conversation(error: BaseException) -> None:
    def fail() -> None:
        raise error

    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            call(fail, "{}")
    else:
        with pytest.raises(ToolError, match=f"^{type(error).__name__}: no"):
            call(fail, "{}")


def test_functions_a_model_cannot_call_are_refused() -> None:
    def hidden(a: int, /) -> None: ...

    def odd(a: threading.Lock) -> None: ...  # type: ignore[valid-type]

    def unknown(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    with pytest.raises(ConfigError, match="'a' cannot be given by name; remove the /"):
        FunctionTool(hidden)
    for function in (odd, unknown):
        with pytest.raises(ConfigError, match="a parameter has a type that JSON cannot say"):
            FunctionTool(function)
    with pytest.raises(ConfigError, match="no model can call a function named '<lambda>'"):
        FunctionTool(lambda: None)


def test_a_docstring_without_sections_is_read_too() -> None:
    assert read_docstring("") == ("", {})
    assert read_docstring("One.\nTwo.") == ("One. Two.", {})
    assert read_docstring("A.\n\nArgs:\n  x: y: z\n  *rest: all") == (
        "A.",
        {"x": "y: z", "rest": "all"},
    )


# --- files of tools ------------------------------------------------------------------------------


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_functions_written_in_a_file_are_tools(tmp_path: Path) -> None:
    write(tmp_path, "FACTOR = 2\n", "beside_mine.py")
    path = write(
        tmp_path,
        "from __future__ import annotations\n"
        "import json\nfrom json import dumps\nfrom dataclasses import dataclass\n"
        "from beside_mine import FACTOR\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def _own(): ...\n"
        "def double(n: int):\n    return n * FACTOR\n"
        "def take(p: Point):\n    return p.x\n",
    )
    tools = load_tools(path)
    assert [tool.name for tool in tools] == ["double", "take"]
    assert tools[0].call('{"n": 4}', 5.0, threading.Event()) == "8"
    assert tools[1].call('{"p": {"x": 5}}', 5.0, threading.Event()) == "5"


def test_all_names_the_tools_where_it_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, "__all__ = ['a']\ndef a(): ...\ndef b(): ...\n")
    assert [tool.name for tool in load_tools(path)] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "mine.py: holds no function that a model could call; write one with type"),
        ("x = 1\ndef f(:\n", "mine.py:2: cannot be run: SyntaxError"),
        ("\n\n1 / 0\n", "mine.py:3: cannot be run: ZeroDivisionError: division by zero"),
        ("import nowhere_at_all\n", "mine.py:1: cannot be run: ModuleNotFoundError"),
        ("__all__ = ['a']\n", "mine.py: __all__ names 'a', which is no function"),
        ("def f(a: 'Nowhere'): ...\n", "f: a parameter has a type that JSON cannot say"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tools(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; allowed: a Python file"):
        load_tools(tmp_path / "none.py")


def test_a_schema_is_what_the_chat_template_takes() -> None:
    from mindformers.tokenizer.conversation import normalise_tools

    schema = FunctionTool(lambda_named(1)).schema
    assert normalise_tools([json.loads(json.dumps(schema))]) == [schema]

"""``mindformers chat``: its flags, and the tools they name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mindformers.errors import ConfigError
from mindformers.guard import FlagParser, leaving_on_sigterm

_WEB = ("http://", "https://")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = FlagParser(prog="mindformers chat", description="Talk to a model in the terminal.")
    parser.add_argument("model_dir", help="a Hugging Face directory or one saved by this library")
    parser.add_argument(
        "--system", default="", help="an instruction that stands before the conversation"
    )
    parser.add_argument("--load", metavar="FILE", help="go on with a conversation saved by /save")
    parser.add_argument("--device_target", default="CPU", choices=("CPU", "Ascend"))
    parser.add_argument(
        "--no_history",
        dest="keep_history",
        action="store_false",
        help="every question stands alone",
    )
    parser.add_argument(
        "--quantization", choices=("int8", "int4"), help="round the weights when they are loaded"
    )
    parser.add_argument(
        "--prompt_lookup",
        dest="prompt_lookup_num_tokens",
        metavar="N",
        type=int,
        help="tokens guessed at a time from the text so far, as 7: what repeats comes faster",
    )
    parser.add_argument("--max_new_tokens", type=int, help="longest answer (tokens)")
    parser.add_argument(
        "--do_sample", action="store_true", help="draw tokens instead of taking the likeliest"
    )
    parser.add_argument(
        "--temperature", type=float, help="with --do_sample; 0.8 is GLM-4's default"
    )
    parser.add_argument("--top_p", type=float, help="with --do_sample; 0.8 is GLM-4's default")
    parser.add_argument("--seed", type=int, help="makes drawn answers repeatable")
    _add_tools(parser.add_argument_group("tools the model may call"))
    return parser


def _add_tools(group: Any) -> None:
    add = group.add_argument
    add(
        "--tools",
        metavar="FILE",
        action="append",
        default=[],
        help="a Python file whose functions are tools; may be given more than once",
    )
    add(
        "--python",
        action="store_true",
        help="run Python that the model writes, in a process without network",
    )
    add("--python_dir", metavar="DIR", help="where its files go, kept; else a temporary folder")
    add(
        "--python_read",
        metavar="PATH",
        nargs="+",
        default=[],
        help="files and folders it may read",
    )
    add(
        "--browser",
        metavar="SOURCE",
        nargs="+",
        default=[],
        help="let it search and read pages: folders of HTML, Markdown and text; with --web, addresses",
    )
    add("--web", action="store_true", help="let the browser open public addresses of the web")
    add("--max_tool_rounds", type=int, help="turns with calls for one question (8)")
    add("--call_seconds", type=float, help="longest time of one call (60)")
    add("--total_seconds", type=float, help="longest time of one question (600)")
    add("--result_tokens", type=int, help="of a result; longer ones lose their middle (1024)")


@leaving_on_sigterm()
def chat_command(argv: Sequence[str]) -> int:
    """Run ``mindformers chat``."""
    options = {
        name: value
        for name, value in vars(build_parser().parse_args(argv)).items()
        if value is not None
    }
    from mindformers.agent.loop import ToolLimits
    from mindformers.logger import setup_console_logging
    from mindformers.tasks.chat import chat

    rounds = options.pop("max_tool_rounds", None)
    given = {"rounds": rounds} if rounds is not None else {}
    given |= {
        field.name: options.pop(field.name) for field in fields(ToolLimits) if field.name in options
    }
    setup_console_logging(logging.WARNING)
    tools = open_tools(options)
    chat(options.pop("model_dir"), tools=tools, limits=ToolLimits(**given), **options)
    return 0


def open_tools(options: dict[str, Any]) -> list[Any]:
    """Return the tools that flags name; the flags are taken out of ``options``.

    Raises:
        ConfigError: If a file or a folder cannot be used, or a flag lacks the one it belongs to.
    """
    files, sources = options.pop("tools"), options.pop("browser")
    may_run, may_visit = options.pop("python"), options.pop("web")
    folder, readable = options.pop("python_dir", None), options.pop("python_read")
    tools: list[Any] = []
    if files:
        from mindformers.agent.tool_file import load_tools

        tools += [tool for path in files for tool in load_tools(path)]
    if may_run:
        from mindformers.agent.python_tool import PythonTool

        tools.append(PythonTool(folder, readable))
    elif folder or readable:
        raise ConfigError("--python_dir and --python_read belong to --python", fix="add --python")
    if sources or may_visit:
        tools.append(_browser(sources, may_visit))
    for tool in tools:
        if hasattr(tool, "start"):  # what it lacks is said before the conversation
            tool.start()
    return tools


def _browser(sources: Sequence[str], may_visit: bool) -> Any:
    from mindformers.agent.browser_tool import BrowserTool
    from mindformers.agent.pages import FolderPages, Pages

    addresses = [source for source in sources if source.startswith(_WEB)]
    if addresses and not may_visit:
        raise ConfigError(
            f"{addresses[0]} is on the web", where="--browser", fix="add --web to allow that"
        )
    pages: list[Pages] = [FolderPages(s) for s in sources if not s.startswith(_WEB)]
    if may_visit:
        from mindformers.agent.web_pages import WebPages

        pages.insert(0, WebPages(addresses))
    return BrowserTool(pages)

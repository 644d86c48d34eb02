"""The process in which a model's Python code runs: reads cells, runs them, keeps their variables.

Started by ``PythonTool`` as a script of its own, with one JSON argument; stands on the standard
library alone. Cells come on standard input, one JSON object a line; what they print goes to standard
output; whether a cell has ended goes to the pipe ``replies``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import linecache
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

# Where GLM-4 was told its files are; here they are in the working folder.
_FOLDER_OF_PROMPT = "/mnt/data"


def main() -> int:
    """Run cells until standard input ends."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    folder = settings["folder"]
    os.chdir(folder)
    replies = os.fdopen(settings["replies"], "w", encoding="utf-8")
    cells = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv = [""]
    walls = _sandbox().put_up(
        memory_bytes=settings["memory_bytes"],
        file_bytes=settings["file_bytes"],
        readable=settings["readable"],
        writable=folder,
    )
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    _reply(replies, {"walls": walls})
    session = ModuleType("__main__")
    sys.modules["__main__"] = session  # what is pickled or defined belongs to the cells
    for number, line in enumerate(cells, 1):
        _run(json.loads(line)["code"], session.__dict__, f"<cell {number}>", folder)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        _reply(replies, {"cell": number})
    return 0


def _sandbox() -> Any:
    spec = importlib.util.spec_from_file_location(
        "_sandbox", Path(__file__).with_name("sandbox.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def _leave_with(
    parent: int, getppid: Any = os.getppid, sleep: Any = time.sleep, leave: Any = os._exit
) -> None:
    while getppid() == parent:
        sleep(0.5)
    leave(1)


def _run(code: str, namespace: dict[str, Any], name: str, folder: str) -> None:
    """Run a cell; print the value of a last expression as an interpreter at the terminal does."""
    try:
        lines = code.splitlines(keepends=True)
        linecache.cache[name] = (len(code), None, lines, name)
        tree = _InFolder(folder).visit(ast.parse(code, name))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            if value is not None:
                namespace["_"] = value
                sys.stdout.write(f"{value!r}\n")
    except BaseException as error:  # an exit and an interrupt are results of the cell too
        _print_error(error, name)


def _print_error(error: BaseException, name: str) -> None:
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != name:
            trace = trace.tb_next  # frames of this file say nothing to the model
        traceback.print_exception(type(error), error, trace)
    except MemoryError:
        sys.stderr.write("MemoryError\n")


class _InFolder(ast.NodeTransformer):
    """Lets paths under the folder of GLM-4's prompt mean the working folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Change a text that is such a path."""
        if isinstance(node.value, str):
            head, found, tail = node.value.partition(_FOLDER_OF_PROMPT)
            if found and not head and tail[:1] in ("", "/"):
                node.value = self._folder + tail
        return node


if __name__ == "__main__":
    sys.exit(main())

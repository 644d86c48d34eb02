from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mindformers.errors import DataError
from mindformers.tools.command import run_tool


def test_the_exit_code_is_the_tools_own() -> None:
    assert run_tool(lambda argv: len(argv or []), ["a", "b"]) == 2


def test_debug_is_taken_out_of_the_arguments() -> None:
    assert run_tool(lambda argv: len(argv or []), ["--debug", "a"]) == 1


def test_a_users_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture) -> None:
    def main(argv):
        raise DataError("wrong", where="f:1", fix="put it right")

    assert run_tool(main, []) == 2
    assert capsys.readouterr() == ("", "error: f:1: wrong; put it right\n")


def test_ctrl_c_is_130_and_a_bug_is_not_hidden(capsys: pytest.CaptureFixture) -> None:
    def interrupted(argv):
        raise KeyboardInterrupt

    assert run_tool(interrupted, []) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    with pytest.raises(ZeroDivisionError):
        run_tool(lambda argv: 1 // 0, [])


def test_sigterm_runs_the_clean_up_and_exits_143() -> None:
    code = (
        "import os, signal, sys\nfrom mindformers.tools.command import run_tool\n"
        "def main(argv):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "    finally:\n        print('clean', flush=True)\n"
        "sys.exit(run_tool(main, []))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "clean\n")


def test_a_closed_pipe_is_silent() -> None:
    code = (
        "import sys\nfrom mindformers.tools.command import run_tool\n"
        "def main(argv):\n    [print('x' * 100) for _ in range(10000)]\n    return 0\n"
        "sys.exit(run_tool(main, []))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 0

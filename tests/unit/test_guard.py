import signal
import subprocess
import sys

import pytest

from mindformers.errors import ConfigError, DataError
from mindformers.guard import leaving_on_sigterm, run_guarded

SHOUT = "from mindformers.guard import run_guarded\nimport sys\n"


def raising(error):
    def main(argv):
        raise error

    return main


def python(code, *, env=None, arguments=()):
    return subprocess.run(
        [sys.executable, "-c", SHOUT + code, *arguments], capture_output=True, env=env, timeout=60
    )


def test_the_commands_own_code_is_returned_and_it_gets_the_arguments():
    seen = []

    def main(argv):
        seen.append(argv)
        return 7

    assert run_guarded(main, ["--a", "b"]) == 7
    assert seen == [["--a", "b"]]


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    error = ConfigError("found 3", where="seed", allowed="4", fix="write 4")
    assert run_guarded(raising(error), []) == 2
    assert capsys.readouterr().err == "error: seed: found 3; allowed: 4; write 4\n"


def test_an_error_has_the_exit_code_of_its_class(capsys):
    class OwnError(DataError):
        exit_code = 9

    assert run_guarded(raising(OwnError("x")), []) == 9


def test_debug_shows_the_traceback_before_the_line(capsys):
    assert run_guarded(raising(ConfigError("x")), ["--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "error: x"


def test_a_bug_is_one_line_with_the_way_to_its_traceback(capsys):
    assert run_guarded(raising(KeyError("a\nb")), []) == 1
    text = capsys.readouterr().err
    assert text == ("internal error: KeyError: 'a\\nb'; run again with --debug to see where\n")
    assert run_guarded(raising(RuntimeError("a\nb")), ["--debug"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "internal error: RuntimeError: a b"


def test_a_system_error_names_the_file(capsys):
    assert run_guarded(raising(OSError(28, "No space left on device", "/x")), []) == 1
    assert capsys.readouterr().err == "error: /x: No space left on device\n"


@pytest.mark.parametrize(("code", "returned"), [(None, 0), (0, 0), (3, 3), ("text", 1)])
def test_an_exit_keeps_its_code(code, returned, capsys):
    assert run_guarded(raising(SystemExit(code)), []) == returned
    assert ("text" in capsys.readouterr().err) == (code == "text")


def test_ctrl_c_is_code_130_without_a_traceback(capsys):
    assert run_guarded(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_early_causes_no_message():
    code = (
        "def main(argv):\n    for _ in range(200_000): print('x' * 50)\n    return 0\n"
        "sys.exit(run_guarded(main))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SHOUT + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_a_closed_output_causes_no_message():
    command = f'exec "{sys.executable}" -c "$0" >&-'
    code = SHOUT + "sys.exit(run_guarded(lambda argv: print('x') or 0))"
    done = subprocess.run(["sh", "-c", command, code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_that_knows_no_chinese_gets_escapes(encoding):
    code = (
        "from mindformers.errors import DataError\n"
        "def main(argv):\n    print('\\u4f60')\n    raise DataError('\\u597d')\n"
        "sys.exit(run_guarded(main))"
    )
    done = python(code, env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin"})
    assert done.stdout == b"\\u4f60\n"
    assert done.stderr == b"error: \\u597d\n"
    assert done.returncode == 2


def test_chinese_stays_chinese_in_the_c_locale():
    done = python(
        "sys.exit(run_guarded(lambda argv: print('\\u4f60') or 0))",
        env={"LANG": "C", "LC_ALL": "C"},
    )
    assert done.stdout == "你\n".encode()


def test_sigterm_runs_the_clean_up_and_exits_143():
    done = python(
        "import os, signal\nfrom mindformers.guard import leaving_on_sigterm\n"
        "@leaving_on_sigterm()\n"
        "def main(argv):\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "    finally:\n        print('clean', flush=True)\n"
        "sys.exit(run_guarded(main, []))\n"
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, b"clean\n")


def test_sigterm_means_what_it_did_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with leaving_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_but_plain_text_is_written_without_a_terminal():
    code = "from mindformers.errors import DataError\ndef main(argv): raise DataError('x')\n"
    done = python(code + "sys.exit(run_guarded(main))", env={"TERM": "xterm-256color"})
    assert b"\x1b" not in done.stderr


def test_a_package_that_is_not_installed_is_named(capsys):
    error = ModuleNotFoundError("No module named 'yaml'", name="yaml")
    assert run_guarded(raising(error), []) == 1
    assert capsys.readouterr().err == (
        "error: No module named 'yaml'; the installation is incomplete: activate the environment it is in "
        "(source .venv/bin/activate), or install mindformers again\n"
    )

"""The code interpreter: what it gives, and what it is kept from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mindformers.agent.python_process import PythonLimits
from mindformers.agent.python_tool import PythonTool, code_of
from mindformers.errors import ToolError

ROOT = Path(__file__).resolve().parents[3]

SMALL = PythonLimits(
    memory_bytes=256 * 2**20,
    file_bytes=2**20,
    folder_bytes=4 * 2**20,
    folder_files=200,
    output_bytes=2000,
    flood_bytes=2**22,
)
IS_LINUX = sys.platform.startswith("linux")


@pytest.fixture(scope="module")
def tool() -> Iterator[PythonTool]:
    tool = PythonTool(limits=SMALL)
    yield tool
    tool.close()


def run(tool: PythonTool, code: str, seconds: float = 20.0) -> str:
    return tool.call(json.dumps({"code": code}), seconds, threading.Event())


def refused(tool: PythonTool, code: str, seconds: float = 20.0) -> str:
    with pytest.raises(ToolError) as caught:
        run(tool, code, seconds)
    assert "the interpreter was started anew, its variables are gone" in str(caught.value)
    return str(caught.value)


# --- what it gives -------------------------------------------------------------------------------


def test_prints_and_the_last_value_are_the_result_and_variables_stay(tool: PythonTool) -> None:
    assert run(tool, "x = 6\nprint('你好 😀')\nx * 7") == "你好 😀\n42"
    assert run(tool, "x + 1; None") == "(no output)"
    assert run(tool, "_ - x") == "36"


def test_an_error_is_told_with_its_line_and_without_the_interpreters_own(tool: PythonTool) -> None:
    run(tool, "def half(n):\n    return n / 0\n")
    trace = run(tool, "half(1)")
    assert trace.startswith("Traceback (most recent call last):\n")
    assert "return n / 0" in trace
    assert trace.endswith("ZeroDivisionError: division by zero")
    assert "python_worker" not in trace
    assert "SyntaxError" in run(tool, "def f(:")


@pytest.mark.parametrize(
    ("code", "end"),
    [("input()", "EOFError: EOF when reading a line"), ("exit()", "SystemExit: None")],
)
def test_what_would_end_a_program_ends_the_cell(tool: PythonTool, code: str, end: str) -> None:
    run(tool, "kept = 1")
    assert run(tool, code).endswith(end)
    assert run(tool, "kept") == "1"


def test_files_go_to_the_working_folder_under_the_name_the_model_knows(tool: PythonTool) -> None:
    run(tool, "with open('/mnt/data/a.txt', 'w') as f: f.write('text')")
    assert run(tool, "open('a.txt').read()") == "'text'"
    assert run(tool, "import shutil; open(shutil.copy('a.txt', 'b.txt')).read()") == "'text'"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ('{"code": "1 + 1"}', "1 + 1"),
        ("print(1)\n", "print(1)\n"),
        ("```python\nprint(1)\n```", "print(1)"),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_code_is_read_in_every_form_a_model_writes(arguments: str, code: str) -> None:
    assert code_of(arguments) == code


def test_a_folder_of_the_users_is_kept_and_one_of_its_own_removed(tmp_path: Path) -> None:
    kept = PythonTool(tmp_path / "mine", limits=SMALL)
    run(kept, "open('a.txt', 'w').write('x')")
    kept.close()
    assert (tmp_path / "mine/a.txt").read_text() == "x"
    own = PythonTool(limits=SMALL)
    folder = Path(run(own, "import os; os.getcwd()").strip("'"))
    assert folder.is_dir()
    own.close()
    assert not folder.exists()


def test_paths_that_were_allowed_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    reading = PythonTool(readable=[tmp_path], limits=SMALL)
    assert run(reading, f"open('{tmp_path}/table.csv').read()") == "'a,b\\n1,2\\n'"
    assert run(reading, f"open('{tmp_path}/new', 'w')").endswith(
        f"PermissionError: [Errno 13] Permission denied: '{tmp_path}/new'"
    )
    reading.close()


# --- what it is kept from ------------------------------------------------------------------------


def test_too_much_memory_is_an_error_of_the_code(tool: PythonTool) -> None:
    run(tool, "kept = 1")
    assert run(tool, "b = bytearray(10**10)").endswith("MemoryError")
    assert run(tool, "hoard = []\nwhile True: hoard.append(bytes(3 * 10**7))").endswith(
        "MemoryError"
    )
    assert run(tool, "del hoard; kept") == "1"


def test_an_endless_loop_is_ended_and_the_next_cell_begins_anew(tool: PythonTool) -> None:
    run(tool, "gone = 1")
    assert "the code took longer than 0.5 s" in refused(
        tool, "print('so far', flush=True)\nwhile True: pass", 0.5
    )
    assert run(tool, "gone").endswith("NameError: name 'gone' is not defined")


def test_what_was_printed_before_the_end_is_told(tool: PythonTool) -> None:
    code = "import time; print('so far', flush=True); time.sleep(60)"
    assert refused(tool, code, 0.5).endswith("output before that:\nso far")


def test_nobody_waiting_ends_it(tool: PythonTool) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(ToolError, match="stopped by the user"):
        tool.call("while True: pass", 60, stop)


def test_a_flood_of_output_is_cut_and_then_ended(tool: PythonTool) -> None:
    found = run(tool, "for n in range(9000): print(n)")
    assert found.startswith("0\n1\n2\n")
    assert found.endswith("\n8998\n8999")
    assert "bytes left out" in found
    assert len(found) < 2100
    assert "printed more than 4194304 bytes" in refused(tool, "while True: print('x' * 999)")


def test_one_large_file_is_an_error_and_many_files_end_it(tool: PythonTool) -> None:
    large = run(tool, "f = open('large', 'wb')\nwhile True: f.write(bytes(99999))")
    assert large.endswith("OSError: [Errno 27] File too large")
    flood = "n = 0\nwhile True:\n    open(f'f{n}', 'wb').write(bytes(10**5))\n    n += 1"
    assert "more than is allowed" in refused(tool, flood)
    names = "n = 0\nwhile True:\n    open(f'f{n}', 'w').close()\n    n += 1"
    assert "more than is allowed" in refused(tool, names)
    assert run(tool, "import os; os.listdir()") == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true') and 1/0",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
    ],
)
def test_no_process_can_be_started(tool: PythonTool, code: str) -> None:
    assert run(tool, code).splitlines()[-1].startswith(("PermissionError", "ZeroDivisionError"))


def test_threads_are_allowed(tool: PythonTool) -> None:
    code = "import threading\nt = threading.Thread(target=print, args=['in'])\nt.start(); t.join()"
    assert run(tool, code) == "in"


def test_there_is_no_network(tool: PythonTool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        assert "PermissionError" in run(tool, code)
        assert "urlopen error" in run(
            tool, f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}')"
        )
    assert "PermissionError" in run(tool, "import socket; socket.socket(socket.AF_UNIX)")


@pytest.mark.skipif(not IS_LINUX, reason="the kernel's walls are Linux'")
@pytest.mark.parametrize(
    "code",
    [
        f"open({str(ROOT / 'README.md')!r}).read()",
        "open('/etc/passwd').read()",
        "open('/root/.bashrc').read()",
        "import os; os.symlink('/etc/passwd', 'link'); open('link').read()",
        "import os; open(f'/proc/{os.getppid()}/environ').read()",
        "open('/tmp/outside', 'w')",
        "import os; os.remove('/etc/hostname')",
        "import os; os.mkdir('/tmp/outside')",
        "import os; os.mknod('disk', 0o60600, os.makedev(8, 0))",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.kill(-1, 9)",
        "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
        "import ctypes\nif ctypes.CDLL(None, use_errno=True).fork() < 0: "
        "raise PermissionError(ctypes.get_errno())",
    ],
)
def test_the_rest_of_the_machine_is_out_of_reach(tool: PythonTool, code: str) -> None:
    assert "PermissionError" in run(tool, code)
    assert tool.walls == {"files": "kernel", "system": "kernel"}


@pytest.mark.skipif(not IS_LINUX, reason="the kernel's walls are Linux'")
def test_limits_cannot_be_raised_and_modes_of_files_not_changed(
    tool: PythonTool, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    target.touch(mode=0o640)
    raising = "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY,) * 2)"
    assert "Error" in run(tool, raising)
    assert run(tool, f"import os; os.chmod({str(target)!r}, 0o777)") == "(no output)"
    assert target.stat().st_mode & 0o777 == 0o640


HOOKS = """
import sys, importlib.util, pathlib
spec = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sandbox = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
def absent(*_):
    raise OSError("not in this kernel")
sandbox._restrict_files = sandbox._filter_calls = absent
print(sandbox.put_up(memory_bytes=2**29, file_bytes=2**20, readable=[], writable=sys.argv[2]))
inside, outside = pathlib.Path(sys.argv[2], "in"), pathlib.Path(sys.argv[3], "out")
inside.write_text("x")
def tried(action):
    try:
        action()
        print("done")
    except PermissionError as error:
        print(error)
import os, socket, subprocess
tried(lambda: outside.write_text("x"))
tried(lambda: os.open(outside, os.O_RDWR))
tried(lambda: outside.unlink())
tried(lambda: socket.socket())
tried(lambda: subprocess.run(["true"]))
tried(lambda: os.system("true"))
tried(lambda: inside.unlink())
"""


def test_where_the_kernel_has_no_walls_python_itself_refuses(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "out").write_text("kept")
    sandbox = ROOT / "mindformers/agent/sandbox.py"
    done = subprocess.run(
        [sys.executable, "-c", HOOKS, sandbox, tmp_path / "work", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    only = f"only the working folder may be written, not {tmp_path / 'out'}"
    assert done.stdout.splitlines() == [
        "{'files': 'python', 'system': 'python'}",
        *[only] * 3,
        "socket.__new__ is not allowed here",
        "subprocess.Popen is not allowed here",
        "os.system is not allowed here",
        "done",
    ]
    assert (tmp_path / "out").read_text() == "kept"


def test_nothing_of_this_process_environment_is_told(
    tool: PythonTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "abc")
    fresh = PythonTool(limits=SMALL)
    assert run(fresh, "import os; os.environ.get('SECRET_KEY'), 'HOME' in os.environ") == (
        "(None, True)"
    )
    fresh.close()


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_a_death_is_told_and_the_next_cell_begins_anew(
    tool: PythonTool, code: str, how: str
) -> None:
    assert f"the interpreter died ({how})" in refused(tool, code)
    assert run(tool, "1 + 1") == "2"


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_the_process_dies_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "import threading\nfrom mindformers.agent.python_tool import PythonTool\n"
        f"tool = PythonTool({str(tmp_path)!r})\n"
        'tool.call(\'import os; open("id", "w").write(str(os.getpid()))\', 20, threading.Event())\n'
        "import os; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    child = int((tmp_path / "id").read_text())
    deadline = time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_no_process_and_no_pipe_is_left_after_many_restarts() -> None:
    before = open_handles()
    tool = PythonTool(limits=SMALL)
    run(tool, "1")
    running = open_handles()
    for _ in range(2):
        refused(tool, "import os; os._exit(0)")
        run(tool, "1")
    assert open_handles() == running
    tool.close()
    assert open_handles() == before


def open_handles() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())

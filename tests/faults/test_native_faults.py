"""Building the kernels where something is missing, damaged or in the way: they are rebuilt or left out."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mindformers.errors import DeviceError
from mindformers.ops.native import build as building
from mindformers.ops.native import cache, library
from mindformers.ops.native.sets import InstructionSet
from mindformers.ops.native.train_abi import TRAIN_SIGNATURES
from tests.support.generation import fresh_warnings

GENERIC = (InstructionSet("generic"),)
ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
#include <cstdint>
extern "C" {
const char* mf_instruction_set() { return "tiny"; }
%s
}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in a moment, an empty cache, no library opened; returns the cache."""
    if building.find_compiler() is None:
        pytest.skip("no C++ compiler")
    names = {*library._SIGNATURES, *library._KERNELS, *TRAIN_SIGNATURES} - {"mf_instruction_set"}
    functions = "\n".join(f"int {name}(...) {{ return 0; }}" for name in sorted(names))
    sources = tmp_path / "src"
    sources.mkdir()
    (sources / "api.cpp").write_text(SOURCE % functions, encoding="ascii")
    monkeypatch.setattr(building, "SOURCES", sources)
    monkeypatch.setattr(library, "_opened", [])
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(cache.tempfile, "tempdir", None)
    monkeypatch.setattr("mindformers.ops.native.self_test.refuse_wrong_numbers", lambda _: None)
    fresh_warnings(monkeypatch)
    return tmp_path / "cache"


def compiled() -> Path:
    return building.build(sets=GENERIC)


def stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    return [each for each in found if not each.startswith("compiling the CPU kernels")]


def test_a_library_is_built_once_with_one_line_and_its_checksum(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mindformers")
    first = compiled()
    assert [each.getMessage().split(" (")[0] for each in caplog.records] == [
        "compiling the CPU kernels", f"compiled: {first}",
    ]  # fmt: skip
    before = stamp(first)
    assert compiled() == first
    assert stamp(first) == before
    assert sorted(each.name for each in tiny.iterdir()) == sorted(
        [first.name, first.name + ".sha256", "kernels.lock"]
    )
    assert stat.S_IMODE(tiny.stat().st_mode) == 0o700


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "no sum", "wrong sum", "binary sum"])
def test_a_damaged_library_is_built_again(tiny: Path, harm: str) -> None:
    path = compiled()
    whole = path.read_bytes()
    if harm == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "flip":
        path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "no sum":
        cache.checksum_file(path).unlink()
    else:
        cache.checksum_file(path).write_bytes(b"0" * 64 if harm == "wrong sum" else b"\xff\xfe")
    again = compiled()
    assert again == path
    assert cache.is_complete(again)
    library.open_library(again)


def test_a_whole_file_that_is_no_library_is_built_again(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    path = compiled()
    path.write_bytes(b"not a library")
    cache._write_checksum(path)
    assert library.kernels() is not None
    assert ctypes.CDLL(str(path)).mf_instruction_set is not None


def test_a_library_without_a_function_is_left_out_after_one_try(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    source = building.SOURCES / "api.cpp"
    source.write_text(source.read_text().replace("mf_gemm", "mf_other"))
    assert library.kernels() is None
    assert library.kernels() is None
    (warning,) = warnings_of(caplog)
    assert "the slower portable form is" in warning
    assert "mf_gemm" in warning


def test_a_miscompiled_library_is_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()  # the real self-test meets kernels that compute nothing
    fresh_warnings(monkeypatch)
    monkeypatch.setattr(library, "_opened", [])
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tiny))
    monkeypatch.setattr(building, "SOURCES", tiny.parent / "src")
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    assert library.kernels() is None
    assert "the compiled kernels (tiny) give a wrong matrix product" in warnings_of(caplog)[0]


def test_a_library_with_no_set_of_this_cpu_is_refused(tiny: Path) -> None:
    source = building.SOURCES / "api.cpp"
    source.write_text(source.read_text().replace('"tiny"', '""'))
    with pytest.raises(DeviceError, match="holds no instruction set of this CPU"):
        library.open_library(compiled())


def test_the_compilers_first_error_is_shown_and_the_portable_form_used(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (building.SOURCES / "api.cpp").write_text("int x = nonsense;\nint y = more;\n")
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    assert library.kernels() is None
    (warning,) = warnings_of(caplog)
    assert "api.cpp:1:9: error: 'nonsense' was not declared" in warning
    assert "more" not in warning
    assert list(tiny.glob("kernels-*")) == []
    assert list(tiny.glob("build-*")) == []
    assert library.is_native() is False
    with pytest.raises(
        DeviceError, match="ops.backend: native, but the CPU kernels cannot be built"
    ):
        library.choose_backend("native")


@pytest.mark.parametrize("name", ["", "/no/such/g++"])
def test_without_a_compiler_there_is_one_warning_and_a_library_built_before_is_used(
    tiny: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    with monkeypatch.context() as patch:
        patch.setenv(building.COMPILER_VARIABLE, name)
        patch.setenv("PATH", str(tiny))
        assert library.kernels() is None
        assert library.kernels() is None
        missing = "no C++ compiler is installed" if not name else f"the C++ compiler {name} (CXX)"
        (warning,) = warnings_of(caplog)
        assert missing in warning
    path = compiled()
    monkeypatch.setenv(building.COMPILER_VARIABLE, name)
    monkeypatch.setenv("PATH", str(tiny))
    assert compiled() == path


def test_a_compiler_with_arguments_is_understood(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compiled()
    found = building.find_compiler()
    assert found is not None
    monkeypatch.setenv(building.COMPILER_VARIABLE, f"{found[0]} -DEXTRA")
    assert building.find_compiler() == (found[0], "-DEXTRA")
    assert compiled() != plain


def test_a_compiler_older_than_the_cpu_compiles_the_best_set_it_knows(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = InstructionSet("plain", ("-DPLAIN",), ("one",))
    newest = InstructionSet("newest", ("-mno-such-instructions",), ("one", "two"))
    monkeypatch.setattr(building, "known_sets", lambda: (newest, plain, *GENERIC))
    compiler = building.find_compiler()
    assert compiler is not None
    assert building._sets_known_to(compiler, (newest,)) == (plain,)
    assert building._sets_known_to(compiler, (newest, *GENERIC)) == GENERIC
    assert cache.is_complete(building.build(sets=(newest,)))


@pytest.mark.parametrize("obstacle", ["file", "read only", "proc"])
def test_a_folder_that_cannot_be_written_is_replaced_by_a_private_one(
    tiny: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if obstacle == "file":
        tiny.write_text("in the way")
    elif obstacle == "proc":
        monkeypatch.setenv(cache.CACHE_VARIABLE, "/proc/mindformers")
    elif os.getuid() == 0:
        pytest.skip("root may write anywhere")
    else:
        tiny.mkdir(mode=0o500)
    path = compiled()
    private = tiny.parent / "tmp" / f"mindformers-{os.getuid()}"
    assert path.parent == private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert "compiled kernels go to a temporary one" in warnings_of(caplog)[0]
    before = stamp(path)
    assert compiled() == path
    assert stamp(path) == before


@pytest.mark.parametrize("trap", ["open", "link", "others"])
def test_a_temporary_folder_that_others_could_write_is_not_used(
    tiny: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_text("in the way")
    private = tiny.parent / "tmp" / f"mindformers-{os.getuid()}"
    if trap == "open":
        private.mkdir()
        private.chmod(0o777)
    elif trap == "link":
        (tiny.parent / "elsewhere").mkdir(mode=0o700)
        private.symlink_to(tiny.parent / "elsewhere")
    else:
        private.mkdir(mode=0o700)
        uid = os.getuid()
        monkeypatch.setattr(cache.os, "getuid", lambda: uid + 1)
        private.rename(private.with_name(f"mindformers-{uid + 1}"))
    path = compiled()
    assert path.parent.name.startswith("mindformers-")
    assert path.parent not in (private, tiny.parent / "elsewhere")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_full_disk_goes_to_the_temporary_folder_and_then_to_the_portable_form(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(building, "chosen_sets", lambda: GENERIC)
    script = tiny.parent / "full.sh"
    script.write_text(
        "#!/bin/sh\necho 'fatal error: error writing to x.o: No space left on device' >&2\nexit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv(building.COMPILER_VARIABLE, str(script))
    assert library.kernels() is None
    first, second, last = warnings_of(caplog)
    assert f"cannot be built in {tiny}: No space left on device" in first
    assert "mindformers-" in second
    assert "the slower portable form is" in last


def test_a_user_without_a_home_gets_a_private_folder(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(cache.Path, "home", no_home)
    assert cache.cache_folder() is None
    assert compiled().parent == tiny.parent / "tmp" / f"mindformers-{os.getuid()}"


def test_the_folder_is_the_variables_then_xdgs_then_the_homes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    assert cache.cache_folder() == tmp_path / ".cache" / "mindformers"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "mindformers"
    monkeypatch.setenv(cache.CACHE_VARIABLE, "~/mine")
    assert cache.cache_folder() == tmp_path / "mine"


def test_old_builds_and_what_killed_ones_left_are_removed(tiny: Path) -> None:
    tiny.mkdir()
    for age in range(12):
        old = tiny / f"kernels-{age:016x}-00000000.so"
        old.write_bytes(b"x")
        cache.checksum_file(old).write_text("y")
        os.utime(old, (time.time() - 100 * age - 100,) * 2)
    for name, age in (("build-dead", 7200), ("build-alive", 10)):
        (tiny / name).mkdir()
        os.utime(tiny / name, (time.time() - age,) * 2)
    path = compiled()
    kept = {each.name for each in tiny.glob("kernels-*.so")}
    assert kept == {path.name, *(f"kernels-{age:016x}-00000000.so" for age in range(7))}
    assert len(list(tiny.glob("*.sha256"))) == 8
    assert [each.name for each in tiny.glob("build-*")] == ["build-alive"]


def test_a_changed_source_or_flag_is_another_library(tiny: Path) -> None:
    first = compiled()
    assert building.build(("-DX",), GENERIC) != first
    (building.SOURCES / "note.h").write_text("// changed\n")
    assert compiled() != first


def test_what_is_edited_while_it_is_compiled_is_stored_under_its_own_key(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = building.shutil.copytree

    def edit_then_copy(source: Path, target: Path) -> Path:
        (source / "late.h").write_text("// late\n")
        return original(source, target)

    monkeypatch.setattr(building.shutil, "copytree", edit_then_copy)
    path = compiled()
    assert building.Recipe(GENERIC).key(building.SOURCES) in path.name


def test_processes_and_threads_that_start_together_build_once(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tiny.parent / "count"
    real = building.find_compiler()
    assert real is not None
    script = tiny.parent / "slow.sh"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *-shared*) echo x >> {counter}; sleep 0.3;; esac\nexec {real[0]} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv(building.COMPILER_VARIABLE, str(script))
    code = (
        "import sys; from pathlib import Path; from mindformers.ops.native import build as b;"
        "from mindformers.ops.native.sets import InstructionSet;"
        f"b.SOURCES = Path({str(building.SOURCES)!r});"
        "print(b.build(sets=(InstructionSet('generic'),)))"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(compiled())) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    names = {Path(each.communicate(timeout=60)[0].strip()).name for each in others}
    assert names == {path.name for path in found}
    assert counter.read_text() == "x\n"


def test_a_folder_whose_files_cannot_be_locked_is_used_all_the_same(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(building.FileLock, "acquire", no_locks)
    assert compiled().parent == tiny


def test_a_killed_build_leaves_the_cache_usable(tiny: Path) -> None:
    tiny.mkdir()
    (tiny / "kernels.lock").touch()
    (tiny / "build-half").mkdir()
    shutil.copy(__file__, tiny / "kernels-half.so")
    assert cache.is_complete(compiled())

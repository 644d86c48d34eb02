"""The kernels under the compiler's sanitizers: no byte outside a buffer, no undefined step, no race."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.ops.native.build import SOURCES, Recipe, build, compile_commands, find_compiler
from mindformers.ops.native.sets import known_sets

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
CHECKED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RACES = ("-O1", "-g1", "-fsanitize=thread", "-w")
SETS = tuple(each for each in known_sets() if each.name in ("avx2", "generic", "neon"))


PROGRAM = ("exercise.cpp", "exercise_training.cpp")


def compiler() -> tuple[str, ...]:
    found = find_compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


def runtime(name: str) -> str:
    """Return the path of a sanitizer's runtime; a Python program must load it before all else."""
    done = subprocess.run(
        [*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=False
    )
    path = done.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"the compiler has no {name}")
    return path


def test_no_kernel_leaves_its_buffers_or_the_language() -> None:
    preload = f"{runtime('libasan.so')}:{runtime('libubsan.so')}"
    library = build(CHECKED, SETS)
    for each in SETS:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.kernel_exercise", str(library), each.name],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
            env={
                **os.environ, "LD_PRELOAD": preload, "PYTHONMALLOC": "malloc", "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1", "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
                "UBSAN_OPTIONS": "print_stacktrace=1",
            },
        )  # fmt: skip
        assert done.returncode == 0, f"{each.name}: {done.stderr[-4000:]}"


def linked(library: Path, program: Path, *flags: str) -> Path:
    """Compile the exercise against a library; return the program."""
    sources = [str(HERE / name) for name in PROGRAM]
    command = [*compiler(), "-std=c++17", "-O1", "-pthread", *flags, f"-I{SOURCES}"]
    subprocess.run([*command, *sources, str(library), "-o", str(program)], check=True)
    return program


def test_no_kernel_leaves_its_buffers_where_a_program_calls_it(tmp_path: Path) -> None:
    runtime("libasan.so")
    program = linked(build(CHECKED, SETS), tmp_path / "exercise", *CHECKED)
    for each in SETS:
        done = subprocess.run(
            [str(program), each.name, "2", str(tmp_path / "results")],
            capture_output=True, text=True, check=False, timeout=200,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{each.name}: {done.stderr[-4000:]}"


def test_no_two_threads_touch_the_same_memory_unordered(tmp_path: Path) -> None:
    runtime("libtsan.so")
    sets = SETS[:1]
    flags = (*RACES, f"-I{SOURCES}", "-DEXERCISE_WITHOUT_FORK")  # forks confuse the sanitizer
    commands, objects = compile_commands(compiler(), Recipe(sets, flags), tmp_path)
    for name in PROGRAM:
        made = str(tmp_path / f"{name}.o")
        commands.append([*compiler(), "-std=c++17", *flags, "-c", str(HERE / name), "-o", made])
        objects.append(made)
    running = [subprocess.Popen(each, stderr=subprocess.PIPE, text=True) for each in commands]
    for each in running:
        _, errors = each.communicate()
        assert each.returncode == 0, errors
    program = tmp_path / "exercise"
    subprocess.run([*compiler(), *flags, "-pthread", *objects, "-o", str(program)], check=True)
    done = subprocess.run(
        [str(program), sets[0].name, "3", str(tmp_path / "results")],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the sanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING: ThreadSanitizer" not in done.stderr


def test_the_exercise_gives_the_same_numbers_in_every_set(tmp_path: Path) -> None:
    import numpy as np

    compiler()
    results = {}
    program = linked(build(sets=SETS), tmp_path / "exercise")
    for each in SETS:
        subprocess.run([str(program), each.name, "2", str(tmp_path / "results")], check=True)
        results[each.name] = np.fromfile(tmp_path / "results", np.float32)
    first, *others = results.values()
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-3, atol=1e-3)

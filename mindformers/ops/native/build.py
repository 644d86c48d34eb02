"""Compile the kernels into the user's cache, once for each source, compiler and kind of CPU.

The library is built where it is used, so it needs no wheel per platform: any C++17 compiler does.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from mindformers.errors import DeviceError
from mindformers.logger import logger

SOURCES = Path(__file__).with_name("src")
CACHE_VARIABLE = "MINDFORMERS_CACHE"
COMPILER_VARIABLE = "CXX"

_COMMON = (
    "-O3", "-std=c++17", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
)  # fmt: skip
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "generic": (),
        "avx2": _AVX2,
        "avx512": (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    },
}
_EVERY_SET = ("table.cpp",)  # files that are compiled once per instruction set define ISA themselves


def cache_folder() -> Path:
    """Return the folder compiled libraries are kept in."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "mindformers"


def find_compiler() -> str | None:
    """Return the path of a C++ compiler, or None."""
    names = (os.environ.get(COMPILER_VARIABLE), "g++", "c++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def library_key(compiler: str, flags: tuple[str, ...] = ()) -> str:
    """Return the name of a build: a hash of the sources, the compiler's version and the machine."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    digest.update(repr((compiler, version.stdout, platform.machine(), _COMMON, flags)).encode())
    return digest.hexdigest()[:16]


def build(flags: tuple[str, ...] = ()) -> Path:
    """Return the compiled library, building it if it is not in the cache.

    Args:
        flags: Further compiler flags, such as those of a sanitizer.

    Raises:
        DeviceError: If there is no compiler or it fails; with the compiler's first error.
    """
    compiler = find_compiler()
    if compiler is None:
        raise DeviceError(
            "no C++ compiler is installed",
            allowed="g++ or clang++ with C++17",
            fix="install one (Debian: apt-get install g++)",
        )
    target = cache_folder() / f"kernels-{library_key(compiler, flags)}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_file():
            _compile(compiler, flags, target)
    return target


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> None:
    logger.info("compiling the CPU kernels, once for this machine (about half a minute)")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as name:
        folder = Path(name)
        commands, objects = _commands(compiler, flags, folder)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_run, commands))
        linked = folder / "kernels.so"
        _run([compiler, "-shared", "-pthread", *flags, *objects, "-o", str(linked)])
        linked.replace(target)
    logger.info("compiled: %s", target)


def _commands(
    compiler: str, flags: tuple[str, ...], folder: Path
) -> tuple[list[list[str]], list[str]]:
    """Return the compiler's command lines and the objects they make; the longest come first."""
    sets = _SETS.get(platform.machine(), {"generic": ()})
    commands, objects = [], []
    for source in sorted(SOURCES.glob("*.cpp"), key=lambda path: -path.stat().st_size):
        is_shared = "namespace ISA" not in source.read_text(encoding="utf-8")
        is_shared = is_shared and source.name not in _EVERY_SET
        variants: dict[str, tuple[str, ...]] = {"": ()} if is_shared else sets
        for name, extra in variants.items():
            made = str(folder / f"{source.stem}.{name}.o")
            define = (f"-DISA={name}",) if name else ()
            commands.append(
                [compiler, *_COMMON, *flags, *extra, *define, "-c", str(source), "-o", made]
            )
            objects.append(made)
    return commands, objects


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise DeviceError(
            f"the compiler failed: {lines[0].strip()[:300]}", where=" ".join(command[:1])
        )

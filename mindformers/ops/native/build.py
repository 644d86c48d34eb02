"""Compile the kernels, once for each source, compiler and kind of CPU; the cache keeps the result.

The library is built where it is used, so it needs no wheel per platform: any C++17 compiler does.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mindformers.errors import DeviceError
from mindformers.logger import logger
from mindformers.machine import usable_cpus
from mindformers.ops.native import cache
from mindformers.ops.native.sets import InstructionSet, chosen_sets, known_sets

SOURCES = Path(__file__).with_name("src")
COMPILER_VARIABLE = "CXX"
_NAMES = ("g++", "c++", "clang++")
Compiler = tuple[str, ...]

_COMMON = (
    "-std=c++17", "-fPIC", "-pipe", "-pthread", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-Wno-uninitialized", "-Wno-maybe-uninitialized",
)  # fmt: skip
# -O3 takes up to four times as long to compile. These files gain nothing by it, or run slower: their inner
# loops are of vectors, with sizes the compiler knows, so all they need is that those be unrolled.
_QUICK, _THOROUGH = ("-O2", "-fpeel-loops"), ("-O3",)
_QUICK_FILES = (
    "api.cpp", "attention.cpp", "decoder.cpp", "gemm.cpp", "linear.cpp", "linear_quant.cpp", "threads.cpp",
)  # fmt: skip
_QUICK_SET = "generic"  # for CPUs whose speed is not what matters
_EVERY_SET = (
    "table.cpp",
)  # files that are compiled once per instruction set define ISA themselves
_LOCK_SECONDS = 900.0  # a build takes seconds; whoever holds the lock for longer hangs


@dataclass(frozen=True)
class Recipe:
    """What a library is made of.

    Args:
        sets: The instruction sets it holds, best first.
        flags: Further compiler flags, such as those of a sanitizer; they may override ``-O``.
    """

    sets: tuple[InstructionSet, ...]
    flags: tuple[str, ...] = ()

    def key(self, sources: Path | None = None) -> str:
        """Return a hash of everything but the compiler: sources, flags, sets, kind of machine."""
        digest = hashlib.sha256()
        for path in sorted((sources or SOURCES).iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        system = (platform.machine(), platform.system(), _c_library())
        digest.update(repr((_COMMON, _QUICK, _THOROUGH, _QUICK_FILES, self, system)).encode())
        return digest.hexdigest()[:16]


def _c_library() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):  # another C library
        return ""


def find_compiler() -> Compiler | None:
    """Return a C++ compiler as the words that start it, or None.

    ``CXX``, if set, is the only one looked for; it may hold arguments, as in ``ccache g++``.
    """
    chosen = os.environ.get(COMPILER_VARIABLE, "").split()
    for first, *rest in [chosen] if chosen else [[name] for name in _NAMES]:
        found = shutil.which(first)
        if found:
            return (found, *rest)
    return None


def _identity(compiler: Compiler) -> str:
    """Return a hash that changes when the compiler is replaced, without starting it."""
    digest = hashlib.sha256(repr(compiler).encode())
    for word in compiler:
        found = shutil.which(word)
        if found:
            real = Path(found).resolve()
            status = real.stat()
            digest.update(repr((str(real), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:8]


def build(
    flags: Sequence[str] = (),
    sets: Sequence[InstructionSet] | None = None,
    *,
    is_fresh: bool = False,
) -> Path:
    """Return the compiled library, building it if it is not in the cache.

    Args:
        flags: Further compiler flags, such as those of a sanitizer.
        sets: The instruction sets it holds, best first; None: ``chosen_sets()``.
        is_fresh: Build it although it is there, because it cannot be loaded.

    Raises:
        ConfigError: If the user names an instruction set that does not exist.
        DeviceError: If there is no compiler, it fails (with its first error), or no folder can be written.
    """
    recipe = Recipe(tuple(chosen_sets() if sets is None else sets), tuple(flags))
    compiler, key = find_compiler(), recipe.key()
    # Without a compiler one that was built before, as in a container image, serves as well.
    name = f"kernels-{key}-{_identity(compiler)}.so" if compiler else f"kernels-{key}-*.so"
    found = None if is_fresh else cache.find(name)
    if found is not None:
        return found
    if compiler is None:
        chosen = os.environ.get(COMPILER_VARIABLE)
        raise DeviceError(
            f"the C++ compiler {chosen} ({COMPILER_VARIABLE}) is not there" if chosen
            else "no C++ compiler is installed",
            allowed="g++ or clang++ with C++17",
            fix="install one (Debian: apt-get install g++)",
        )  # fmt: skip
    return _build_somewhere(compiler, recipe, name, is_fresh)


def _build_somewhere(compiler: Compiler, recipe: Recipe, name: str, is_fresh: bool) -> Path:
    reason: OSError | None = None
    for folder in cache.folders_to_build_in():
        target = folder / name
        try:
            with _lock(folder):
                if is_fresh or not cache.is_complete(target):
                    target = _compile(compiler, recipe, folder)
                    cache.prune(folder)
            return target
        except OSError as error:  # a full disk, mostly
            reason = error
            logger.warning("the kernels cannot be built in %s: %s", folder, error.strerror or error)
    raise DeviceError(
        "the compiled kernels can be written nowhere", where=str(reason),
        fix=f"make room, or set {cache.CACHE_VARIABLE} to a folder of yours",
    )  # fmt: skip


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process build at a time; where files cannot be locked each builds, which is only slower."""
    lock = FileLock(folder / "kernels.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("another process compiles the CPU kernels; waiting for it")
            lock.acquire(timeout=_LOCK_SECONDS)
    except (Timeout, NotImplementedError):
        pass
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    try:
        yield
    finally:
        lock.release()


def _compile(compiler: Compiler, recipe: Recipe, target_folder: Path) -> Path:
    names = ", ".join(each.name for each in recipe.sets)
    # A warning, so that nobody who asked for no log lines wonders about the pause.
    logger.warning("compiling the CPU kernels (%s), once for this machine: 10 to 30 seconds", names)
    with tempfile.TemporaryDirectory(dir=target_folder, prefix="build-") as name:
        folder = Path(name)
        # What is compiled is what is hashed, even while somebody edits the sources.
        sources = Path(shutil.copytree(SOURCES, folder / "src"))
        target = target_folder / f"kernels-{recipe.key(sources)}-{_identity(compiler)}.so"
        known = Recipe(_sets_known_to(compiler, recipe.sets), recipe.flags)
        commands, objects = compile_commands(compiler, known, folder, sources)
        with ThreadPoolExecutor(usable_cpus()) as pool:
            running = [pool.submit(_run, command, folder) for command in commands]
            try:
                for each in running:
                    each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        linked = folder / "kernels.so"
        _run([*compiler, "-shared", "-pthread", *recipe.flags, *objects, "-o", str(linked)], folder)
        cache.publish(linked, target)
    logger.info("compiled: %s", target)
    return target


def _sets_known_to(
    compiler: Compiler, sets: tuple[InstructionSet, ...]
) -> tuple[InstructionSet, ...]:
    """Return the sets a compiler can compile for; if it is older than the CPU, the best one it can."""
    accepted = tuple(each for each in sets if _accepts(compiler, each))
    if accepted:
        return accepted
    flags = {flag for each in sets for flag in each.cpu_flags}
    lesser = (each for each in known_sets() if set(each.cpu_flags) <= flags)
    return next(((each,) for each in lesser if _accepts(compiler, each)), sets)


def _accepts(compiler: Compiler, each: InstructionSet) -> bool:
    command = [*compiler, *each.compiler_flags, "-E", "-x", "c++", os.devnull]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )  # fmt: skip
    return done.returncode == 0


def compile_commands(
    compiler: Compiler, recipe: Recipe, folder: Path, sources: Path | None = None
) -> tuple[list[list[str]], list[str]]:
    """Return the compiler's command lines and the objects they make; the longest come first."""
    has = tuple(f"-DMF_HAS_{each.name}" for each in recipe.sets)
    commands, objects = [], []
    for source in sorted((sources or SOURCES).glob("*.cpp"), key=lambda path: -path.stat().st_size):
        is_shared = "namespace ISA" not in source.read_text(encoding="utf-8")
        is_shared = is_shared and source.name not in _EVERY_SET
        variants = (None,) if is_shared else recipe.sets
        for variant in variants:
            name = variant.name if variant else ""
            is_quick = source.name in _QUICK_FILES or name == _QUICK_SET
            special = (*variant.compiler_flags, f"-DISA={name}") if variant else has
            made = str(folder / f"{source.stem}.{name}.o")
            flags = (*(_QUICK if is_quick else _THOROUGH), *_COMMON, *recipe.flags, *special)
            commands.append([*compiler, *flags, "-c", str(source), "-o", made])
            objects.append(made)
    return commands, objects


def _run(command: Sequence[str], folder: Path) -> None:
    """Run a compiler; its own temporary files go to ``folder`` too.

    Raises:
        OSError: If the disk is full.
        DeviceError: If it fails, with its first error.
    """
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=environment,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if not done.returncode:
        return
    if os.strerror(errno.ENOSPC) in done.stderr or "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    lines = lines or done.stderr.splitlines() or [f"exit code {done.returncode}"]
    raise DeviceError(f"the compiler failed: {lines[0].strip()[:300]}", where=command[0])

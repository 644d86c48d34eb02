"""The instruction sets the kernels are compiled for, and which of them a library on this machine holds."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from mindformers.errors import ConfigError

SETS_VARIABLE = "MINDFORMERS_INSTRUCTION_SETS"
_CPU_INFO = "/proc/cpuinfo"


@dataclass(frozen=True)
class InstructionSet:
    """One way to compile every kernel.

    Args:
        name: As ``api.cpp`` lists it.
        compiler_flags: What the compiler needs to be told.
        cpu_flags: What the CPU must have, in the words of ``/proc/cpuinfo``.
    """

    name: str
    compiler_flags: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()


_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_AVX512_CPU = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
_GENERIC = InstructionSet("generic")
_NEON = InstructionSet("neon")  # every 64-bit ARM has it

# Best first; the last one runs on any CPU of its kind.
_SETS: dict[str, tuple[InstructionSet, ...]] = {
    "x86_64": (
        InstructionSet(
            "avx512bf16",
            (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
            (*_AVX512_CPU, "avx512_vnni", "avx512_bf16"),
        ),
        InstructionSet("avx512vnni", (*_AVX512, "-mavx512vnni"), (*_AVX512_CPU, "avx512_vnni")),
        InstructionSet("avx512", _AVX512, _AVX512_CPU),
        InstructionSet("avx2", _AVX2, ("avx2", "fma", "f16c")),
        _GENERIC,
    ),
    "aarch64": (_NEON,),
    "arm64": (_NEON,),
}


def known_sets(machine: str | None = None) -> tuple[InstructionSet, ...]:
    """Return all sets for a kind of machine (``platform.machine()``), best first."""
    return _SETS.get(machine or platform.machine(), (_GENERIC,))


def chosen_sets() -> tuple[InstructionSet, ...]:
    """Return the sets a library for this process holds: the best this CPU has, or those the user names.

    ``MINDFORMERS_INSTRUCTION_SETS`` takes names joined by commas, or ``all``: a library that is taken to
    other machines needs more than one.

    Raises:
        ConfigError: If a name is none of this kind of machine.
    """
    known = known_sets()
    wanted = os.environ.get(SETS_VARIABLE, "")
    if not wanted:
        return _best(known)
    if wanted == "all":
        return known
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in [each.name for each in known]:
            raise ConfigError(
                f"found {name!r}",
                where=SETS_VARIABLE,
                allowed=", ".join(["all", *(each.name for each in known)]),
            )
    return tuple(each for each in known if each.name in names)


def _best(known: tuple[InstructionSet, ...]) -> tuple[InstructionSet, ...]:
    if len(known) == 1:
        return known
    flags = _cpu_flags()
    if not flags:  # nobody tells: compile all, the library itself picks
        return known
    return (next(each for each in known if set(each.cpu_flags) <= flags),)


def _cpu_flags() -> frozenset[str]:
    """Return the flags of the first CPU, empty where the system has no ``/proc/cpuinfo``."""
    try:
        with open(_CPU_INFO, encoding="ascii", errors="replace") as lines:  # noqa: PTH123 -- read by line
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()

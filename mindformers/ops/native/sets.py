"""The instruction sets the kernels are compiled for, and which of them a library on this machine holds."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
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
        vendor: Whose CPUs gain by it, in the same words; empty: everybody's.
    """

    name: str
    compiler_flags: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    vendor: str = ""

    def is_best_with(self, about: Mapping[str, str]) -> bool:
        """Tell whether a CPU that ``/proc/cpuinfo`` describes so has this set, and gains by it."""
        has_all = set(self.cpu_flags) <= set(about.get("flags", "").split())
        return has_all and self.vendor in ("", about.get("vendor_id"))


_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
_AVX512_CPU = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
_GENERIC = InstructionSet("generic")
_NEON = InstructionSet("neon")  # every 64-bit ARM has it

# Best first; the last one runs on any CPU of its kind. AMD's CPUs multiply pairs of bfloat16 twice as fast as floats;
# Intel's have the same instructions at half the speed (measured), so there floats are multiplied.
_SETS: dict[str, tuple[InstructionSet, ...]] = {
    "x86_64": (
        InstructionSet(
            "avx512bf16",
            (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
            (*_AVX512_CPU, "avx512_vnni", "avx512_bf16"),
            "AuthenticAMD",
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
    about = _first_cpu()
    if "flags" not in about:  # nobody tells: compile all, the library itself picks
        return known
    return (next(each for each in known if each.is_best_with(about)),)


def _first_cpu() -> dict[str, str]:
    """Return what the system says of the first CPU, empty where it has no ``/proc/cpuinfo``."""
    found: dict[str, str] = {}
    try:
        with open(_CPU_INFO, encoding="ascii", errors="replace") as lines:  # noqa: PTH123 -- read by line
            for line in lines:
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
                if "flags" in found:
                    break
    except OSError:
        pass
    return found

"""The kernels in every instruction set worth comparing, each with one thread and with several."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache

import pytest

from mindformers.ops.native import library as native_library
from mindformers.ops.native import network
from mindformers.ops.native.build import build, find_compiler
from mindformers.ops.native.sets import chosen_sets, known_sets

# What users' CPUs have beside the best set of this one.
COMPARED = ("avx512bf16", "avx2", "generic")


@cache
def library_with(name: str) -> ctypes.CDLL | None:
    """Return a library that uses a set; one with the best set is the one that users get."""
    if name == "best":
        return native_library.open_library(build())
    sets = [each for each in known_sets() if each.name in COMPARED]
    found = native_library.open_library(build(sets=sets))
    return found if found.mf_use_instruction_set(name.encode()) == 0 else None


@pytest.fixture(params=["best", *COMPARED])
def kernels(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ctypes.CDLL]:
    """The kernels in one instruction set; networks of this test use them."""
    name = request.param
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    names = [each.name for each in known_sets()]
    if name != "best" and (name not in names or name == chosen_sets()[0].name):
        pytest.skip(f"this machine has no further set {name}")
    found = library_with(name)
    if found is None:
        pytest.skip(f"this CPU cannot run {name}")
    if name != "best":
        found.mf_use_instruction_set(name.encode())
    monkeypatch.setattr(network, "required", lambda: found)
    threads = found.mf_threads()
    yield found
    found.mf_set_threads(threads)

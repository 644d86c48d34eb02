"""How many threads, and which instruction sets, this process gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers.errors import ConfigError
from mindformers.ops.native import cpus, sets


def test_the_variable_names_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 8)
    for text, count in (("3", 3), (" 12 ", 12), ("0", 8), ("", 8)):
        monkeypatch.setenv(cpus.THREADS_VARIABLE, text)
        assert cpus.wanted_threads() == count


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "1025", "٣", "1e2"])
def test_a_variable_that_is_no_number_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cpus.THREADS_VARIABLE, text)
    with pytest.raises(ConfigError) as caught:
        cpus.wanted_threads()
    assert str(caught.value) == (
        f"MINDFORMERS_THREADS: found {text!r}; allowed: a whole number, 0 (all CPUs of this process) to 1024"
    )


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flags: str,
    machine: str,
    vendor: str = "GenuineIntel",
) -> None:
    monkeypatch.delenv(sets.SETS_VARIABLE, raising=False)
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n", encoding="ascii")
    monkeypatch.setattr(sets, "_CPU_INFO", str(path))
    monkeypatch.setattr(sets.platform, "machine", lambda: machine)


@pytest.mark.parametrize(
    ("flags", "machine", "name"),
    [
        ("fpu sse2", "x86_64", "generic"),
        ("fpu avx2", "x86_64", "generic"),
        ("avx2 fma f16c", "x86_64", "avx2"),
        ("avx2 fma f16c avx512f avx512bw avx512vl", "x86_64", "avx2"),
        ("avx2 fma f16c avx512f avx512bw avx512vl avx512dq", "x86_64", "avx512"),
        ("", "aarch64", "neon"),
        ("", "arm64", "neon"),
        ("", "riscv64", "generic"),
    ],
)
def test_a_library_holds_the_best_set_of_the_cpu(
    flags: str, machine: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, flags, machine)
    assert [each.name for each in sets.chosen_sets()] == [name]


@pytest.mark.parametrize(
    ("vendor", "name"), [("AuthenticAMD", "avx512bf16"), ("GenuineIntel", "avx512vnni")]
)
def test_products_of_bfloat16_are_chosen_where_they_are_the_faster_ones(
    vendor: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512_vnni avx512_bf16"
    pretend(monkeypatch, tmp_path, flags, "x86_64", vendor)
    assert [each.name for each in sets.chosen_sets()] == [name]


def test_a_system_that_does_not_tell_its_flags_gets_every_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "", "x86_64")
    monkeypatch.setattr(sets, "_CPU_INFO", str(tmp_path / "missing"))
    assert sets.chosen_sets() == sets.known_sets("x86_64")


def test_the_variable_names_the_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, "avx2 fma f16c", "x86_64")
    monkeypatch.setenv(sets.SETS_VARIABLE, "generic, avx2")
    assert [each.name for each in sets.chosen_sets()] == ["avx2", "generic"]
    monkeypatch.setenv(sets.SETS_VARIABLE, "all")
    assert sets.chosen_sets() == sets.known_sets("x86_64")
    monkeypatch.setenv(sets.SETS_VARIABLE, "sse9")
    with pytest.raises(
        ConfigError, match="MINDFORMERS_INSTRUCTION_SETS: found 'sse9'; allowed: all, "
    ):
        sets.chosen_sets()

"""What a process finds of its machine, with control groups and /proc written by the test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindformers import machine


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 CPUs whose control groups the test writes."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_without_a_quota_every_cpu_of_the_mask_counts(groups: Path) -> None:
    assert machine.usable_cpus() == 8
    write(groups / "own", "0::/a/b\n")
    write(groups / "a" / "cpu.max", "max 100000\n")
    assert machine.usable_cpus() == 8


@pytest.mark.parametrize(("quota", "count"), [(350000, 3), (100000, 1), (20000, 1), (9900000, 8)])
def test_a_quota_of_the_group_or_its_parent_is_rounded_down(
    groups: Path, quota: int, count: int
) -> None:
    write(groups / "own", "0::/a/b\n")
    write(groups / "a" / "b" / "cpu.max", "max 100000\n")
    write(groups / "a" / "cpu.max", f"{quota} 100000\n")
    assert machine.usable_cpus() == count


def test_a_container_finds_its_quota_where_its_groups_are_mounted(groups: Path) -> None:
    write(groups / "own", "0::/of/the/host\n")
    write(groups / "cpu.max", "200000 100000\n")
    assert machine.usable_cpus() == 2


def test_the_older_groups_count_too(groups: Path) -> None:
    write(groups / "own", "9:name=systemd:/\n4:memory:/x\n1:cpu,cpuacct:/x\n")
    write(groups / "cpu,cpuacct" / "x" / "cpu.cfs_quota_us", "400000\n")
    write(groups / "cpu,cpuacct" / "x" / "cpu.cfs_period_us", "100000\n")
    assert machine.usable_cpus() == 4
    write(groups / "cpu,cpuacct" / "x" / "cpu.cfs_quota_us", "-1\n")
    assert machine.usable_cpus() == 8


def test_a_system_without_cpu_masks_is_asked_for_its_cpus(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine.usable_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cpus() == 1


GIB = 2**30


def write_memory(groups: Path, available: int) -> None:
    write(groups / "meminfo", f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\n")


def test_without_a_limit_free_memory_is_what_the_system_says(groups: Path) -> None:
    assert machine.free_memory() is None  # no /proc
    write_memory(groups, 5 * GIB)
    assert machine.free_memory() == 5 * GIB
    assert machine.installed_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_container_has_its_limit_less_what_it_uses_but_for_cached_files(groups: Path) -> None:
    write_memory(groups, 500 * GIB)
    write(groups / "own", "0::/a/b\n")
    write(groups / "a" / "b" / "memory.max", "max\n")
    write(groups / "a" / "memory.max", f"{GIB}\n")
    write(groups / "a" / "memory.current", f"{GIB // 2}\n")
    assert machine.free_memory() == GIB // 2
    write(groups / "a" / "memory.stat", f"anon 5\ninactive_file {GIB // 4}\n")
    assert machine.free_memory() == GIB * 3 // 4
    assert machine.installed_memory() == GIB


def test_limits_of_the_older_groups_count_too(groups: Path) -> None:
    write_memory(groups, 500 * GIB)
    write(groups / "own", "4:memory:/x\n")
    write(groups / "memory" / "x" / "memory.limit_in_bytes", f"{2 * GIB}\n")
    write(groups / "memory" / "x" / "memory.usage_in_bytes", f"{3 * GIB}\n")
    assert machine.free_memory() == 0
    assert machine.installed_memory() == 2 * GIB

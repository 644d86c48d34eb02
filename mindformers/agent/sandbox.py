"""Walls around a process, put up from inside before foreign code runs in it.

Standard library alone: the process that runs a model's code loads nothing else of this package.
On Linux the kernel holds them (Landlock for files, a system call filter for processes, network and
signals); where it cannot, a hook of Python's own does, which well-meant code does not pass.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

KERNEL, PYTHON = "kernel", "python"  # who holds a wall

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2  # linux/prctl.h, linux/seccomp.h
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
# linux/landlock.h: rights over files that a version knows; what is new in 2, 3 and 5 in that order.
_RIGHTS_BY_VERSION = ((5, 16), (3, 15), (2, 14), (1, 13))
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_DEVICES = 1 << 6 | 1 << 11 | 1 << 15  # making and controlling them
_CLONE_THREAD = 0x10000  # linux/sched.h


class _Calls(NamedTuple):
    """Numbers of system calls (asm/unistd.h)."""

    clone: int
    kill: int
    tgkill: int
    prlimit64: int
    capset: int
    denied: tuple[int, ...]
    ignored: tuple[int, ...]


_X86 = _Calls(
    clone=56, kill=62, tgkill=234, prlimit64=302, capset=126,
    denied=(
        41, 42, 49, 50,              # socket, connect, bind, listen
        57, 58, 59, 322,             # fork, vfork, execve, execveat
        101, 310, 311,               # ptrace, process_vm_readv, process_vm_writev
        129, 200, 297, 424, 434, 438,  # rt_sigqueueinfo, tkill, rt_tgsigqueueinfo, pidfd_*
        155, 161, 165, 166, 272, 308,  # pivot_root, chroot, mount, umount2, unshare, setns
        160, 169, 248, 249, 250,     # setrlimit, reboot, add_key, request_key, keyctl
        298, 321, 323, 425,          # perf_event_open, bpf, userfaultfd, io_uring_setup
    ),
    ignored=(
        90, 91, 268, 452, 92, 93, 94, 260,  # chmod, fchmod, fchmodat, fchmodat2, chown, fchown, lchown, fchownat
        132, 235, 261, 280,          # utime, utimes, futimesat, utimensat
        188, 189, 190, 197, 198, 199, 463, 466,  # setxattr, removexattr and their forms
    ),
)  # fmt: skip
_ARM = _Calls(
    clone=220, kill=129, tgkill=131, prlimit64=261, capset=91,
    denied=(
        198, 203, 200, 201, 221, 281, 117, 270, 271, 138, 130, 240, 424, 434, 438,
        41, 51, 40, 39, 97, 268, 164, 142, 217, 218, 219, 241, 280, 282, 425,
    ),
    ignored=(52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16, 463, 466),
)  # fmt: skip
# By the name of the machine: its mark in a filter, and its calls.
_MACHINES = {"x86_64": (0xC000003E, _X86), "aarch64": (0xC00000B7, _ARM)}
_CLONE3 = 435
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026  # what a filter answers
_NOTHING = 0x00050000  # success, and nothing is done: copying a file sets its mode too
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def put_up(
    *, memory_bytes: int, file_bytes: int, readable: Iterable[str], writable: str
) -> dict[str, str]:
    """Put up all walls around this process; there is no way back.

    Args:
        memory_bytes: Most address space.
        file_bytes: Longest file it may write.
        readable: Files and folders it may read beside what Python needs.
        writable: The one folder it may write to.

    Returns:
        Who holds the walls around ``files`` and ``system`` (processes, network, signals): ``kernel``
        or ``python``.
    """
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(kind, limit)
    has_files = _try(lambda: _restrict_files([*_needed_by_python(), *readable], writable))
    has_system = _try(_filter_calls)
    if not has_system:
        _lower(resource.RLIMIT_NPROC, 0)
    if not (has_files and has_system):
        sys.addaudithook(_hook(writable, has_files, has_system))
    names = (("files", has_files), ("system", has_system))
    return {name: KERNEL if held else PYTHON for name, held in names}


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    try:
        resource.setrlimit(kind, (limit, limit))
    except (OSError, ValueError):  # macOS has no limit of address space
        return


def _try(wall: Callable[[], None]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        wall()
    except OSError:
        return False
    return True


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result = int(library.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _control(option: int, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    rest = [*arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    if library.prctl(option, *rest):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _needed_by_python() -> list[str]:
    return [
        *{sys.prefix, sys.base_prefix, *filter(None, sys.path)},
        "/usr", "/lib", "/lib64", "/etc/localtime", "/etc/ld.so.cache", "/etc/fonts",
        "/etc/mime.types", "/dev/null", "/dev/zero", "/dev/urandom", "/proc/self", "/proc/cpuinfo",
        "/proc/meminfo", "/sys/devices/system/cpu",
    ]  # fmt: skip


def _restrict_files(readable: Iterable[str], writable: str) -> None:
    """Let the kernel refuse every file but these, and every TCP connection (Landlock)."""
    version = _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    rights = (1 << next(bits for least, bits in _RIGHTS_BY_VERSION if version >= least)) - 1
    network = 3 if version >= 4 else 0  # binding and connecting
    scope = 3 if version >= 6 else 0  # abstract sockets and signals
    fields = struct.pack("QQQ", rights, network, scope)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_LANDLOCK_CREATE, fields, ctypes.c_size_t(size), ctypes.c_uint(0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_FOLDER)
        _allow(ruleset, "/dev/null", _READ_FILE | _WRITE_FILE | _TRUNCATE & rights)
        _allow(ruleset, writable, rights & ~_DEVICES)
        _control(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1))
        _call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there cannot be read either
    try:
        if not Path(path).is_dir():
            rights &= ~_READ_FOLDER
        rule = struct.pack("=Qi", rights, handle)
        _call(_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
    finally:
        os.close(handle)


def _filter_calls() -> None:
    """Let the kernel refuse other processes, sockets and signals to others (seccomp).

    The privileges of a superuser go first. Modes, owners and times of files stay as they are: Landlock
    does not guard them.
    """
    if platform.machine() not in _MACHINES:
        raise OSError("the system calls of this machine are not known")
    mark, calls = _MACHINES[platform.machine()]
    header, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)  # linux/capability.h, version 3
    _call(calls.capset, header, nothing)
    program = _program(mark, calls, os.getpid())
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    pointer = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    _control(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1))
    _control(_SET_SECCOMP, ctypes.c_ulong(_FILTER_MODE), pointer)


def _program(mark: int, calls: _Calls, own_id: int) -> list[tuple[int, int, int, int]]:
    """Return the filter: (operation, skip if true, skip if false, value) each."""
    program = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, mark),
        (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # numbers of another convention of the same machine
        (_RETURN, 0, 0, _EPERM),
        (_EQUAL, 0, 1, _CLONE3),  # its flags lie in memory; the C library then takes clone
        (_RETURN, 0, 0, _ENOSYS),
        (_EQUAL, 0, 4, calls.clone),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in (calls.kill, calls.tgkill):
        program += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 0, 1, own_id),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM),
        ]
    program += [  # reading a limit is allowed: the address of the new one is zero
        (_EQUAL, 0, 6, calls.prlimit64),
        (_LOAD, 0, 0, _ARGUMENTS + 16),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _ARGUMENTS + 20),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    for numbers, reply in ((calls.denied, _EPERM), (calls.ignored, _NOTHING)):
        for number in numbers:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, reply)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _hook(writable: str, has_files: bool, has_system: bool) -> Callable[[str, tuple], None]:
    """Return what refuses in Python's own name; it cannot see what C code does by itself."""
    root = os.path.realpath(writable) + os.sep
    calls = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.kill",
             "os.spawn", "pty.")  # fmt: skip
    changes = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink",
               "os.truncate", "os.chmod", "os.chown", "shutil.")  # fmt: skip

    def refuse(event: str, arguments: tuple) -> None:
        if not has_system and event.startswith(calls):
            raise PermissionError(f"{event} is not allowed here")
        if has_files:
            return
        is_write = event == "open" and (
            set(str(arguments[1] or "")) & set("wax+") or (arguments[2] or 0) & 3
        )
        paths = arguments[:1] if is_write else arguments[:2] if event.startswith(changes) else ()
        for path in paths:
            if isinstance(path, (str, bytes)) and not (
                os.path.realpath(os.fsdecode(path)).startswith(root)
            ):
                raise PermissionError(f"only the working folder may be written, not {path!s}")

    return refuse

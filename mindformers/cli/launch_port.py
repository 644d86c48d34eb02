"""Where the processes of a launched run meet: an address of machine 0 and a port that nobody else has."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mindformers.cli.launch_request import Request
from mindformers.errors import ConfigError

_TRIED = 100
_LISTEN = "0A"  # linux/tcp_states.h


def resolve(address: str) -> str:
    """Return the IP address that a name or an address stands for; MindSpore takes nothing else.

    Raises:
        ConfigError: If nobody knows the name.
    """
    bare = address.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{address!r} is no address and no name that is known here",
            where="ADDRESS",
            allowed="an IP address or the name of machine 0",
        ) from error
    return str(found[0][4][0])


@contextmanager
def meeting_point(request: Request) -> Iterator[tuple[str, int]]:
    """Give the (address, port) of a run, kept from other launchers on this machine while inside.

    Raises:
        ConfigError: If machine 0 does not have the address, the port is in use where several machines count
            on it, or no port is free.
    """
    address = resolve(request.address)
    if request.node > 0:
        yield address, request.port
        return
    last = min(request.port + _TRIED, 65536) if request.is_alone else request.port + 1
    for port in range(request.port, last):
        claim = _claim(port)
        if claim is None:
            continue
        with claim:
            fault = _fault(address, port)
            if fault is None:
                yield address, port
                return
        if fault == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"{request.address} is no address of this machine, which is to be machine 0",
                where="ADDRESS",
                allowed="an address of machine 0, given on all machines",
            )
        if fault == errno.EACCES:
            raise ConfigError(
                f"{port} may not be used by this user", where="PORT", allowed="1024 to 65535"
            )
    raise ConfigError(
        f"{request.port} to {last - 1} are in use" if request.is_alone else f"{last - 1} is in use",
        where="PORT",
        fix="choose another one" + ("" if request.is_alone else ", the same on all machines"),
    )


def _claim(port: int) -> socket.socket | None:
    """Take a port among launchers, or None: between the trial and MindSpore's own bind it is unused.

    The name of an abstract socket (Linux) belongs to one process and is free again whatever ends it.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0mindformers.launch.{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _fault(address: str, port: int) -> int | None:
    """Return why nobody can listen at a port, or None when it is free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # A connection of an earlier run that is only waiting to be forgotten does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return None


def listens(port: int) -> bool:
    """Tell whether a process on this machine listens at a TCP port; True where nobody can tell."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    if not any(table.exists() for table in tables):
        return True
    for table in tables:
        with suppress(OSError):
            rows = (line.split() for line in table.read_text().splitlines()[1:])
            if any(row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows):
                return True
    return False

"""Where a server listens: the address is taken before the model loads, so a mistake shows at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from mindformers.errors import ConfigError
from mindformers.machine import open_files

OPEN_FILES = 1024  # that a server wants; a connection is one
_FEWEST_FILES = 256
_BACKLOG = 1024
_STALLED_MS = 60_000  # a reader that takes nothing for so long is gone


def claim_address(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait in its queue until they are accepted.

    Args:
        host: An address or a name of this machine.
        port: 0: any free one.

    Raises:
        ConfigError: If the address is none, not of this machine, in use or not allowed, or the process may
            not have enough connections.
    """
    files = open_files(OPEN_FILES)
    if files is not None and files < _FEWEST_FILES:
        raise ConfigError(
            f"found {files}", where="ulimit -n", allowed=f"{_FEWEST_FILES} or more open files"
        )
    if not 0 <= port <= 65535:
        raise ConfigError(f"found {port}", where="--port", allowed="0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{host!r} is no address and no name that is known here",
            where="--host",
            allowed="127.0.0.1, or another address of this machine",
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _drop_stalled(listener)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(error, host, port) from error
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Tell whether only this machine can reach a socket."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listener: socket.socket) -> str:
    """Return the address of a socket as one types it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _drop_stalled(listener: socket.socket) -> None:
    """Let the system close connections whose other side takes nothing any more (Linux)."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, _STALLED_MS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _refusal(error: OSError, host: str, port: int) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"{port} is in use on {host}",
            where="--port",
            fix="stop what listens there, or choose another; 0 takes any free one",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"{port} may not be used by this user", where="--port", allowed="1024 to 65535"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{host} is no address of this machine", where="--host", fix="127.0.0.1 always is"
        )
    return ConfigError(
        f"cannot listen there: {os.strerror(error.errno or 0)}", where=f"{host}:{port}"
    )

"""Who may ask: API keys, and requests that a web page elsewhere makes a browser send here."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from mindformers.errors import ConfigError
from mindformers.logger import logger
from mindformers.serving.errors import ApiError

KEY_VARIABLE = "MINDFORMERS_API_KEY"


def read_keys(
    given: Iterable[str], files: Iterable[str | Path], environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the keys of flags, of files (one a line, ``#`` begins a remark) and of the environment.

    Raises:
        ConfigError: If a file cannot be read or holds none, or a key is none.
    """
    keys = [("--api_key", key) for key in given]
    for name in files:
        found = _keys_in(Path(name))
        if not found:
            raise ConfigError("holds no key", where=str(name), allowed="one key a line")
        keys += [(str(name), key) for key in found]
    if KEY_VARIABLE in environment:
        keys.append((KEY_VARIABLE, environment[KEY_VARIABLE]))
    for where, key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                "a key is empty or holds blanks or other characters that a header cannot",
                where=where,
                allowed="letters, digits and punctuation",
            )
    return tuple(dict.fromkeys(key for _, key in keys))


def _keys_in(path: Path) -> list[str]:
    try:
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH) and os.name == "posix":
            logger.warning("%s: others of this machine can read the keys; chmod 600 it", path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot be read ({reason})", where=str(path)) from error
    return [text for line in lines if (text := line.strip()) and not text.startswith("#")]


class ApiKeys:
    """The keys that open a server; only their hashes are kept."""

    def __init__(self, keys: Collection[str]) -> None:
        self._hashes = [_hash(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: bytes) -> None:
        """Pass a request by its header ``Authorization: Bearer KEY``, in the same time for any wrong key.

        Raises:
            ApiError: 401, if keys are needed and it holds none of them.
        """
        scheme, _, key = authorization.strip().partition(b" ")
        found = _hash(key.strip()) if scheme.lower() == b"bearer" else b""
        # Every key is compared: the time tells neither how much of one was right nor which.
        matches = sum(hmac.compare_digest(found, each) for each in self._hashes)
        if self._hashes and not matches:
            raise ApiError(
                401,
                "the API key is wrong"
                if authorization
                else "an API key is needed: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def check_host(host: bytes) -> None:
    """Pass a request that names this machine by address or as localhost.

    A page elsewhere can point its own name at 127.0.0.1 and so read a server that only this machine
    reaches; its requests carry that name.

    Raises:
        ApiError: 403.
    """
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise ApiError(
            403,
            "this server has no API key and answers requests to localhost or an IP address only; "
            "give it a key to reach it by another name",
            code="host_not_allowed",
        ) from None


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

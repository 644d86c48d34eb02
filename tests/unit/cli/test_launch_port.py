from __future__ import annotations

import dataclasses
import socket

import pytest

from mindformers.cli.launch_port import listens, meeting_point, resolve
from mindformers.cli.launch_request import parse
from mindformers.errors import ConfigError


@pytest.fixture
def busy():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def request(port: int, number: int = 2, local: int = 2, **changes):
    form = ["a.py", number, local, "127.0.0.1", port, 0, "logs", "True", 60]
    return dataclasses.replace(parse([str(each) for each in form]), **changes)


def test_on_one_machine_the_next_free_port_is_taken(busy):
    with meeting_point(request(busy)) as (address, port):
        assert address == "127.0.0.1"
        assert busy < port <= busy + 100


def test_on_several_machines_a_busy_port_is_refused(busy):
    with (
        pytest.raises(
            ConfigError, match=f"PORT: {busy} is in use; choose another one, the same on"
        ),
        meeting_point(request(busy, 4, 2)),
    ):
        pass


def test_a_port_belongs_to_one_launcher_before_anything_listens_there():
    with meeting_point(request(23456)) as (_, first), meeting_point(request(23456)) as (_, second):
        assert second > first
    with meeting_point(request(first)) as (_, again):
        assert again == first


def test_a_machine_other_than_the_first_takes_what_it_is_told(busy):
    with meeting_point(request(busy, 4, 2, node=1)) as found:
        assert found == ("127.0.0.1", busy)


def test_the_first_machine_must_have_the_address():
    with (
        pytest.raises(ConfigError, match=r"ADDRESS: 192\.0\.2\.1 is no address of this machine"),
        meeting_point(request(23457, 4, 2, address="192.0.2.1")),
    ):
        pass


def test_names_and_brackets_become_addresses():
    assert resolve("127.0.0.1") == "127.0.0.1"
    assert resolve("[::1]") == "::1"
    assert resolve("localhost") in ("127.0.0.1", "::1")
    with pytest.raises(ConfigError, match="ADDRESS: 'no such host' is no address"):
        resolve("no such host")


def test_listening_is_seen(busy):
    assert listens(busy)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not listens(closed.getsockname()[1])

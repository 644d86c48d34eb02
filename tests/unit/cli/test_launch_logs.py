from __future__ import annotations

import os

import pytest

from mindformers.cli.launch_logs import Collection, Follower, last_lines, shown

NOISE = (
    "[WARNING] DISTRIBUTED(3401,7f55,python):2026-01-01-06:09:56 [cluster/tcp_comm.cc:485] Connect\n"
    "[INFO] DISTRIBUTED(3401,7f55,python):2026-01-01-06:09:56 [tcp_client.cc:367] Start\n"
    "[WARNING] ME(3401:1406,MainProcess):2026-01-01-06:09:56 [mindspore/context.py:1] old\n"
)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "worker_3.log"
    path.touch()
    return path


def test_whole_lines_are_passed_on_once_and_without_noise(tmp_path, log):
    seen: list[bytes] = []
    follower = Follower(log, [seen.append])
    with log.open("a") as target:
        target.write(f"one\n{NOISE}two\nthr")
        target.flush()
        follower.poll()
        assert seen == [b"one\n", b"two\n"]
        target.write("ee\nfour")
        target.flush()
        follower.poll()
        assert seen[2:] == [b"three\n"]
        follower.poll(is_final=True)
        assert seen[3:] == [b"four\n"]
    follower.close()


def test_lines_of_all_are_collected_with_their_ranks(tmp_path, log):
    collection = Collection(tmp_path / "all.log")
    log.write_text("loss 1.5\n")
    Follower(log, [collection.sink("[rank 3] ")]).poll()
    collection.close()
    assert (tmp_path / "all.log").read_text() == "[rank 3] loss 1.5\n"


def test_a_log_that_is_emptied_is_followed_from_its_start(log):
    seen: list[bytes] = []
    follower = Follower(log, [seen.append])
    log.write_text("a long line before\n")
    follower.poll()
    log.write_text("new\n")
    follower.poll()
    assert seen[-1] == b"new\n"


def test_a_line_without_an_end_is_not_held_back_for_ever(log):
    seen: list[bytes] = []
    follower = Follower(log, [seen.append])
    log.write_bytes(b"." * 100_000)
    follower.poll()
    assert sum(map(len, seen)) > 90_000


def test_bytes_that_are_no_text_pass(log):
    log.write_bytes(b"\xff\xfe\n")
    assert last_lines(log) == ["\ufffd\ufffd"]


def test_the_last_lines_are_those_that_say_something(log):
    dashes = "-" * 52
    log.write_text(
        "".join(f"line {number}\n" for number in range(30))
        + f"RuntimeError: no\n\n{dashes}\n- C++ Call Stack: (For framework developers)\n{dashes}\n"
        + f"mindspore/ccsrc/cluster/init.cc:37 Initialize\n{NOISE}"
    )
    assert last_lines(log, 3) == ["line 28", "line 29", "RuntimeError: no"]
    assert len(last_lines(log)) == 20


def test_a_crash_is_shown_from_its_beginning(log):
    log.write_text(
        "before\nFatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n"
        + '  File "x.py", line 1 in f\n' * 40
    )
    lines = last_lines(log)
    assert lines[0] == "Fatal Python error: Segmentation fault"
    assert len(lines) == 20


def test_a_report_holds_nothing_that_a_terminal_would_obey():
    assert shown("\x1b[31mred\x1b[0m\rbar") == "red bar"
    assert len(shown("x" * 5000)) < 400


def test_a_missing_log_has_no_last_lines(tmp_path):
    assert last_lines(tmp_path / "none.log") == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_does_not_end_the_collection(tmp_path):
    link = tmp_path / "all.log"
    link.symlink_to("/dev/full")
    collection = Collection(link)
    collection.sink("[rank 0] ")(b"line\n")
    collection.close()

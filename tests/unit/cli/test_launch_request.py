from __future__ import annotations

from pathlib import Path

import pytest

from mindformers.cli.launch_request import find_script, parse, split_command
from mindformers.errors import ConfigError

CMD = "run_mindformer.py --config a.yaml"
WORDS = ("run_mindformer.py", "--config", "a.yaml")


def test_one_argument_starts_eight_processes_and_waits(monkeypatch):
    monkeypatch.delenv("MF_LOG_SUFFIX", raising=False)
    request = parse([CMD])
    assert (request.command, request.number, request.local, request.node) == (WORDS, 8, 8, 0)
    assert (request.address, request.port, request.timeout) == ("127.0.0.1", 8118, 7200)
    assert (request.log_dir, request.is_joined) == (Path("output/msrun_log"), True)


def test_two_arguments_name_the_number():
    request = parse([CMD, "3"])
    assert (request.number, request.local, request.is_alone) == (3, 3, True)


def test_six_arguments_keep_the_published_order():
    request = parse([CMD, "4", "8200", "logs", "False", "300"])
    assert (request.number, request.local, request.port) == (4, 4, 8200)
    assert (request.log_dir, request.is_joined, request.timeout) == (Path("logs"), False, 300)


def test_nine_arguments_keep_the_published_order():
    request = parse([CMD, "16", "8", "10.0.0.1", "8118", "1", "logs", "true", "300"])
    assert (request.number, request.local, request.address, request.port) == (
        16,
        8,
        "10.0.0.1",
        8118,
    )
    assert (request.node, request.log_dir, request.is_joined) == (1, Path("logs"), True)
    assert (request.timeout, request.is_alone) == (300, False)


def test_the_suffix_is_added_to_the_default_directory(monkeypatch):
    monkeypatch.setenv("MF_LOG_SUFFIX", "night")
    assert parse([CMD]).log_dir == Path("output/msrun_log_night")
    assert parse([CMD, "4", "8200", "logs", "False", "300"]).log_dir == Path("logs")


@pytest.mark.parametrize("count", [0, 3, 4, 5, 7, 8, 10])
def test_other_numbers_of_arguments_are_refused(count):
    with pytest.raises(ConfigError, match=f"{count} arguments; allowed: 1, 2, 6 or 9"):
        parse([CMD, *["1"] * (count - 1)][:count])


@pytest.mark.parametrize(
    "text",
    [
        CMD,
        f"  {CMD}  ",
        "run_mindformer.py   --config\n  a.yaml\n",
        "run_mindformer.py \\\n --config a.yaml",
        "run_mindformer.py \\ \r\n --config a.yaml",
        f"python {CMD}",
        f"/usr/bin/python3.11 {CMD}",
    ],
)
def test_blanks_line_ends_and_an_interpreter_change_nothing(text):
    assert split_command(text) == WORDS


def test_quotation_marks_hold_words_together():
    assert split_command("a.py --text 'two words' \"\"") == ("a.py", "--text", "two words", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.py 'b"], "SCRIPT: no closing quotation in \"a.py 'b\"; close what is quoted"),
        (["  "], "SCRIPT: no script is named"),
        (["python"], "SCRIPT: no script is named"),
        ([CMD, "0"], "NUMBER: is '0'; allowed: a whole number, 1 or more"),
        ([CMD, "two"], "NUMBER: is 'two'"),
        ([CMD, "-2"], "NUMBER: is '-2'"),
        ([CMD, "²"], "NUMBER: is '²'"),
        ([CMD, "8118"], "NUMBER: 8118 processes on one machine; allowed: up to"),
        ([CMD, "2", "0", "logs", "True", "60"], "PORT: is '0'; allowed: a whole number, 1 to 65535"),
        ([CMD, "2", "65536", "logs", "True", "60"], "PORT: is '65536'"),
        ([CMD, "2", "8118", "logs", "yes", "60"], "JOIN: is 'yes'; allowed: True (wait) or False"),
        ([CMD, "2", "8118", "logs", "True", "0"], "TIMEOUT: is '0'"),
        ([CMD, "2", "4", "h", "8118", "0", "l", "True", "60"],
         "LOCAL: 4 processes on this machine of 2 in all; allowed: 1 to 2"),
        ([CMD, "5", "2", "h", "8118", "0", "l", "True", "60"],
         "LOCAL: 5 processes cannot be shared by machines of 2"),
        ([CMD, "4", "2", "h", "8118", "2", "l", "True", "60"],
         "NODE: machine 2 with 2 of 4 processes; allowed: 0 to 1"),
        ([CMD, "4", "4", "h", "8118", "1", "l", "True", "60"],
         "NODE: machine 1 with 4 of 4 processes; allowed: 0 to 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_what_would(arguments, message):
    with pytest.raises(ConfigError) as caught:
        parse(arguments)
    assert message in str(caught.value)


def test_a_script_is_looked_for_here_and_then_in_the_repository(tmp_path, monkeypatch):
    here, repository = tmp_path / "here", tmp_path / "repository"
    for folder in (here, repository):
        folder.mkdir()
    monkeypatch.chdir(here)
    (repository / "train.py").touch()
    assert find_script(("train.py", "-x"), repository) == [str(repository / "train.py"), "-x"]
    (here / "train.py").touch()
    assert find_script(("train.py", "-x"), repository) == ["train.py", "-x"]
    assert find_script(("-m", "pytest"), repository) == ["-m", "pytest"]
    with pytest.raises(ConfigError, match=r"trian.py: no such file; .* did you mean 'train.py'\?"):
        find_script(("trian.py",), repository)
    with pytest.raises(ConfigError, match="is a folder"):
        find_script((str(here),), repository)

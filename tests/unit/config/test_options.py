"""Arguments that upstream takes: neutral, refused, or without effect."""

from __future__ import annotations

import logging

import pytest

from mindformers.config.options import refuse_options, say_without_effect, without_options
from mindformers.errors import ConfigError

NEUTRAL = {"revision": (None, "main"), "token": ()}


def test_neutral_values_pass_and_others_are_refused_by_name() -> None:
    refuse_options("load", {"revision": "main", "token": "secret"}, NEUTRAL)
    with pytest.raises(ConfigError) as caught:
        refuse_options("load", {"revision": "v2"}, NEUTRAL)
    assert str(caught.value) == ("load.revision: 'v2' is not implemented; allowed: None or 'main'")
    with pytest.raises(ConfigError, match=r"load\.tokne: no such argument; did you mean 'token'"):
        refuse_options("load", {"tokne": 1}, NEUTRAL)


def test_arguments_that_are_no_options_come_back() -> None:
    assert without_options("load", {"token": 1, "seq_length": 8}, NEUTRAL) == {"seq_length": 8}


def test_what_has_no_effect_is_said_once_and_only_if_it_was_asked_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="mindformers"):
        for _ in range(2):
            say_without_effect("an owner", {"cache_dir": "there", "token": None, "off": False})
    assert [record.getMessage() for record in caplog.records] == [
        "an owner: cache_dir has no effect here"
    ]

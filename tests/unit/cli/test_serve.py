"""The flags of the server, and what is said where its packages are not installed."""

from __future__ import annotations

import sys

import pytest

from mindformers.cli.main import dispatch
from mindformers.cli.serve import build_parser
from mindformers.generation.scheduler import EngineSettings
from mindformers.guard import run_guarded
from mindformers.serving.settings import Limits, ServerSettings


def test_flags_left_out_are_the_settings_defaults() -> None:
    given = vars(build_parser().parse_args(["model"]))
    expected = {**vars(ServerSettings()), **vars(Limits()), **vars(EngineSettings())}
    shared = given.keys() & expected.keys()
    assert len(shared) > 12
    assert {name: given[name] for name in shared} == {name: expected[name] for name in shared}


def test_no_guess_at_all_is_no_number_of_guesses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(dispatch, ["serve", "/no/such/model", "--prompt_lookup", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: --prompt_lookup: found 0; allowed: 1 or more; without it nothing is guessed\n"
    )


def test_a_package_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run_guarded(dispatch, ["serve", "/no/such/model"]) == 2
    assert capsys.readouterr().err == (
        "error: serving needs uvicorn, which is not installed; run: pip install 'mindformers[serve]'\n"
    )

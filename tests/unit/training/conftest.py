"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

from mindformers.logger import logger


@pytest.fixture
def run_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Capture the package's log, also after another test has set up a console for it."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("INFO", logger="mindformers")
    return caplog

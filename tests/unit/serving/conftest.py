"""A tokenizer and ways to ask a scripted server in process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from mindformers.serving.app import build_app
from mindformers.serving.service import Service
from tests.support.serving import scripted_service, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("vocab"))


@pytest.fixture
def serve(tokenizer: Any) -> Callable[..., tuple[TestClient, Service]]:
    """Return a function that opens a server in process: its client and its service."""

    def opened(script: Any = "Hello", **settings: Any) -> tuple[TestClient, Service]:
        service = scripted_service(tokenizer, script, **settings)
        app = build_app(service)
        return TestClient(app, base_url="http://localhost", raise_server_exceptions=False), service

    return opened

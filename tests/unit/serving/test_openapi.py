"""Requests made up from the server's own description of itself: every answer is as described."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from mindformers.serving.app import build_app
from tests.support.serving import scripted_service, tiny_tokenizer

HOST = {"host": "localhost"}
CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)


OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("vocab"))
    app = build_app(scripted_service(tokenizer, lambda *_: ["\nHello", " 世界"]))
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)


def test_the_description_names_every_operation(described: Any) -> None:
    found = [each.ok() for each in described.get_all_operations()]
    assert sorted((each.method.upper(), each.path) for each in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        (method, path, kind)
        for method, path in OPERATIONS
        for kind in schemathesis.GenerationMode
        if method == "POST" or kind is schemathesis.GenerationMode.POSITIVE
    ],
)
def test_every_answer_is_as_described(described: Any, method: str, path: str, kind: Any) -> None:
    operation = described[path][method]

    @hypothesis.given(case=operation.as_strategy(generation_mode=kind))
    @hypothesis.settings(
        max_examples=20 if method == "POST" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, headers=HOST)

    check()

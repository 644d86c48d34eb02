"""The device is chosen before the first tensor of these tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1, seed=1)

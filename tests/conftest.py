"""What every test shares: a quiet MindSpore on the CPU, set up on first use only."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")
os.environ.setdefault("GLOG_v", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")
# A shell starts what runs in the background with Ctrl-C ignored, and so would be the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as nohup leaves it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--form-of-environment",
        action="store_true",
        help="leave out tests that choose the form of the operators themselves",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does the same whatever the environment asks for, where that was told."""
    if not config.getoption("--form-of-environment"):
        return
    chosen = [each for each in items if {"backend", "native"} & set(_fixtures_of(each))]
    config.hook.pytest_deselected(items=chosen)
    items[:] = [each for each in items if each not in chosen]


def _fixtures_of(item: pytest.Item) -> list[str]:
    return getattr(item, "fixturenames", [])


@contextlib.contextmanager
def _same_logger() -> Iterator[None]:
    """Undo what a run does to the logger; of one that no longer propagates pytest sees lines twice."""
    package = logging.getLogger("mindformers")
    handlers, propagate, level = list(package.handlers), package.propagate, package.level
    yield
    for handler in package.handlers:
        if isinstance(handler, logging.FileHandler) and handler not in handlers:
            handler.close()
    package.handlers[:], package.propagate = handlers, propagate
    package.setLevel(level)


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    """Undo what a test's run did."""
    with _same_logger():
        yield


@pytest.fixture(autouse=True, scope="module")
def _logger_of_others_as_it_was() -> Iterator[None]:
    """Undo what the runs of a whole file's fixtures did."""
    with _same_logger():
        yield


@pytest.fixture(autouse=True)
def _kernels_as_they_were() -> Iterator[None]:
    """Undo what a run chose; the environment (``MINDFORMERS_BACKEND``) decides again."""
    yield
    library = sys.modules.get("mindformers.ops.native.library")
    if library is not None and (library._chosen[0], library._threads[0]) != ("auto", 0):
        library.choose_backend("auto")
        library.set_threads(0)


@pytest.fixture(params=["native", "portable"])
def backend(request: pytest.FixtureRequest) -> str:
    """Run a test with each form of the operators; without kernels only with the portable one."""
    from mindformers.ops.native.library import choose_backend, kernels

    if request.param == "native" and kernels() is None:
        pytest.skip("there are no kernels here")
    choose_backend(request.param)
    return request.param


@pytest.fixture
def native() -> None:
    """Use the native kernels whatever the environment asks for; skip where there are none."""
    from mindformers.ops.native.library import choose_backend, kernels

    if kernels() is None:
        pytest.skip("there are no kernels here")
    choose_backend("native")


@pytest.fixture(params=[1, 0], ids=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> int:
    """Run a test in PyNative and in graph mode; afterwards MindSpore is back in PyNative mode."""
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=request.param, seed=1)
    yield request.param
    start_runtime(device_target="CPU", mode=1)


@pytest.fixture
def pynative() -> None:
    """Set MindSpore to PyNative mode."""
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1, seed=1)

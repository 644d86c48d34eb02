"""What is said of a run's memory before it starts."""

from __future__ import annotations

import logging

import pytest

from mindformers.config.overrides import Patch
from mindformers.config.run_config import load_run_config
from mindformers.parallel.runtime import LOCAL_SIZE
from mindformers.tasks import plan_check
from tests.support.config_files import REPOSITORY

GIB = 2**30


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    caplog.set_level(logging.INFO)

    def say(name, free, **keys):
        monkeypatch.setattr(plan_check, "free_memory", lambda: free)
        patches = [Patch(tuple(k.split("__")), value, "test") for k, value in keys.items()]
        config = load_run_config(REPOSITORY / "configs/glm4" / name, patches)
        caplog.clear()
        plan_check.announce_memory(config)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return say


TINY, NINE = "finetune_glm4_tiny_cpu.yaml", "finetune_glm4_9b.yaml"


def test_a_small_run_is_announced_without_a_warning(said):
    ((level, text),) = said(TINY, 20 * GIB)
    assert level == "INFO"
    assert text == "memory: up to 0.8 GB a process, 1 here; 20.0 GB are free on this machine"


def test_a_run_that_does_not_fit_is_warned_of_with_the_smallest_change(said):
    _, (level, text) = said(NINE, 100 * GIB, context__device_target="CPU", use_parallel=False)
    assert level == "WARNING"
    assert "may need more memory than there is" in text
    assert "smallest change that makes it fit:" in text


def test_processes_share_what_is_free(said, monkeypatch):
    monkeypatch.setenv("MS_WORKER_NUM", "8")
    monkeypatch.setenv(LOCAL_SIZE, "8")
    keys = {"context__device_target": "CPU", "use_parallel": True}
    assert [level for level, _ in said(NINE, 1000 * GIB, **keys)] == ["INFO"]
    assert [level for level, _ in said(NINE, 300 * GIB, **keys)] == ["INFO", "WARNING"]
    monkeypatch.setenv("RANK_ID", "3")
    assert said(NINE, 300 * GIB, **keys) == []
    monkeypatch.setenv(LOCAL_SIZE, "3")  # the first of the second machine
    assert len(said(NINE, 200 * GIB, **keys)) == 2


def test_on_an_npu_the_limit_is_that_of_the_settings(said):
    ((_, text),) = said(NINE, None)
    assert text == "memory: up to 50.1 GB a process, of 58.0 GB (context.max_device_memory)"
    _, (level, _) = said(NINE, None, context__max_device_memory="48GB")
    assert level == "WARNING"


def test_where_nobody_can_tell_nothing_is_said(said):
    assert said(TINY, None) == []

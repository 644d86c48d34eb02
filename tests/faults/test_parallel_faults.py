"""A fault in one process of a shared run: all stop, the reason is told, committed steps stay whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers.checkpoint.manifest import committed_steps, read_step_folder
from tests.support.shared_runs import ROOT, arguments, finetune, launch, write_rows, write_start

SCRIPT = str(ROOT / "tests/support/faulty_rank.py")
DEGREES = {"parallel": {"data_parallel": 2}, "runner_config__batch_size": 1}


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faulty")
    write_rows(folder / "rows.mindrecord")
    write_rows(folder / "other_rows.mindrecord", count=60)
    write_start(folder / "start")
    return folder


def run(material: Path, output: Path, fault: str, steps: int = 8) -> str:
    line = arguments(
        material / "rows.mindrecord", output, steps, load_checkpoint=str(material / "start"),
        callbacks__1__save_checkpoint_steps=2, callbacks__1__keep_checkpoint_max=5, **DEGREES,
    )  # fmt: skip
    said = launch([SCRIPT, fault, *line[1:]], 2, output / "msrun", expect=None)
    assert "exit code 0" not in said.splitlines()[-1]
    return said


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("settings", "the settings of the run: not the same on all processes"),
        ("data", "the training data: not the same on all processes"),
    ],
)
def test_processes_that_mean_different_things_are_refused_at_the_start(
    material, tmp_path, fault, message
):
    assert message in run(material, tmp_path / "out", fault)
    assert committed_steps(tmp_path / "out" / "checkpoint") == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no_space", "rank 1 could not write"),
        ("killed_in_save", "SIGKILL"),
        ("nan", "gradient norm nan"),
    ],
)
def test_nothing_committed_is_lost(material, tmp_path, fault, message):
    output = tmp_path / "out"
    assert message in run(material, output, fault)
    steps = committed_steps(output / "checkpoint")
    expected = [2, 3] if fault == "nan" else [2]  # after a NaN the last good step is saved as well
    assert [read_step_folder(step)["step"] for step in steps] == expected
    resumed = finetune(
        material / "rows.mindrecord", output, processes=2, steps=6, resume_training=True, **DEGREES
    )
    assert len(resumed.losses) == 6

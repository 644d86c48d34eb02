"""Evaluating between steps: when, what is told, what stays, what ends a run, and that training does not notice."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest

from mindformers.errors import ConfigError
from mindformers.training import loss_plot
from mindformers.training.best_value import BestValue
from mindformers.training.callbacks import before_saving, build_callbacks
from mindformers.training.checkpoint_monitor import CheckpointMonitor
from mindformers.training.early_stopping import EarlyStopping
from mindformers.training.eval_callback import EvalCallBack
from mindformers.training.loop import train
from mindformers.training.loss_plot import LossPlot
from mindformers.training.metrics import METRICS_NAME, MetricsWriter, read_evaluations, read_metrics
from mindformers.training.run import TrainSettings
from tests.unit.training.toy import Losses, ToyData, toy_step, weights_of

pytestmark = pytest.mark.usefixtures("pynative")


class Evaluations:
    """Gives losses one after another and draws from every generator there is, as a careless one might."""

    def __init__(self, *losses: float):
        self.losses, self.calls = list(losses), 0

    def __call__(self) -> dict[str, float]:
        ms.ops.standard_normal((3,)).asnumpy()
        self.calls += 1
        return {"loss": self.losses[min(self.calls, len(self.losses)) - 1], "tokens": 7}


def run(folder: Path, *callbacks: Any, resume_from: Path | None = None, epochs: int = 1) -> Losses:
    """Train 6 steps an epoch; return what was noted."""
    losses, step = Losses(), toy_step()
    settings = TrainSettings(output_dir=folder, epochs=epochs)
    every = [MetricsWriter(tensorboard=False), losses, *callbacks]
    train(step, ToyData(), settings, callbacks=every, resume_from=resume_from)
    losses.weights = weights_of(step.network)  # type: ignore[attr-defined]
    return losses


def evaluated_steps(folder: Path) -> list[int]:
    return [step for step, _ in read_evaluations(folder / METRICS_NAME)]


def test_evaluations_follow_the_interval_and_the_last_step(tmp_path: Path) -> None:
    run(tmp_path, EvalCallBack(Evaluations(1.0), step_interval=4))
    assert evaluated_steps(tmp_path) == [4, 6]
    run(tmp_path, EvalCallBack(Evaluations(1.0), step_interval=3))
    assert evaluated_steps(tmp_path) == [3, 6]


def test_evaluations_by_epochs(tmp_path: Path) -> None:
    run(tmp_path, EvalCallBack(Evaluations(1.0), -1, 2), epochs=3)
    assert evaluated_steps(tmp_path) == [12, 18]


def test_training_is_the_same_with_and_without_evaluations(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    watched = run(tmp_path / "watched", EvalCallBack(Evaluations(1.0), step_interval=1))
    assert watched.curve == plain.curve
    for name, value in plain.weights.items():
        assert np.array_equal(value, watched.weights[name])


def test_the_random_generator_is_as_before(tmp_path: Path) -> None:
    states: list[bytes] = []

    class Watch(Losses):
        def on_step_end(self, run: Any, report: Any) -> None:
            states.append(ms.get_rng_state().asnumpy().tobytes())

    run(tmp_path, Watch(), EvalCallBack(Evaluations(1.0), step_interval=1), Watch())
    assert len(states) == 12
    assert states[::2] == states[1::2]


def test_results_go_to_the_log_and_to_the_metrics_file(tmp_path: Path, run_log: Any) -> None:
    run(tmp_path, EvalCallBack(Evaluations(1.25, math.nan), step_interval=3))
    assert "evaluation after step 3: eval_loss 1.25 | eval_tokens 7 | " in run_log.text
    rows = [row for row in read_metrics(tmp_path / METRICS_NAME) if "eval_loss" in row]
    assert [(row["step"], row["eval_loss"], row["eval_tokens"]) for row in rows] == [
        (3, 1.25, 7), (6, None, 7),
    ]  # fmt: skip
    steps = [row["step"] for row in read_metrics(tmp_path / METRICS_NAME)]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


def test_the_picture_shows_evaluations_also_those_before_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        loss_plot, "plot_loss", lambda points, path, evaluated: drawn.append(list(evaluated))
    )
    monitor = CheckpointMonitor(save_checkpoint_steps=3)
    run(
        tmp_path,
        LossPlot(),
        EvalCallBack(Evaluations(3.0, math.nan, 1.0), step_interval=2),
        monitor,
    )
    assert drawn[-1] == [(2, 3.0), (6, 1.0)]
    step = tmp_path / "checkpoint" / "step_00000003"
    run(tmp_path, LossPlot(), EvalCallBack(Evaluations(2.0), step_interval=2), resume_from=step)
    assert drawn[-1] == [(2, 3.0), (4, 2.0), (6, 2.0)]


def test_a_resumed_run_evaluates_like_an_unbroken_one(tmp_path: Path) -> None:
    """Of the first run the last three steps are lost, and with them their evaluations."""

    def callbacks() -> list[Any]:
        evaluation = EvalCallBack(lambda: {"loss": 2.0}, step_interval=2)
        return [evaluation, CheckpointMonitor(save_checkpoint_steps=3, keep_checkpoint_max=0)]

    whole = run(tmp_path / "whole", *callbacks())
    run(tmp_path / "broken", *callbacks())
    step = tmp_path / "broken" / "checkpoint" / "step_00000003"
    rest = run(tmp_path / "broken", *callbacks(), resume_from=step)
    assert rest.curve == whole.curve[3:]
    assert evaluated_steps(tmp_path / "broken") == evaluated_steps(tmp_path / "whole") == [2, 4, 6]


def test_the_best_step_outlives_all_others_and_is_named(tmp_path: Path) -> None:
    monitor = CheckpointMonitor(
        save_checkpoint_steps=1, keep_checkpoint_max=1, keep_best="eval_loss"
    )
    run(tmp_path, EvalCallBack(Evaluations(3.0, 1.0, 2.0), step_interval=1), monitor)
    root = tmp_path / "checkpoint"
    assert sorted(path.name for path in root.glob("step_*")) == ["step_00000002", "step_00000006"]
    best = json.loads((root / "best.json").read_text())
    assert best == {
        "step": "step_00000002", "metric": "eval_loss", "value": 1.0,
        "results": {"loss": 1.0, "tokens": 7},
    }  # fmt: skip


def test_a_best_step_between_two_saves_is_saved(tmp_path: Path) -> None:
    monitor = CheckpointMonitor(save_checkpoint_steps=100, keep_best="loss")
    run(tmp_path, EvalCallBack(Evaluations(3.0, 2.0, 5.0), step_interval=2), monitor)
    assert sorted(path.name for path in (tmp_path / "checkpoint").glob("step_*")) == [
        "step_00000002", "step_00000004", "step_00000006",
    ]  # fmt: skip


def test_a_resumed_run_knows_its_best_step_and_a_new_one_forgets_it(tmp_path: Path) -> None:
    def monitor() -> CheckpointMonitor:
        return CheckpointMonitor(
            save_checkpoint_steps=1, keep_checkpoint_max=1, keep_best="eval_loss"
        )

    root = tmp_path / "checkpoint"
    run(tmp_path, EvalCallBack(Evaluations(3.0, 1.0, 2.0), step_interval=1), monitor())
    evaluation = EvalCallBack(Evaluations(1.5), step_interval=1)
    run(tmp_path, evaluation, monitor(), resume_from=root / "step_00000006", epochs=2)
    assert json.loads((root / "best.json").read_text())["step"] == "step_00000002"
    assert (root / "step_00000002").is_dir()
    run(tmp_path, monitor())
    assert not (root / "best.json").exists()


def test_a_run_ends_when_its_evaluations_get_no_better(tmp_path: Path, run_log: Any) -> None:
    evaluation = EvalCallBack(Evaluations(3.0, 2.0, 2.5, 2.0, 1.0), step_interval=1)
    losses = run(tmp_path, evaluation, EarlyStopping(patience=2))
    assert len(losses.curve) == 4
    assert losses.events[-1] == "end"
    assert (
        "stopping early after step 4: eval_loss was not better than 2 in 2 evaluations"
        in run_log.text
    )


def test_a_signal_ends_an_evaluation_so_that_the_run_can_save(tmp_path: Path, run_log: Any) -> None:
    def find() -> dict[str, float]:
        for part in range(3):
            os.kill(os.getpid(), signal.SIGTERM) if part == 1 else None
            callback.go_on(1)
        pytest.fail("the evaluation went on")

    callback = EvalCallBack(find, step_interval=2)
    losses = run(tmp_path, callback, CheckpointMonitor(save_checkpoint_steps=100))
    assert len(losses.curve) == 2
    assert "the evaluation after step 2 is left: the run has to end" in run_log.text
    assert (tmp_path / "checkpoint" / "step_00000002").is_dir()
    assert evaluated_steps(tmp_path) == []


def test_patience_is_counted_on_after_a_resume(tmp_path: Path) -> None:
    losses = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    monitor = CheckpointMonitor(save_checkpoint_steps=3)
    run(
        tmp_path,
        EvalCallBack(Evaluations(*losses), step_interval=1),
        EarlyStopping(patience=9),
        monitor,
    )
    later = EvalCallBack(Evaluations(*losses[3:]), step_interval=1)
    step = tmp_path / "checkpoint" / "step_00000003"
    rest = run(tmp_path, later, EarlyStopping(patience=4), resume_from=step)
    assert [number for number, *_ in rest.curve] == [4, 5]


def test_a_difference_has_to_be_large_enough_and_a_baseline_has_to_be_bettered() -> None:
    best = BestValue("eval_loss", min_delta=0.1)
    assert [best.is_bettered({"loss": value}) for value in (1.0, 0.95, 0.85, math.nan)] == [
        True, False, True, False,
    ]  # fmt: skip
    high = BestValue("rouge-l", value=50.0)
    assert [high.is_bettered({"rouge-l": value}) for value in (40.0, 60.0, 55.0)] == [
        False, True, False,
    ]  # fmt: skip
    low = BestValue("custom", "min")
    assert [low.is_bettered({"custom": value}) for value in (4.0, 3.0, 5.0)] == [True, True, False]


def test_an_unknown_result_is_named_with_the_ones_there_are() -> None:
    with pytest.raises(
        ConfigError,
        match=r"called eval_los; allowed: eval_loss, eval_PPL; did you mean 'eval_loss'",
    ):
        BestValue("eval_los", where="EarlyStopping").is_bettered({"loss": 1.0, "PPL": 2.0})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EvalCallBack(dict, 0), "EvalCallBack.step_interval: is 0; allowed: 1 or more, or -1"),
        (lambda: EarlyStopping(patience=-1), "EarlyStopping.patience: is -1; allowed: 0 or more"),
        (lambda: EarlyStopping(mode="up"), "EarlyStopping.mode: is 'up'; allowed: auto, min, max"),
        (lambda: EarlyStopping(restore_best_weights=True), "restore_best_weights: True is not implemented"),
        (lambda: CheckpointMonitor(keep_best="eval_loss", keep_best_mode="up"), "keep_best.mode: is 'up'"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_an_evaluation_comes_before_a_save_and_on_every_process() -> None:
    evaluation = EvalCallBack(dict)
    sections = [{"type": "CheckpointMonitor"}, {"type": "EarlyStopping"}]
    named = build_callbacks(sections)
    names = [type(each).__name__ for each in before_saving(named, [evaluation])]
    assert names[-3:] == ["EarlyStopping", "EvalCallBack", "CheckpointMonitor"]
    others = before_saving(build_callbacks(sections, is_first=False), [evaluation])
    assert [type(each).__name__ for each in others] == names[-3:]

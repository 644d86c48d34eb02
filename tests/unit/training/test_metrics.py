"""metrics.jsonl, TensorBoard events, the loss plot, the progress bar, and the list of callbacks."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from rich.console import Console

from mindformers.errors import ConfigError, MissingExtraError
from mindformers.logger import logger, setup_console_logging
from mindformers.training import extras
from mindformers.training.callbacks import (
    CheckpointMonitor,
    LossPlot,
    MetricsWriter,
    MFLossMonitor,
    ProgressBar,
    build_callbacks,
)
from mindformers.training.loop import train
from mindformers.training.loss_plot import plot_loss, smooth
from mindformers.training.metrics import read_metrics
from mindformers.training.progress import numbers_text
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainSettings
from tests.unit.training.toy import Losses, ToyData, ToyNet, report_of, toy_step

pytestmark = pytest.mark.usefixtures("pynative")
PNG = b"\x89PNG\r\n\x1a\n"


def run(folder, callbacks, *, step=None, resume=None, data=None, **settings):
    losses = Losses()
    settings = TrainSettings(output_dir=folder, **settings)
    train(step or toy_step(), data or ToyData(), settings, callbacks=[losses, *callbacks],
          resume_from=resume)  # fmt: skip
    return losses


def test_every_step_is_one_json_line(tmp_path):
    losses = run(tmp_path, [MetricsWriter(tensorboard=False)], epochs=2)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"], row["lr"]) for row in rows] == losses.curve
    assert [row["epoch"] for row in rows] == [1] * 6 + [2] * 6
    assert [row["tokens"] for row in rows] == [12] * 12
    assert rows[-1]["total_tokens"] == 144
    assert all(row["grad_norm"] > 0 and row["seconds"] > 0 for row in rows)


def test_a_resumed_run_goes_on_without_a_step_twice(tmp_path):
    callbacks = [MetricsWriter(False), CheckpointMonitor(save_checkpoint_steps=3)]
    run(tmp_path, callbacks, max_steps=5)
    folder = tmp_path / "checkpoint" / "step_00000003"  # two steps were lost with a crash, say
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # and a line was cut
    run(tmp_path, callbacks, resume=folder)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_new_run_keeps_the_metrics_of_the_one_before_aside(tmp_path):
    run(tmp_path, [MetricsWriter(False)], max_steps=2)
    run(tmp_path, [MetricsWriter(False)], max_steps=1)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert len(read_metrics(tmp_path / "metrics.previous.jsonl")) == 2


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path):
    data = ToyData()
    data.ids[:] = 15
    step = toy_step(ToyNet(spike=1e30))
    run(tmp_path, [MetricsWriter(False)], step=step, data=data, max_steps=1, max_skipped_steps=1)
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (row["loss"], row["grad_norm"], row["skipped"]) == (None, None, True)


def test_tensorboard_events_have_upstreams_names(tmp_path):
    pytest.importorskip("tensorboardX")
    run(tmp_path, [MetricsWriter()], max_steps=2)
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (b"loss", b"learning-rate", b"grad-norm", b"iteration-time", b"throughput"):
        assert content.count(name) >= 2


def test_the_loss_curve_is_drawn_at_the_end_and_every_so_often(tmp_path):
    pytest.importorskip("matplotlib")
    seen = []

    class Look(Losses):
        def on_step_end(self, run, report):
            seen.append((tmp_path / "loss.png").exists())

    run(tmp_path, [LossPlot(every=3), Look()])
    assert seen == [False, False, True, True, True, True]
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_a_curve_of_one_point_and_a_rate_of_zero_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = plot_loss([(1, 2.5, 0.0)], tmp_path / "loss.png")
    assert path.read_bytes().startswith(PNG)


def test_smoothing_keeps_a_constant_and_averages_the_start():
    assert smooth([2.0, 2.0, 2.0], 5) == pytest.approx([2.0, 2.0, 2.0])
    # weights 1 and 2/3: (3 + 2/3 * 1) / (1 + 2/3)
    assert smooth([1.0, 3.0], 5) == pytest.approx([1.0, 2.2])


def test_a_missing_package_costs_one_line_with_the_pip_command(tmp_path, monkeypatch, run_log):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(extras, "_hinted", set())
    run(tmp_path, [MetricsWriter(), LossPlot(every=1)])
    hints = [r.message for r in run_log.records if "pip install" in r.message]
    assert hints == [
        "writing TensorBoard events needs tensorboardX, which is not installed; "
        "run: pip install 'mindformers[viz]'",
        "drawing loss.png needs matplotlib, which is not installed; "
        "run: pip install 'mindformers[viz]'",
    ]
    assert not (tmp_path / "loss.png").exists()
    with pytest.raises(MissingExtraError, match=r"run: pip install 'mindformers\[viz\]'"):
        plot_loss([(1, 1.0, 1.0)], tmp_path / "loss.png")


@pytest.fixture
def console_log():
    """Log to a text buffer as a run does; afterwards the logger is as before."""
    before, propagate, level = list(logger.handlers), logger.propagate, logger.level
    stream = io.StringIO()
    setup_console_logging(handler=logging.StreamHandler(stream))
    yield stream
    logger.handlers[:], logger.propagate = before, propagate
    logger.setLevel(level)


def test_without_a_terminal_the_bar_writes_nothing(tmp_path, console_log):
    stream = io.StringIO()
    run(tmp_path, [ProgressBar(Console(file=stream)), MFLossMonitor()])
    assert stream.getvalue() == ""
    assert "\x1b" not in console_log.getvalue()
    assert "Epoch:[  1/  1]" in console_log.getvalue()


def test_on_a_terminal_log_lines_pass_whole_above_the_bar(tmp_path, console_log):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, _environ={"TERM": "xterm"})
    run(tmp_path, [ProgressBar(console), MFLossMonitor()])
    shown = stream.getvalue()
    assert console_log.getvalue() == "", "the lines went through the bar's console"
    for step in range(1, 7):
        assert f"{{ Epoch:[  1/  1], step:[{step:5d}/    6], loss: " in shown
    assert "6/6" in shown
    assert "tokens/s" in shown
    logger.info("after the run")
    assert "after the run" in console_log.getvalue(), "the log has its own handler again"


def test_the_bar_gives_the_log_back_after_an_error(tmp_path, console_log):
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})

    class Fails(Losses):
        def on_step_end(self, run, report):
            raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        run(tmp_path, [ProgressBar(console), Fails()])
    logger.info("after the error")
    assert "after the error" in console_log.getvalue()


def test_the_numbers_beside_the_bar():
    report = report_of(loss=1.83417, lr=9.8e-7, num_tokens=2339, seconds=1.0, eta_seconds=723.4)
    assert numbers_text(report) == "loss 1.8342 | lr 9.8e-07 | 2339 tokens/s | 0:12:03 left"


def test_a_run_has_bar_metrics_and_plot_beside_what_its_yaml_names():
    found = build_callbacks([
        {"type": "CheckpointMonitor", "prefix": "glm4", "directory": None},
        {"type": "MFLossMonitor"},
        {"type": "LossPlot", "every": 7},
    ])  # fmt: skip
    names = [type(callback).__name__ for callback in found]
    assert names == ["ProgressBar", "MetricsWriter", "MFLossMonitor", "LossPlot",
                     "CheckpointMonitor"]  # fmt: skip
    assert found[3].every == 7


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "LossMonitr"}, "no callback is called 'LossMonitr'"),
        ({"type": "LossPlot", "evry": 1}, "callbacks.LossPlot: "),
        ({"type": "LossPlot", "every": 0}, "LossPlot.every: is 0; allowed: 1 or more"),
    ],
)
def test_a_wrong_callback_section_is_refused(section, message):
    with pytest.raises(ConfigError) as caught:
        build_callbacks([section])
    assert str(caught.value).startswith(message)


def test_the_newest_step_is_found_beside_the_other_outputs(tmp_path):
    run(tmp_path, build_callbacks([{"type": "CheckpointMonitor"}]), max_steps=2)
    assert find_resume_folder(True, str(tmp_path), tmp_path).name == "step_00000002"

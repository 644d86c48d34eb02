"""The training loop: order of events, limits, skipping, and what it refuses."""

from __future__ import annotations

import math
import signal
import time

import numpy as np
import pytest

from mindformers.errors import ConfigError, DataError, TrainingError
from mindformers.training import loop
from mindformers.training.callback import Callback
from mindformers.training.loop import train
from mindformers.training.run import TrainResult, TrainSettings
from tests.support.compare import assert_close
from tests.unit.training.toy import VOCAB, Losses, ToyData, ToyNet, toy_step, weights_of

pytestmark = pytest.mark.usefixtures("pynative")


def run(tmp_path, *, step=None, data=None, callbacks=(), schedule=None, **settings):
    losses = Losses()
    result = train(
        step or toy_step(),
        data or ToyData(),
        TrainSettings(output_dir=tmp_path, **settings),
        schedule=schedule,
        callbacks=[losses, *callbacks],
    )
    return result, losses


def test_events_come_in_order_and_the_result_tells_the_end(tmp_path):
    result, losses = run(tmp_path, epochs=2, accumulation=3)
    assert losses.events == [
        "begin", "step 1", "step 2", "epoch end", "step 3", "step 4", "epoch end", "end",
    ]  # fmt: skip
    assert (result.global_step, result.loss) == (4, losses.curve[-1][1])
    assert result.exit_code == 0
    assert result.seconds > 0


def test_the_loss_falls(tmp_path):
    _, losses = run(tmp_path, epochs=20)
    first, last = (np.mean([loss for _, loss, _ in part]) for part in
                   (losses.curve[:6], losses.curve[-6:]))  # fmt: skip
    assert last < first - 0.5


def test_the_schedule_is_asked_for_finished_steps(tmp_path):
    _, losses = run(tmp_path, schedule=lambda step: step / 1000)
    assert [lr for _, _, lr in losses.curve] == [step / 1000 for step in range(6)]


def test_without_a_schedule_the_optimizers_rate_holds(tmp_path):
    _, losses = run(tmp_path)
    assert {lr for _, _, lr in losses.curve} == {1e-2}


def test_accumulation_equals_a_larger_batch(tmp_path):
    small, big = toy_step(), toy_step()
    run(tmp_path, step=small, data=ToyData(batch_size=2), accumulation=3)
    run(tmp_path, step=big, data=ToyData(batch_size=6))
    for name, value in weights_of(big.network).items():
        assert_close(weights_of(small.network)[name], value, 1e-5, name)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    curves = [run(tmp_path, data=ToyData(seed=seed), seed=seed)[1].curve for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_max_steps_ends_a_run_early(tmp_path):
    result, _ = run(tmp_path, epochs=5, max_steps=7)
    assert result.global_step == 7


def test_batches_that_do_not_fill_a_step_are_named(tmp_path, run_log):
    result, _ = run(tmp_path, accumulation=4)
    assert result.global_step == 1
    assert "the last 2 batches of each epoch do not fill a step" in run_log.text


def test_too_little_data_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        run(tmp_path, accumulation=7)
    assert str(caught.value) == (
        "6 batches of 2 rows do not fill one step of 7; give more data, or lower batch_size or "
        "gradient_accumulation_steps"
    )


@pytest.mark.parametrize("name", ["epochs", "accumulation"])
def test_a_count_of_zero_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}: is 0; allowed: 1 or more"):
        run(tmp_path, **{name: 0})


class ShortData(ToyData):
    def batches(self, epoch, start=0):
        yield next(super().batches(epoch, start))


def test_data_that_ends_early_is_an_error(tmp_path):
    with pytest.raises(DataError, match="the data ended early in epoch 1, step 2"):
        run(tmp_path, data=ShortData())


def spiked(at):
    """Return data whose batch number ``at`` overflows in a network with a spike."""
    data = ToyData()
    order = np.random.default_rng((data.seed, 0)).permutation(data.num_rows)
    data.ids[order[2 * at + 1], 0] = VOCAB - 1
    return data


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_sample_and_layer(tmp_path):
    step = toy_step(ToyNet(spike=1e30))
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, step=step, data=spiked(4), accumulation=2)
    message = str(caught.value)
    assert message.startswith("step 3 (samples 8 to 11 of epoch 1): loss nan, gradient norm nan; ")
    assert "first bad layer: spike (ToySpike) (micro batch 0, rows 1)" in message
    assert "the weights are those of the step before" in message
    assert all(np.isfinite(value).all() for value in weights_of(step.network).values())


def test_a_step_may_be_skipped_and_the_run_goes_on(tmp_path, run_log):
    step = toy_step(ToyNet(spike=1e30))
    result, losses = run(tmp_path, step=step, data=spiked(4), max_skipped_steps=1)
    assert result.global_step == 6
    assert [math.isfinite(loss) for _, loss, _ in losses.curve] == [True] * 4 + [False, True]
    assert step.optimizer.step == 5
    assert "step 5 (samples 8 to 9 of epoch 1) is skipped: loss nan" in run_log.text


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
    data = ToyData()
    data.ids[:] = VOCAB - 1
    with pytest.raises(TrainingError, match="step 3 "):
        run(tmp_path, step=toy_step(ToyNet(spike=1e30)), data=data, max_skipped_steps=2)


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    network = ToyNet()
    network.layers[1].bias[0] = float("inf")
    with pytest.raises(TrainingError, match=r"the weight layers\.1\.bias is not finite"):
        run(tmp_path, step=toy_step(network))


class Reports(Callback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, run, report):
        self.seen.append(report)


def test_a_clock_that_jumps_back_gives_no_negative_time(tmp_path, monkeypatch):
    wall = iter(range(10_000, 0, -100))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    reports = Reports()
    run(tmp_path, callbacks=[reports])
    assert all(report.seconds >= 0 and report.eta_seconds >= 0 for report in reports.seen)
    assert reports.seen[-1].eta_seconds == 0


def test_the_time_left_is_the_mean_step_without_the_first(tmp_path, monkeypatch):
    ticks = iter([0.0] + [t for step, length in enumerate([50, 2, 4, 3, 3, 3])
                          for t in (100.0 * step, 100.0 * step + length)] + [999.0])  # fmt: skip
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(ticks))
    reports = Reports()
    run(tmp_path, callbacks=[reports])
    assert [r.seconds for r in reports.seen] == [50, 2, 4, 3, 3, 3]
    assert [r.eta_seconds for r in reports.seen] == [250, 8, 9, 6, 3, 0]


class Raises(Callback):
    def __init__(self, event):
        self.event = event

    def on_step_end(self, run, report):
        if self.event == "step":
            raise OSError("a full disk")

    def on_exception(self, run, error):
        raise OSError("again")


def test_an_error_in_a_callback_ends_the_run_and_reaches_the_others(tmp_path, run_log):
    losses, settings = Losses(), TrainSettings(output_dir=tmp_path)
    with pytest.raises(OSError, match="a full disk"):
        train(toy_step(), ToyData(), settings, callbacks=[losses, Raises("step")])
    assert losses.events == ["begin", "step 1", "OSError"]
    assert "Raises after the error: again" in run_log.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_has_its_exit_code(number, code):
    assert TrainResult(1, 2.0, 3.0, number).exit_code == code

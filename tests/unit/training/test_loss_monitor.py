"""The two log lines that parsers rely on, character by character."""

from __future__ import annotations

import pytest

from mindformers.errors import ConfigError
from mindformers.registry import MindFormerModuleType, MindFormerRegister
from mindformers.training.loss_monitor import MFLossMonitor, second_line
from tests.unit.training.toy import report_of


def test_the_first_line_is_upstreams():
    assert MFLossMonitor().first_line(report_of(), 1.2345) == (
        "{ Epoch:[  1/  5], step:[    2/   20], loss: 11.281303, per_step_time: 1234ms, "
        "lr: 1e-06, overflow cond: False, loss_scale: 1.0, global_norm: [1.23]"
    )


def test_the_second_line_is_upstreams():
    assert second_line(report_of(), 1.23405) == (
        f"   2.0% |█{' ' * 49}| 0.81034 samples/s/p  0:02:01 }}"
    )
    done = second_line(report_of(global_step=100, eta_seconds=0.0, num_samples=8), 2.0)
    assert done == f"  100.0% |{'█' * 50}| 4.00000 samples/s/p  0:00:00 }}"


def test_without_sink_mode_the_mean_of_the_epoch_stands_beside_the_loss(run_log):
    monitor = MFLossMonitor(dataset_sink_mode=False)
    for loss in (2.0, float("nan"), 4.0):
        monitor.on_step_end(None, report_of(loss=loss))
    assert "step:[    2/   20], loss:[4.000000/3.000000], per_step_time" in run_log.text


def test_lines_come_every_so_many_steps_and_at_the_end(run_log):
    monitor = MFLossMonitor(per_print_times=3)
    for step in range(1, 8):
        monitor.on_step_end(None, report_of(global_step=step, total_steps=7, seconds=step))
    lines = [r.message for r in run_log.records if "per_step_time" in r.message]
    assert [line.split("per_step_time: ")[1].split("ms")[0] for line in lines] == [
        "2000", "5000", "7000",
    ]  # fmt: skip


def test_upstreams_arguments_are_accepted_and_others_are_not():
    MFLossMonitor(per_print_times=2, origin_epochs=5, dataset_size=100, global_batch_size=8)
    with pytest.raises(ConfigError, match=r"MFLossMonitor.per_print_time: no such argument"):
        MFLossMonitor(per_print_time=2)
    with pytest.raises(ConfigError, match=r"MFLossMonitor.per_print_times: is 0; allowed: 1"):
        MFLossMonitor(per_print_times=0)


def test_it_is_registered_under_upstreams_name():
    found = MindFormerRegister.get_cls(MindFormerModuleType.CALLBACK, "MFLossMonitor")
    assert found is MFLossMonitor

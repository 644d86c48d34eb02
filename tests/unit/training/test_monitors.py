"""Profiles, norms and summaries of a run; steps skipped for their norm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mindformers import extras
from mindformers.errors import ConfigError, MissingExtraError, TrainingError
from mindformers.ops.native import library
from mindformers.training.callbacks import (
    CheckpointMonitor,
    ProfileMonitor,
    SummaryMonitor,
    TrainingStateMonitor,
    build_callbacks,
)
from mindformers.training.loop import train
from mindformers.training.run import TrainSettings
from tests.support.compare import assert_close
from tests.unit.training.toy import Losses, ToyData, toy_step, weights_of

pytestmark = pytest.mark.usefixtures("pynative")


def run(folder, callbacks, *, step=None, **settings):
    step = step or toy_step()
    losses = Losses()
    settings = TrainSettings(output_dir=folder, **settings)
    train(step, ToyData(), settings, callbacks=[losses, *callbacks])
    return step, losses


def scalars_in(folder):
    """Return tag -> values and the tags of histograms, from the files' own record format."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    scalars, histograms = {}, set()
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("histo"):
                    histograms.add(value.tag)
                else:
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, histograms


# --- profiles ------------------------------------------------------------------------------------


def test_a_profile_holds_mindspores_operators_and_the_kernels(native, tmp_path, run_log):
    run(tmp_path, [ProfileMonitor(2, 3)])
    content = json.loads((tmp_path / "profile" / "rank_0" / "kernels.json").read_text())
    assert content["steps"] == 2
    calls = {row["kernel"]: row["calls"] for row in content["kernels"]}
    assert calls["adam_update"] == 2
    assert calls["square_sum"] == 2
    inside = sum(row["seconds"] for row in content["kernels"])
    assert inside + content["outside_kernels"] == pytest.approx(content["seconds"], abs=1e-4)
    traces = list((tmp_path / "profile" / "rank_0").rglob("trace_view.json"))
    assert len(traces) == 1
    names = " ".join(str(event.get("name")) for event in json.loads(traces[0].read_text()))
    assert "MatMul" in names
    assert "profiled 2 steps" in run_log.text
    assert type(library.required()).__name__ == "CDLL", "the kernels are as they were"


def test_a_run_that_ends_or_fails_while_it_is_profiled_leaves_the_kernels_alone(native, tmp_path):
    run(tmp_path / "short", [ProfileMonitor(5, 100)], max_steps=6)
    content = json.loads((tmp_path / "short/profile/rank_0/kernels.json").read_text())
    assert content["steps"] == 2

    class Fails(Losses):
        def on_step_end(self, run, report):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        run(tmp_path / "fails", [ProfileMonitor(1, 3, output_path=str(tmp_path / "p")), Fails()])
    assert type(library.required()).__name__ == "CDLL"


def test_only_the_processes_that_are_named_are_profiled(tmp_path):
    run(tmp_path, [ProfileMonitor(1, 2, profile_rank_ids=[1])])
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_step": 3, "stop_step": 2}, "start_step, stop_step: are 3 and 2; allowed: the first"),
        ({"profiler_level": 3}, "ProfileMonitor.profiler_level: is 3; allowed: 0, 1 or 2"),
        ({"profile_pipeline": True}, "ProfileMonitor.profile_pipeline: True is not implemented"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_profile_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        ProfileMonitor(**arguments)
    assert message in str(caught.value)


# --- norms ---------------------------------------------------------------------------------------


def test_norms_of_gradients_weights_and_state_are_those_of_numpy(tmp_path, run_log):
    step, reference = toy_step(local_norm=True), toy_step()
    batches = list(ToyData().batches(0))
    monitor = TrainingStateMonitor(
        local_norm_format=["log", "tensorboard"], device_local_norm_format="tensorboard",
        weight_state_format="tensorboard", optimizer_state_format="tensorboard",
        step_interval=2, target=[r"layers\.0", "head"],
    )  # fmt: skip
    run(tmp_path, [monitor], step=step, max_steps=2)
    reference([batches[0]], 1e-2)
    _, grads = reference.gradients(batches[1])
    scalars, _ = scalars_in(tmp_path / "tensorboard")
    names = [parameter.name for parameter in reference.optimizer.parameters]
    norms = {n: float(np.linalg.norm(g.asnumpy())) for n, g in zip(names, grads, strict=True)}
    looked_at = [name for name in names if "layers.0" in name or name == "head"]
    for name in looked_at:
        ((number, value),) = scalars[f"local_norm/{name}"]
        assert number == 2
        assert_close(value, norms[name], 1e-5, name)
        assert f"step 2 local_norm {name}: " in run_log.text
        weight = np.linalg.norm(weights_of(step.network)[name])
        assert_close(scalars[f"weight_norm/{name}"][0][1], weight, 1e-5)
        first = np.linalg.norm(step.optimizer.state_dict()[f"adam_m.{name}"])
        assert_close(scalars[f"optimizer_state/adam_m.{name}"][0][1], first, 1e-5)
    assert_close(scalars["device_local_norm"][0][1], math.hypot(*norms.values()), 1e-5)
    assert not any("layers.1" in name or "embedding" in name for name in scalars)


def test_inverted_targets_are_the_others():
    monitor = TrainingStateMonitor(target=["layers"], invert=True)
    assert monitor.looks_at("head")
    assert not monitor.looks_at("layers.0.weight")


def test_a_norm_that_stays_too_large_ends_the_run(tmp_path):
    monitor = TrainingStateMonitor(check_for_global_norm=True, global_norm_spike_threshold=1e-6,
                                   global_norm_spike_count_threshold=3)  # fmt: skip
    with pytest.raises(TrainingError, match="gradient norm was 1e-06 or more in 3 steps in a row"):
        run(tmp_path, [monitor])
    quiet = TrainingStateMonitor(check_for_global_norm=True, global_norm_spike_threshold=1e6)
    assert len(run(tmp_path, [quiet])[1].curve) == 6


def test_throughput_is_compared_with_a_baseline(tmp_path, run_log):
    run(tmp_path, [TrainingStateMonitor(throughput_baseline=1.0)], max_steps=1)
    assert "throughput-linearity: " in run_log.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_state_format": "csv"}, "monitor_config.weight_state_format: found 'csv'; allowed:"),
        ({"step_interval": 0}, "monitor_config.step_interval: is 0; allowed: 1 or more"),
        ({"target": ["("]}, "monitor_config.target: '(' is no regular expression"),
        ({"local_loss_format": "log"}, "monitor_config.local_loss_format: 'log' is not implemented"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_monitor_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        TrainingStateMonitor(**arguments)
    assert str(caught.value).startswith(message)


def test_upstreams_form_of_a_step_gives_the_norms_of_the_parameters():
    from mindspore import Tensor

    step = toy_step(local_norm=True)
    batch = next(ToyData().batches(0))
    *_, norm, local, sizes = step(Tensor(batch["input_ids"]), Tensor(batch["labels"]))
    assert sizes.asnumpy().tolist() == [p.size for p in step.optimizer.parameters]
    assert_close(np.linalg.norm(local.asnumpy()), norm.asnumpy()[0], 1e-6)


# --- skipped steps -------------------------------------------------------------------------------


def test_a_step_of_a_large_norm_leaves_the_weights_as_they_are(tmp_path, run_log):
    plain = toy_step()
    norms = [plain([batch], 1e-2).grad_norm for batch in ToyData().batches(0)]
    limit = sorted(norms)[-1]
    step = toy_step(use_skip_data_by_global_norm=True, global_norm_spike_threshold=limit)
    step.network.set_train(True)
    before, results = weights_of(step.network), []
    for batch in ToyData().batches(0):
        results.append(step([batch], 1e-2))
        after = weights_of(step.network)
        same = all(np.array_equal(after[name], before[name]) for name in before)
        assert same == results[-1].is_spike
        assert results[-1].is_spike == (results[-1].grad_norm >= limit)
        before = after
    assert [result.is_spike for result in results].count(True) == 1
    assert step.optimizer.step == 5
    again = toy_step(use_skip_data_by_global_norm=True, global_norm_spike_threshold=limit)
    _, losses = run(tmp_path, [], step=again)
    assert len(losses.curve) == 6
    assert "is skipped: the gradient norm" in run_log.text


# --- summaries -----------------------------------------------------------------------------------


def test_a_summary_holds_scalars_and_the_histograms_asked_for(tmp_path):
    monitor = SummaryMonitor(collect_freq=3, collect_specified_data={"histogram_regular": "head"})
    _, losses = run(tmp_path, [monitor])
    scalars, histograms = scalars_in(tmp_path / "summary")
    expected = [(step, loss) for step, loss, _ in losses.curve if step % 3 == 0]
    assert_close(scalars["loss"], expected, 1e-6)
    assert histograms == {"head"}


def test_a_summary_without_tensorboardx_is_refused_with_the_line_to_install_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match="SummaryMonitor needs tensorboardX"):
        SummaryMonitor()
    with pytest.raises(MissingExtraError, match="monitor_config needs tensorboardX"):
        TrainingStateMonitor(weight_state_format="tensorboard")


def test_other_processes_call_what_is_for_every_process_alone():
    named = [{"type": "CheckpointMonitor"}, {"type": "ProfileMonitor"}, {"type": "MFLossMonitor"}]
    found = build_callbacks(named, is_first=False)
    assert [type(each) for each in found] == [ProfileMonitor, CheckpointMonitor]

"""When a step is saved, what is kept, and what is refused."""

from __future__ import annotations

import mindspore as ms
import pytest
from safetensors.numpy import load_file

from mindformers.errors import CheckpointError, ConfigError
from mindformers.training import checkpoint_monitor
from mindformers.training.callback import Callback
from mindformers.training.checkpoint_monitor import CheckpointMonitor
from mindformers.training.loop import train
from mindformers.training.run import TrainSettings
from tests.unit.training.toy import ToyData, ToyNet, toy_step, weights_of

pytestmark = pytest.mark.usefixtures("pynative")


def run(folder, monitor, *others, step=None, data=None, **settings):
    step = step or toy_step()
    settings = TrainSettings(output_dir=folder, **settings)
    train(step, data or ToyData(), settings, callbacks=[*others, monitor])
    return step


def steps_in(folder):
    return [int(path.name[5:]) for path in sorted((folder / "checkpoint").glob("step_*"))]


def test_steps_are_saved_at_their_interval_and_at_the_end(tmp_path):
    run(tmp_path, CheckpointMonitor(save_checkpoint_steps=4, keep_checkpoint_max=0))
    assert steps_in(tmp_path) == [4, 6]


def test_only_the_newest_are_kept(tmp_path):
    run(tmp_path, CheckpointMonitor(save_checkpoint_steps=1, keep_checkpoint_max=2))
    assert steps_in(tmp_path) == [5, 6]


def test_the_default_is_every_step_and_five_kept(tmp_path):
    run(tmp_path, CheckpointMonitor())
    assert steps_in(tmp_path) == [2, 3, 4, 5, 6]


def test_saving_by_time_counts_seconds(tmp_path, monkeypatch):
    now = iter(range(0, 1000, 3))  # every look at the clock is three seconds later
    monkeypatch.setattr(checkpoint_monitor.time, "monotonic", lambda: float(next(now)))
    run(tmp_path, CheckpointMonitor(save_checkpoint_seconds=30, keep_checkpoint_max=0))
    saved = steps_in(tmp_path)
    assert saved[-1] == 6
    assert len(saved) < 6


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
def test_the_weight_file_is_read_by_mindspore_and_by_safetensors(tmp_path, form):
    monitor = CheckpointMonitor("glm4", save_checkpoint_steps=6, checkpoint_format=form)
    step = run(tmp_path, monitor)
    path = tmp_path / "checkpoint" / "step_00000006" / "rank_0" / f"glm4_rank_0-1_6.{form}"
    loaded = ms.load_checkpoint(str(path), format=form)
    if form == "safetensors":
        assert set(load_file(path)) == set(loaded)
    for name, value in weights_of(step.network).items():
        assert loaded[name].asnumpy().tobytes() == value.tobytes()


def test_the_optimizer_file_has_upstreams_names(tmp_path):
    run(tmp_path, CheckpointMonitor(save_checkpoint_steps=6), step=toy_step(ToyNet(layers=1)))
    found = load_file(
        tmp_path / "checkpoint" / "step_00000006" / "rank_0" / "optimizer.safetensors"
    )
    names = ["embedding", "head", "layers.0.bias", "layers.0.weight"]
    assert sorted(found) == [f"adam_{kind}.{name}" for kind in "mv" for name in names]


def test_the_weights_alone_are_written_where_upstream_writes_them(tmp_path):
    monitor = CheckpointMonitor("glm4", save_checkpoint_steps=6, save_network_params=True,
                                checkpoint_format="safetensors")  # fmt: skip
    run(tmp_path, monitor)
    found = load_file(tmp_path / "checkpoint_network" / "rank_0" / "glm4_rank_0-1_6.safetensors")
    assert "embedding" in found


def test_another_directory_is_used_when_given(tmp_path):
    run(tmp_path, CheckpointMonitor(directory=str(tmp_path / "有 空格"), save_checkpoint_steps=6))
    assert (tmp_path / "有 空格" / "step_00000006" / "manifest.json").is_file()


def test_leftovers_of_a_killed_save_are_removed_at_the_start(tmp_path):
    leftover = tmp_path / "checkpoint" / ".tmp-999999999-deadbeef"
    leftover.mkdir(parents=True)
    run(tmp_path, CheckpointMonitor(), max_steps=1)
    assert not leftover.exists()


def test_steps_of_an_earlier_run_are_pointed_out(tmp_path, run_log):
    run(tmp_path, CheckpointMonitor(), max_steps=1)
    assert "earlier run" not in run_log.text
    run(tmp_path, CheckpointMonitor(), max_steps=1)
    assert "holds steps of an earlier run, up to step_00000001" in run_log.text


def test_too_little_room_is_told_at_the_start(tmp_path, monkeypatch, run_log):
    monkeypatch.setattr(checkpoint_monitor, "free_bytes", lambda path: 1 << 20)
    monkeypatch.setattr(checkpoint_monitor, "step_bytes", lambda run, form: 5 << 20)
    run(tmp_path, CheckpointMonitor(), max_steps=1)
    assert f"a checkpoint needs 5 MB, {tmp_path / 'checkpoint'} has 1 MB free" in run_log.text


def test_the_size_of_a_step_is_weights_and_two_moments(tmp_path):
    sizes = []

    class Look(Callback):
        def on_train_begin(self, run):
            form = CheckpointMonitor().form
            sizes.append(checkpoint_monitor.step_bytes(run, form))

    network = ToyNet()
    run(tmp_path, Look(), step=toy_step(network), max_steps=1)
    assert sizes == [3 * 4 * sum(p.size for p in network.get_parameters())]


class FailsAt(Callback):
    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_step_end(self, run, report):
        if report.global_step == self.step:
            raise self.error


def test_an_error_saves_nothing_by_default_and_the_step_with_exception_save(tmp_path):
    for save, expected in [(False, []), (True, [3])]:
        monitor = CheckpointMonitor(save_checkpoint_steps=5, exception_save=save)
        with pytest.raises(RuntimeError, match="broken"):
            run(tmp_path / str(save), monitor, FailsAt(3, RuntimeError("broken")))
        assert steps_in(tmp_path / str(save)) == expected


def test_a_failed_save_is_not_tried_again(tmp_path):
    monitor = CheckpointMonitor(save_checkpoint_steps=5, exception_save=True)
    with pytest.raises(CheckpointError):
        run(tmp_path, monitor, FailsAt(3, CheckpointError("no space")))
    assert steps_in(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": "my_rank_0"}, "prefix: is 'my_rank_0'; allowed: a file name without 'rank'"),
        ({"prefix": "a/b"}, "prefix: is 'a/b'; allowed: a file name without 'rank'"),
        ({"checkpoint_format": "pt"}, "checkpoint_format: is 'pt'; allowed: safetensors or ckpt"),
        ({"save_checkpoint_steps": 5, "save_checkpoint_seconds": 60},
         "save_checkpoint_seconds: is 60; allowed: 0 when save_checkpoint_steps is given"),
        ({"save_checkpoint_steps": -1}, "save_checkpoint_steps: is -1; allowed: 0 or more"),
        ({"async_save": True}, "async_save: True is not implemented; allowed: False"),
        ({"enc_key": b"x"}, "enc_key: b'x' is not implemented; allowed: None"),
        ({"keep_checkpoint_maxx": 1}, "keep_checkpoint_maxx: no such argument"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_with_its_key(arguments, message):
    with pytest.raises(ConfigError) as caught:
        CheckpointMonitor(**arguments)
    assert str(caught.value).startswith(f"CheckpointMonitor.{message}")


def test_the_glm4_finetune_section_is_accepted():
    CheckpointMonitor(prefix="glm4", checkpoint_format="ckpt", save_checkpoint_steps=1000,
                      keep_checkpoint_max=1, integrated_save=False)  # fmt: skip

"""The average of the weights: saved, resumed and written as weights of its own."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter

from mindformers.checkpoint.average import write_average
from mindformers.checkpoint.loading import open_weights
from mindformers.cli.main import dispatch
from mindformers.errors import CheckpointError
from mindformers.training.checkpoint_monitor import CheckpointMonitor
from mindformers.training.loop import train
from mindformers.training.optimizer import AdamW
from mindformers.training.param_groups import get_optimizer_grouped_parameters
from mindformers.training.resume import find_resume_folder
from mindformers.training.run import TrainSettings
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.compare import assert_close
from tests.unit.training.toy import ToyData, ToyNet

pytestmark = pytest.mark.usefixtures("pynative")


def run(folder, *, dtype=ms.float32, form="safetensors", decay=0.5, max_steps=None, resume=None):
    network = ToyNet(dtype=dtype)
    network.head.requires_grad = False
    groups = get_optimizer_grouped_parameters(network, 0.1)
    step = MFTrainOneStepCell(network, AdamW(groups, learning_rate=1e-2, ema_decay=decay))
    monitor = CheckpointMonitor(
        save_checkpoint_steps=3, keep_checkpoint_max=0, checkpoint_format=form
    )
    settings = TrainSettings(output_dir=folder, max_steps=max_steps, config_text="seed: 1\n")
    train(step, ToyData(), settings, callbacks=[monitor], resume_from=resume)
    return step


@pytest.mark.parametrize("form", ["ckpt", "safetensors"])
@pytest.mark.parametrize("dtype", [ms.float32, ms.bfloat16])
def test_the_average_becomes_weights(tmp_path, dtype, form):
    step = run(tmp_path / "run", dtype=dtype, form=form)
    folder = write_average(tmp_path / "run", tmp_path / "average")
    assert folder == tmp_path / "average" / "step_00000006"
    assert (folder / "config.yaml").read_text() == "seed: 1\n"
    state = step.optimizer.state_dict()
    with open_weights(tmp_path / "average") as weights:
        found = {name: weights.read(name) for name in weights.tensors}
    assert found.keys() == {parameter.name for parameter in step.network.get_parameters()}
    for parameter in step.network.get_parameters():
        average = state.get(f"ema.{parameter.name}")
        exact = parameter if average is None else Parameter(ms.Tensor(average)).astype(dtype)
        expected = exact.astype(ms.float32).asnumpy()
        np.testing.assert_array_equal(found[parameter.name].astype(np.float32), expected)
    moved = state["ema.embedding"] - step.network.embedding.astype(ms.float32).asnumpy()
    assert abs(moved).max() > 1e-4, "an average that is the weights proves nothing"


def test_a_resumed_run_has_the_average_of_an_unbroken_one(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "half", max_steps=3)
    resumed = run(tmp_path / "half", resume=find_resume_folder(True, "", tmp_path / "half"))
    for name, value in whole.optimizer.state_dict().items():
        assert value.tobytes() == resumed.optimizer.state_dict()[name].tobytes(), name


def test_the_average_starts_at_the_weights_the_run_starts_with(tmp_path):
    start = ToyNet().embedding.asnumpy().copy()
    step = run(tmp_path, decay=0.999, max_steps=1)
    expected = 0.999 * start + 0.001 * step.network.embedding.asnumpy()
    assert_close(step.optimizer.state_dict()["ema.embedding"], expected, 1e-7)


def test_the_command_prints_where_the_average_is(tmp_path, capsys):
    run(tmp_path / "run")
    step = tmp_path / "run" / "checkpoint" / "step_00000003"
    assert dispatch(["average", str(step), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "step_00000003")


def test_what_holds_no_average_is_refused(tmp_path):
    run(tmp_path / "run", decay=None)
    for source, output, message in [
        (tmp_path / "run", tmp_path / "out", "keeps no average of the weights; train with"),
        (tmp_path / "nothing", tmp_path / "out", "holds no committed step; name a step"),
        (tmp_path / "run", tmp_path / "run" / "checkpoint", "is the folder of the step itself"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            write_average(source, output)


def test_a_run_that_keeps_an_average_does_not_resume_one_without(tmp_path):
    run(tmp_path, decay=None, max_steps=3)
    with pytest.raises(CheckpointError, match=r"ema\.embedding: is missing from the optimizer"):
        run(tmp_path, resume=find_resume_folder(True, "", tmp_path))

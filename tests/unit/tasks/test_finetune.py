"""The parts of the finetune recipe that decide something."""

from __future__ import annotations

import logging

import pytest

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import ConfigError, DataError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.tasks import build
from mindformers.tasks.finetune import named_callbacks, set_recompute, train_settings
from mindformers.training.callbacks import build_callbacks


class Network:
    config = ChatGLM2Config(num_layers=4)

    def __init__(self) -> None:
        self.whole, self.parts = 0, (0, 0)

    def recompute_layers(self, count: int) -> None:
        self.whole = count

    def recompute_parts(self, first: int, stop: int) -> None:
        self.parts = (first, stop)


def recomputed(**section) -> Network:
    config = MindFormerConfig({"recompute_config": section, "model": {}}).bind()
    network = Network()
    set_recompute(network, config)
    return network


@pytest.mark.parametrize(
    ("value", "layers"), [(True, 4), (False, 0), ([3], 3), ([9], 4), ([2, 1], 0)]
)
@pytest.mark.parametrize("key", ["recompute", "select_recompute"])
def test_recompute_counts_layers(
    key: str, value, layers: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mindformers"):
        network = recomputed(**{key: value})
    assert (network.whole if key == "recompute" else network.parts[1]) == layers
    assert ("no effect in one process" in caplog.text) == (value == [2, 1])


def test_parts_are_recomputed_of_layers_that_are_not_recomputed_whole() -> None:
    assert recomputed(recompute=[1], select_recompute=True).parts == (1, 4)
    both = recomputed(recompute=True, select_recompute=[2])
    assert (both.whole, both.parts) == (4, (0, 0))


class Rows:
    seq_length = 64


def test_rows_longer_than_the_network_are_refused_and_shorter_ones_are_not() -> None:
    build.check_dataset(Rows(), ChatGLM2Config(seq_length=64))
    with pytest.raises(DataError, match="rows of 64 tokens for a network of seq_length 48"):
        build.check_dataset(Rows(), ChatGLM2Config(seq_length=48))


def test_a_file_without_model_or_data_is_refused() -> None:
    config = MindFormerConfig({"run_mode": "finetune"}).bind()
    with pytest.raises(ConfigError, match="no model section"):
        build.network_settings(config)
    with pytest.raises(ConfigError, match="no training data is named"):
        build.build_train_dataset(config, Network())


def test_other_keys_add_their_callbacks_and_bound_the_run() -> None:
    config = MindFormerConfig({
        "profile": True, "profile_start_step": 3, "profile_stop_step": 4, "profile_level": 0,
        "monitor_config": {"monitor_on": True, "local_norm_format": "log", "step_interval": 5},
        "callbacks": [{"type": "TrainCallBack", "stop_step": 7}, {"type": "CheckpointMonitor"}],
        "runner_config": {"stop_step": 9},
    }).bind()  # fmt: skip
    named = {each["type"]: each for each in named_callbacks(config)}
    assert list(named) == [
        "MFLossMonitor",
        "CheckpointMonitor",
        "ProfileMonitor",
        "TrainingStateMonitor",
    ]
    assert (named["ProfileMonitor"]["start_step"], named["ProfileMonitor"]["stop_step"]) == (3, 4)
    assert named["TrainingStateMonitor"]["step_interval"] == 5
    assert train_settings(config).max_steps == 7
    types = [type(each).__name__ for each in build_callbacks(list(named.values()))]
    assert types == ["ProgressBar", "MetricsWriter", "LossPlot", "MFLossMonitor", "ProfileMonitor",
                     "TrainingStateMonitor", "CheckpointMonitor"]  # fmt: skip


def test_a_profile_that_is_listed_is_not_added_again() -> None:
    config = MindFormerConfig(
        {"profile": True, "callbacks": [{"type": "ProfileMonitor", "stop_step": 2}]}
    ).bind()
    assert [each.get("stop_step") for each in named_callbacks(config)] == [None, 2]
    assert train_settings(config).max_steps is None

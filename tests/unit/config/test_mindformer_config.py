import copy
import pickle

import pytest

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.run_config import RunConfig
from mindformers.errors import ConfigError
from tests.support.config_files import write

TEXT = """\
seed: 42
model:
  model_config: {type: ChatGLM2Config, num_layers: 2}
callbacks:
  - type: MFLossMonitor
  - {type: CheckpointMonitor, prefix: glm4}
"""


@pytest.fixture
def config(tmp_path):
    return MindFormerConfig(str(write(tmp_path, TEXT)))


def test_items_and_attributes_reach_the_same_value(config):
    assert (
        config.model.model_config.num_layers == config["model"]["model_config"]["num_layers"] == 2
    )
    assert config.callbacks[1].prefix == "glm4"
    assert isinstance(config.model, MindFormerConfig)


def test_later_arguments_and_keywords_win(tmp_path):
    path = write(tmp_path, TEXT)
    config = MindFormerConfig(str(path), {"model": {"model_config": {"seq_length": 8}}}, seed=7)
    assert config.seed == 7
    assert config.model.model_config == {"type": "ChatGLM2Config", "num_layers": 2, "seq_length": 8}


def test_a_known_key_that_is_not_set_has_its_default(config):
    assert config.output_dir == "./output"
    assert config["use_parallel"] is False
    assert config.model.model_config.seq_length == 2048
    assert config.callbacks[1].keep_checkpoint_max == 5
    assert config.train_dataset is None
    assert config.optimizer is None
    assert "output_dir" not in config


def test_a_default_list_is_not_shared(config):
    config.model.model_config.auto_map = None
    first = MindFormerConfig(optimizer={"type": "AdamW"})
    first.optimizer.betas.append(3)
    assert MindFormerConfig(optimizer={"type": "AdamW"}).optimizer.betas == [0.9, 0.999]


def test_an_unknown_name_is_an_error_with_the_nearest_one(config):
    with pytest.raises(AttributeError, match="no setting is called 'sed'; did you mean 'seed'"):
        _ = config.sed
    with pytest.raises(
        KeyError, match="no setting is called 'num_layer'; did you mean 'num_layers'"
    ):
        config.model.model_config["num_layer"]
    with pytest.raises(AttributeError, match="no setting is called 'prefx'; did you mean 'prefix'"):
        _ = config.callbacks[1].prefx
    assert not hasattr(config, "sed")
    assert getattr(config, "sed", 3) == 3
    assert config.get("sed") is None


def test_values_can_be_set_and_removed(config):
    config.seed = 1
    config["run_mode"] = "finetune"
    config.model.model_config.num_layers = 3
    config.context = {"mode": 1}
    assert config.context.mode == 1
    del config.run_mode
    assert config.to_dict() == {
        "seed": 1,
        "model": {"model_config": {"type": "ChatGLM2Config", "num_layers": 3}},
        "callbacks": [{"type": "MFLossMonitor"}, {"type": "CheckpointMonitor", "prefix": "glm4"}],
        "context": {"mode": 1},
    }
    with pytest.raises(AttributeError):
        del config.run_mode
    assert config.setdefault("run_mode", "predict") == "predict"


def test_dotted_paths_set_and_get(config):
    config.merge_from_dict({"model.model_config.seq_length": 16, "callbacks.1.prefix": "x",
                            "context": {"mode": 1}})  # fmt: skip
    config.set_value("context.device_target", "CPU")
    assert config.context == {"mode": 1, "device_target": "CPU"}
    assert config.get_value("model.model_config.seq_length") == 16
    assert config.get_value("callbacks.1.prefix") == "x"
    assert config.get_value("callbacks.7.prefix", "none") == "none"
    assert config.get_value("no.such.path") is None
    assert config.get_value("train_dataset.seed", 5) == 5
    with pytest.raises(ConfigError, match=r"callbacks.5.prefix: 5 is no item of a list of 2"):
        config.set_value("callbacks.5.prefix", "x")


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_a_data_set_set_by_its_path_is_set_in_its_tasks_copy_too(name: str) -> None:
    section = {"data_loader": {"type": "MindDataset", "dataset_dir": ""}}
    config = MindFormerConfig({name: section, f"{name}_task": {"dataset_config": section}})
    config.set_value(f"{name}.data_loader.dataset_dir", "rows.mindrecord")
    copied = config[f"{name}_task"].dataset_config
    assert copied == config[name]
    assert copied.data_loader.dataset_dir == "rows.mindrecord"


def test_a_copy_is_independent_and_pickling_keeps_everything(config):
    for other in (copy.deepcopy(config), config.copy(), pickle.loads(pickle.dumps(config))):
        assert other == config
        other.model.model_config.num_layers = 9
        other.callbacks[0].per_print_times = 4
        assert config.model.model_config.num_layers == 2
        assert config.callbacks[0].per_print_times == 1
        assert other.output_dir == "./output"
        with pytest.raises(AttributeError, match="did you mean 'seed'"):
            _ = other.sed


def test_binding_gives_the_typed_settings(config):
    run = config.bind()
    assert isinstance(run, RunConfig)
    assert run.model.network.num_layers == 2
    assert (
        MindFormerConfig(model={"model_config": {"num_layers": 3}}).bind().model.network.num_layers
        == 3
    )
    assert MindFormerConfig().bind() == RunConfig()


def test_a_report_names_the_line_of_what_the_file_holds_only(tmp_path):
    path = write(tmp_path, "seed: -1\nrunner_config:\n  epochs: 0\n")
    config = MindFormerConfig(path)
    config.runner_config.epochs = -5
    with pytest.raises(ConfigError) as caught:
        config.bind()
    assert f"{path}:1: seed: found -1" in str(caught.value)
    assert "runner_config.epochs: found -5" in str(caught.value)
    assert f"{path}:3" not in str(caught.value)


@pytest.mark.parametrize("argument", ["glm4_9b", "run.json", "", 3, ["a.yaml"]])
def test_what_is_no_yaml_path_and_no_dict_is_refused(argument):
    with pytest.raises(ConfigError, match="allowed: YAML paths and dicts"):
        MindFormerConfig(argument)


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match="no_such.yaml does not exist"):
        MindFormerConfig("no_such.yaml")


def test_its_text_is_the_plain_dict_without_secrets():
    config = MindFormerConfig(seed=1, callbacks=[{"type": "CheckpointMonitor"}])
    assert str(config) == "{'seed': 1, 'callbacks': [{'type': 'CheckpointMonitor'}]}"
    assert repr(config) == f"MindFormerConfig({config})"
    assert "s3cret" not in str(MindFormerConfig(remote_save_url="s3cret"))
    assert "s3cret" not in str(MindFormerConfig(callbacks=[{"enc_key": "s3cret"}]))


def test_a_path_may_be_a_list_of_keys() -> None:
    config = MindFormerConfig({"callbacks": [{"type": "CheckpointMonitor"}]})
    config.set_value(["runner_config", "epochs"], 3)
    config.set_value(["callbacks", 0, "prefix"], "glm4")
    assert config.get_value(["runner_config", "epochs"]) == 3
    assert config.get_value(["callbacks", "0", "prefix"]) == "glm4"
    assert config.get_value(["runner_config", "nothing"], 5) == 5

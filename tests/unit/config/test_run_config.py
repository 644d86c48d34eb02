import pytest
import yaml
from pydantic import ValidationError

from mindformers.config.loader import Document
from mindformers.config.overrides import Patch
from mindformers.config.run_config import RunConfig, bind_run_config, load_run_config
from mindformers.errors import ConfigError
from tests.support.config_files import CONFIGS, bind, refused, write


def test_an_empty_file_has_the_published_defaults():
    config = bind()
    assert (config.seed, config.output_dir, config.use_parallel) == (1, "./output", False)
    assert (config.runner_config.epochs, config.runner_config.batch_size) == (1, 1)
    assert (config.optimizer.learning_rate, config.optimizer.betas) == (5e-5, [0.9, 0.999])
    assert config.context.device_target == "Ascend"
    assert config.runner_wrapper.use_clip_grad
    assert config.model is None


def test_a_wrapper_section_without_the_key_does_not_clip():
    assert not bind(runner_wrapper={"type": "MFTrainOneStepCell"}).runner_wrapper.use_clip_grad


def test_an_empty_section_is_one_that_is_left_out():
    config = bind(optimizer=None, callbacks=None, context=None, load_checkpoint=None)
    assert config.optimizer.type == "AdamW"
    assert config.callbacks == []
    assert config.load_checkpoint == ""


def test_nothing_changes_after_binding():
    config = bind(seed=3)
    with pytest.raises(ValidationError):
        config.seed = 4
    with pytest.raises(ValidationError):
        config.context.mode = 1


def test_rules_hold_for_a_config_built_without_a_file():
    callbacks = [{"type": "MFLossMonitor"}] * 2
    with pytest.raises(ValidationError, match="callbacks: MFLossMonitor is listed twice"):
        RunConfig.model_validate({"callbacks": callbacks})


def test_patches_win_over_the_file_and_are_named_in_a_report(tmp_path):
    path = write(tmp_path, "seed: 1\n")
    assert load_run_config(path, [Patch(("seed",), 7, "command line: --seed")]).seed == 7
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, [Patch(("sed",), 7, "command line: --sed")])
    assert str(caught.value) == "command line: --sed: unknown key 'sed'; did you mean 'seed'?"


def test_the_training_set_may_stand_in_the_task_alone():
    config = bind(train_dataset_task={"dataset_config": {"data_loader": {"dataset_dir": "x"}}})
    assert config.train_dataset.data_loader.dataset_dir == "x"


def test_the_batch_of_a_step_counts_micro_batches_and_copies():
    runner = {"batch_size": 2, "gradient_accumulation_steps": 3}
    parallel = {"data_parallel": 4}
    assert bind(runner_config=runner, parallel_config=parallel).global_batch_size == 6
    config = bind(runner_config=runner, parallel_config=parallel, use_parallel=True)
    assert config.global_batch_size == 24
    assert config.parallel_config.num_processes == 4


def test_load_checkpoint_wins_over_the_models_own_path():
    model = {"model_config": {"checkpoint_name_or_path": "own"}}
    assert bind(model=model).weights_path == "own"
    assert bind(model=model, load_checkpoint="given").weights_path == "given"
    assert bind().weights_path == ""


def test_callbacks_are_found_by_kind():
    config = bind(callbacks=[{"type": "CheckpointMonitor", "prefix": "glm4"}])
    assert config.checkpoint_monitor.prefix == "glm4"
    assert config.loss_monitor.per_print_times == 1
    assert (
        bind(callbacks=[{"type": "MFLossMonitor", "per_print_times": 5}]).loss_monitor
        == (bind(callbacks=[{"type": "MFLossMonitor", "per_print_times": 5}]).callbacks[0])
    )
    assert bind().checkpoint_monitor is None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_resolved_settings_bind_again_to_the_same(path):
    config = load_run_config(path)
    text = yaml.safe_dump(config.to_dict(), allow_unicode=True, sort_keys=False)
    document = Document(yaml.safe_load(text))
    assert bind_run_config(document) == config


@pytest.mark.parametrize("key", ["1", "a b", "中文", "__class__", "model_fields"])
def test_no_odd_key_slips_through(key):
    assert f"unknown key {key!r}" in refused(**{key: 1})

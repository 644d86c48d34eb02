"""``TrainingArguments``: flat arguments as the settings of a run."""

from __future__ import annotations

import logging

import pytest

from mindformers import MindFormerConfig
from mindformers.errors import ConfigError
from mindformers.tasks.training_args import TrainingArguments

YAML = {
    "optimizer": {"type": "AdamW", "betas": [0.8, 0.95], "learning_rate": 1e-4},
    "lr_schedule": {"type": "LinearWithWarmUpLR", "learning_rate": 1e-4},
    "runner_config": {"epochs": 7, "batch_size": 3},
    "callbacks": [{"type": "CheckpointMonitor", "prefix": "glm4", "save_checkpoint_steps": 9}],
}


def settings(**arguments):
    return TrainingArguments(**arguments).convert_args_to_mindformers_config().bind()


def test_arguments_reach_their_settings() -> None:
    run = settings(
        output_dir="out", num_train_epochs=2.0, per_device_train_batch_size=4, learning_rate=1e-3,
        lr_end=1e-5, warmup_ratio=0.1, adam_beta2=0.95, weight_decay=0.1, train_dataset="data",
        use_cpu=True, save_steps=10, save_prefix="glm4", logging_steps=5, max_grad_norm=0.5,
    )  # fmt: skip
    assert (run.output_dir, run.seed, run.context.device_target) == ("out", 42, "CPU")
    assert (run.runner_config.epochs, run.runner_config.batch_size) == (2, 4)
    assert (run.lr_schedule.type, run.lr_schedule.lr_end) == ("CosineWithWarmUpLR", 1e-5)
    assert run.lr_schedule.learning_rate == run.optimizer.learning_rate == 1e-3
    assert (run.optimizer.betas, run.optimizer.weight_decay) == ([0.9, 0.95], 0.1)
    assert run.train_dataset.data_loader.dataset_dir == "data"
    assert run.checkpoint_monitor.prefix == "glm4"
    assert run.checkpoint_monitor.save_checkpoint_steps == 10
    assert run.loss_monitor.per_print_times == 5
    assert run.runner_wrapper.max_grad_norm == 0.5


def test_arguments_of_an_evaluation_reach_their_settings() -> None:
    run = settings(
        do_eval=True, eval_dataset="rows.jsonl", eval_steps=20, eval_epochs=2,
        metric_type=["ADGENMetric", "PerplexityMetric"],
    )  # fmt: skip
    assert run.do_eval
    assert run.eval_dataset.data_loader.dataset_dir == "rows.jsonl"
    assert (run.eval_step_interval, run.eval_epoch_interval) == (20, 2)
    assert [each.type for each in run.metric] == ["ADGENMetric", "PerplexityMetric"]
    assert settings(metric_type="EmF1Metric").metric[0].type == "EmF1Metric"


def test_only_arguments_that_were_given_change_a_file() -> None:
    arguments = TrainingArguments("out", adam_beta1=0.7, batch_size=5, lr_end=1e-6)
    run = arguments.convert_args_to_mindformers_config(MindFormerConfig(YAML)).bind()
    assert run.optimizer.betas == [0.7, 0.95]
    assert run.optimizer.learning_rate == 1e-4
    assert (run.runner_config.epochs, run.runner_config.batch_size) == (7, 5)
    assert run.checkpoint_monitor.save_checkpoint_steps == 9
    assert run.lr_schedule.type == "LinearWithWarmUpLR"


@pytest.mark.parametrize(
    ("arguments", "check"),
    [
        ({"save_strategy": "no"}, lambda run: run.checkpoint_monitor is None),
        ({"save_seconds": 60}, lambda run: run.checkpoint_monitor.save_checkpoint_seconds == 60),
        ({"lr_scheduler_type": "linear"}, lambda run: run.lr_schedule.type == "LinearWithWarmUpLR"),
        ({"batch_size": 2}, lambda run: run.runner_config.batch_size == 2),
        (
            {"resume_from_checkpoint": "steps"},
            lambda run: (run.load_checkpoint, run.resume_training) == ("steps", True),
        ),
        ({"scale_sense": 8.0}, lambda run: run.runner_wrapper.scale_sense == 8.0),
    ],
)
def test_an_argument_may_be_several_settings(arguments, check) -> None:
    assert check(settings(**arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learnin_rate": 1}, r"learnin_rate: no such argument; did you mean 'learning_rate'"),
        ({"push_to_hub": True}, r"push_to_hub: True is not implemented; allowed: False"),
        ({"evaluation_strategy": "steps"}, r"evaluation_strategy: 'steps' is not implemented"),
        ({"num_train_epochs": 1.5}, r"num_train_epochs: is 1\.5; allowed: a whole number"),
        (
            {"scale_sense": "DynamicLossScaleUpdateCell"},
            r"scale_sense: .*a loss scale that changes",
        ),
        ({"optim": "Came"}, r"optimizer\.type"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(arguments, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**arguments)


def test_what_changes_nothing_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="mindformers"):
        arguments = TrainingArguments(hub_model_id="somewhere", parallel_mode=0)
    assert "TrainingArguments: hub_model_id has no effect here" in caplog.text
    assert (arguments.hub_model_id, arguments.num_train_epochs) == ("somewhere", 3.0)
    with pytest.raises(AttributeError, match="has no argument 'nope'"):
        _ = arguments.nope


def test_adams_own_defaults_are_not_given_to_another_optimizer() -> None:
    run = settings(optim="Lion", layer_scale=True, layer_decay=0.8)
    assert (run.optimizer.type, run.optimizer.betas) == ("Lion", [0.9, 0.99])
    assert (run.layer_scale, run.layer_decay) == (True, 0.8)
    with pytest.raises(ConfigError, match=r"optimizer\.eps"):
        settings(optim="Lion", adam_epsilon=1e-8)

"""Values each section takes and refuses; the numbers are those of the published files."""

import pytest

from mindformers.config.lr_schedule import ALIASES
from tests.support.config_files import bind, refused

SCHEDULES = {
    "ConstantWarmUpLR": {"warmup_steps": 3},
    "LinearWithWarmUpLR": {"total_steps": 10},
    "CosineWithWarmUpLR": {
        "lr_end": 1e-6,
        "warmup_ratio": 0,
        "total_steps": -1,
        "decay_ratio": 0.5,
    },
    "CosineWithRestartsAndWarmUpLR": {"num_cycles": 2.0, "decay_steps": 5},
    "PolynomialWithWarmUpLR": {"power": 2, "lr_end": 1e-7},
    "CosineAnnealingLR": {"base_lr": 1e-3, "t_max": 5},
    "CosineAnnealingWarmRestarts": {"base_lr": 1e-3, "t_0": 5, "t_mult": 2},
    "WarmUpStableDecayLR": {"decay_start_ratio": 0.8},
    "ConstantWithCoolDownLR": {"keep_steps": 3, "final_steps": 2, "lr_end2": 0.0},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_binds_with_its_arguments(name):
    schedule = bind(lr_schedule={"type": name, **SCHEDULES[name]}).lr_schedule
    assert schedule.type == name
    for key, value in SCHEDULES[name].items():
        assert getattr(schedule, key) == value


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_a_short_name_of_a_schedule_becomes_the_full_one(alias, name):
    assert bind(lr_schedule={"type": alias, **SCHEDULES[name]}).lr_schedule.type == name


def test_the_default_schedule_is_the_cosine():
    assert bind(lr_schedule={"learning_rate": 1e-3}).lr_schedule.type == "CosineWithWarmUpLR"


BAD = [
    ("lr_schedule", {"warmup_ratio": 1.5}, "lr_schedule.warmup_ratio: found 1.5; allowed: 1.0 or less"),
    ("lr_schedule", {"warmup_ratio": -0.1}, "lr_schedule.warmup_ratio: found -0.1; allowed: 0.0 or more"),
    ("lr_schedule", {"learning_rate": -1e-6},
     "lr_schedule.learning_rate: found -1e-06; allowed: 0.0 or more"),
    ("lr_schedule", {"learning_rate": "1e-6"},
     "lr_schedule.learning_rate: found '1e-6' (text); allowed: a number"),
    ("lr_schedule", {"total_steps": 0},
     "lr_schedule.total_steps: found 0; allowed: -1 or null (the whole run), or 1 or more"),
    ("lr_schedule", {"type": 3}, "lr_schedule.type: found 3; allowed: ConstantWarmUpLR, "),
    ("runner_config", {"batch_size": 0}, "runner_config.batch_size: found 0; allowed: 1 or more"),
    ("runner_config", {"epochs": -1}, "runner_config.epochs: found -1; allowed: 1 or more"),
    ("runner_config", {"gradient_accumulation_steps": 0},
     "runner_config.gradient_accumulation_steps: found 0; allowed: 1 or more"),
    ("runner_config", {"sink_size": 0},
     "runner_config.sink_size: found 0; allowed: -1 (a whole epoch), or 1 or more"),
    ("runner_config", {"stop_step": -1}, "runner_config.stop_step: found -1; allowed: 0 or more"),
    ("runner_wrapper", {"max_grad_norm": 0}, "runner_wrapper.max_grad_norm: found 0; allowed: more than 0"),
    ("runner_wrapper", {"scale_sense": {"type": "DynamicLossScaleUpdateCell"}},
     "runner_wrapper.scale_sense: found DynamicLossScaleUpdateCell: a loss scale that changes is not "
     "implemented; allowed: a number, as in 'scale_sense: 1024.0'"),
    ("optimizer", {"type": "Adam"}, "optimizer.type: found 'Adam' (text); allowed: AdamW, SGD, Lion"),
    ("optimizer", {"betas": [0.9, 1.0]}, "optimizer.betas.1: found 1.0; allowed: less than 1"),
    ("optimizer", {"amsgrad": True}, "optimizer.amsgrad: found true: AMSGrad is not implemented"),
    ("context", {"max_device_memory": "58"},
     r"context.max_device_memory: found '58' (text); allowed: text of the form ^\d+(\.\d+)?GB$"),
    ("moe_config", {"expert_num": 8},
     "moe_config.expert_num: found 8: a mixture of experts is not implemented; allowed: 1"),
    ("optimizer", {"type": "SGD", "nesterov": True},
     "optimizer.nesterov: nesterov stands with momentum 0.0 and dampening 0.0; allowed: with a momentum"),
    ("optimizer", {"type": "Adafactor", "warmup_init": True},
     "optimizer.warmup_init: warmup_init stands without relative_step; allowed: both, or neither"),
    ("optimizer", {"type": "Muon", "ns_steps": 0}, "optimizer.ns_steps: found 0; allowed: 1 or more"),
    ("optimizer", {"ema_decay": 1.0}, "optimizer.ema_decay: found 1.0; allowed: less than 1"),
    ("optimizer", {"lr_scales": {"*": -1.0}}, "optimizer.lr_scales.*: found -1.0; allowed: 0.0 or more"),
    ("lr_schedule", {"type": "linear", "warmup_epochs": 1, "warmup_steps": 5},
     "lr_schedule.warmup_epochs: warmup_epochs 1 stands beside warmup_steps or warmup_ratio"),
    ("monitor_config", {"weight_state_format": "csv"}, "monitor_config.weight_state_format: found 'csv'"),
    ("monitor_config", {"local_loss_format": "log"},
     "monitor_config.local_loss_format: found 'log' (text): the loss of each process is not implemented"),
    ("monitor_config", {"stable_rank_config": {"format": "log"}},
     "monitor_config.stable_rank_config: stable ranks are not implemented; allowed: format null"),
    ("swap_config", {"swap": True}, "swap_config.swap: found true: swapping activations to the host"),
    ("train_dataset", {"input_columns": ["input_ids"]},
     "train_dataset.input_columns: found ['input_ids']: another set of columns is not implemented"),
    ("train_dataset", {"data_loader": {"num_samples": 0}},
     "train_dataset.data_loader.num_samples: found 0; allowed: 1 or more"),
    ("train_dataset", {"data_loader": {"dataset_dir": 3}},
     "train_dataset.data_loader.dataset_dir: found 3; allowed: text or a list"),
    ("processor", {"tokenizer": {"trust_remote_code": True}},
     "processor.tokenizer.trust_remote_code: found true: running code of a model folder"),
    ("processor", {"tokenizer": {"padding_side": "middle"}},
     "processor.tokenizer.padding_side: found 'middle' (text); allowed: 'left' or 'right'"),
    ("callbacks", [{"type": "CheckpointMonitor", "prefix": "rank_0"}],
     "callbacks.0.prefix: found 'rank_0'; allowed: a file name's beginning without '/' and 'rank'"),
    ("callbacks", [{"type": "CheckpointMonitor", "checkpoint_format": "bin"}],
     "callbacks.0.checkpoint_format: found 'bin' (text); allowed: 'ckpt' or 'safetensors'"),
    ("callbacks", [{"type": "CheckpointMonitor", "save_checkpoint_steps": 5,
                    "save_checkpoint_seconds": 60}],
     "callbacks.0.save_checkpoint_seconds: save_checkpoint_seconds 60 stands beside "
     "save_checkpoint_steps 5; allowed: one of them"),
    ("callbacks", [{"type": "MFLossMonitor", "per_print_times": 0}],
     "callbacks.0.per_print_times: found 0; allowed: 1 or more"),
    ("eval_step_interval", 0, "eval_step_interval: found 0; allowed: -1 (off), or 1 or more"),
    ("metric", {"type": "ADGENMetrc"}, "metric.type: found 'ADGENMetrc' (text); allowed: 'PerplexityMetric'"),
    ("metric", "ADGENMetric", "metric: found 'ADGENMetric' (text); allowed: a list"),
    ("callbacks", [{"type": "ProfileMonitor", "start_step": 3, "stop_step": 2}],
     "callbacks.0.stop_step: stop_step 2 comes before start_step 3; allowed: the same step or a later"),
    ("callbacks", [{"type": "SummaryMonitor", "collect_specified_data": {"collect_graph": "x"}}],
     "callbacks.0.collect_specified_data"),
    ("callbacks", [{"type": "StressDetectCallBack", "detection_interval": 10}],
     "callbacks.0: found StressDetectCallBack: it tests the arithmetic of NPUs; leave it out"),
    ("callbacks", [{"type": "TrainingStateMonitor"}],
     "callbacks.0: found TrainingStateMonitor: monitor_config: {monitor_on: True} adds it"),
    ("use_legacy", False, "use_legacy: found false: upstream's newer stack"),
    ("remote_save_url", "obs://x", "remote_save_url: found a value that is not shown: copying results"),
    ("seed", 2**32, "seed: found 4294967296; allowed: less than 4294967296"),
    ("run_mode", "fine_tune", "run_mode: found 'fine_tune' (text); allowed: 'train', 'finetune', "),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), BAD)
def test_a_value_out_of_range_is_refused(key, value, message):
    assert refused(**{key: value}).startswith(message)


MODEL_BAD = [
    ({"top_p": 1.1}, "top_p: found 1.1; allowed: 1.0 or less"),
    ({"top_p": -0.1}, "top_p: found -0.1; allowed: 0.0 or more"),
    ({"top_k": -1}, "top_k: found -1; allowed: 0 or more"),
    ({"temperature": -1.0}, "temperature: found -1.0; allowed: 0.0 or more"),
    ({"temperature": float("inf")}, "temperature: found inf; allowed: a finite number"),
    ({"repetition_penalty": 0}, "repetition_penalty: found 0; allowed: more than 0"),
    ({"max_new_tokens": 0}, "max_new_tokens: found 0; allowed: 1 or more"),
    ({"num_layers": 0}, "num_layers: found 0; allowed: 1 or more"),
    ({"seq_length": "8192"}, "seq_length: found '8192' (text); allowed: a whole number"),
    ({"compute_dtype": "int8"}, "compute_dtype: found 'int8' (text); allowed: 'float32', 'bfloat16'"),
    ({"pre_seq_len": 0}, "pre_seq_len: found 0; allowed: 1 or more"),
    ({"pet_config": {"pet_type": "ptuning"}}, "pet_config.pet_type: found 'ptuning' (text); allowed: lora, "
     "ptuning2; did you mean 'ptuning2'?"),
    ({"pet_config": {"pet_type": "ptuning2", "pre_seq_length": 8}},
     "pet_config.pre_seq_length: unknown key 'pre_seq_length'; did you mean 'pre_seq_len'"),
    ({"pet_config": {"pet_type": "ptuning2", "dropout_prob": 1.0}},
     "pet_config.dropout_prob: found 1.0; allowed: less than 1"),
    ({"pet_config": {"lora_rank": 0}}, "pet_config.lora_rank: found 0; allowed: 1 or more"),
    ({"pet_config": {"lora_rnak": 8}}, "pet_config.lora_rnak: unknown key 'lora_rnak'; did you mean"),
    ({"eos_token_id": [-1]}, "eos_token_id.0: found -1; allowed: 0 or more"),
    ({"rope_ratio": 0}, "rope_ratio: found 0; allowed: more than 0"),
    ({"rope_ration": 500}, "rope_ration: unknown key 'rope_ration'; did you mean 'rope_ratio' "),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), MODEL_BAD)
def test_a_model_setting_out_of_range_is_refused(settings, message):
    text = refused(model={"model_config": settings})
    assert text.startswith(f"model.model_config.{message}")


@pytest.mark.parametrize("text", ["fp32", "Float32", "mindspore.float32", "float32"])
def test_all_spellings_of_a_type_are_read(text):
    model = bind(model={"model_config": {"compute_dtype": text}}).model
    assert model.network.compute_dtype == "float32"


def test_the_model_section_is_reached_as_network():
    model = bind(model={"model_config": {"num_layers": 2}, "arch": {}}).model
    assert model.network.num_layers == 2
    assert model.arch.type == "ChatGLM2ForConditionalGeneration"


def test_text_that_is_no_address_is_ignored_as_a_place_to_copy_to():
    assert bind(remote_save_url="a placeholder sentence").remote_save_url


def test_the_dataset_may_be_one_path_or_several():
    for value in ("a", ["a", "b"]):
        config = bind(train_dataset={"data_loader": {"dataset_dir": value}})
        assert config.train_dataset.data_loader.dataset_dir == value


def test_resuming_takes_a_truth_or_the_name_of_a_checkpoint():
    assert bind(resume_training=True).resume_training is True
    assert bind(resume_training="glm4_rank_0-1_10").resume_training == "glm4_rank_0-1_10"

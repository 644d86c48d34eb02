"""``TrainingArguments``: upstream's flat arguments as the settings of a run.

Two tables say it all: which setting an argument is, and which arguments change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindformers.config.lr_schedule import ALIASES
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.errors import ConfigError

_RUN = "runner_config"
_DATA = "train_dataset"
_SAVE = "callbacks.CheckpointMonitor"

# Argument -> (upstream's default, the setting it is). "_" in place of a setting: see ``_more``.
_SETTINGS: dict[str, tuple[Any, str]] = {
    "output_dir": ("./output", "output_dir"),
    "seed": (42, "seed"),
    "only_save_strategy": (False, "only_save_strategy"),
    "auto_trans_ckpt": (False, "auto_trans_ckpt"),
    "src_strategy": (None, "src_strategy_path_or_dir"),
    "transform_process_num": (1, "transform_process_num"),
    "resume_from_checkpoint": (None, "_"),
    "resume_training": (None, "resume_training"),
    "ignore_data_skip": (False, "ignore_data_skip"),
    "data_skip_steps": (None, "data_skip_steps"),
    "do_eval": (False, "do_eval"),
    "eval_dataset": (None, "eval_dataset.data_loader.dataset_dir"),
    "eval_steps": (None, "eval_step_interval"),
    "eval_epochs": (None, "eval_epoch_interval"),
    "metric_type": (None, "_"),
    "remote_save_url": (None, "remote_save_url"),
    "batch_size": (None, "_"),
    "per_device_train_batch_size": (8, f"{_RUN}.batch_size"),
    "num_train_epochs": (3.0, "_"),
    "sink_mode": (True, f"{_RUN}.sink_mode"),
    "sink_size": (2, f"{_RUN}.sink_size"),
    "gradient_accumulation_steps": (1, f"{_RUN}.gradient_accumulation_steps"),
    "mode": (0, "context.mode"),
    "device_id": (0, "context.device_id"),
    "device_target": ("Ascend", "context.device_target"),
    "use_cpu": (False, "_"),
    "max_call_depth": (10000, "context.max_call_depth"),
    "max_device_memory": ("1024GB", "context.max_device_memory"),
    "save_graphs": (False, "context.save_graphs"),
    "save_graphs_path": ("./graph", "context.save_graphs_path"),
    "use_parallel": (False, "use_parallel"),
    "recompute": (False, "recompute_config.recompute"),
    "select_recompute": (False, "recompute_config.select_recompute"),
    "optim": ("AdamW", "optimizer.type"),
    "adam_beta1": (0.9, "optimizer.betas.0"),
    "adam_beta2": (0.999, "optimizer.betas.1"),
    "adam_epsilon": (1e-8, "optimizer.eps"),
    "weight_decay": (0.0, "optimizer.weight_decay"),
    "layer_scale": (False, "layer_scale"),
    "layer_decay": (0.65, "layer_decay"),
    "lr_scale": (False, "lr_scale"),
    "lr_scale_factor": (256, "lr_scale_factor"),
    "lr_scheduler_type": ("cosine", "lr_schedule.type"),
    "learning_rate": (5e-5, "lr_schedule.learning_rate"),
    "lr_end": (1e-6, "_"),
    "warmup_lr_init": (0.0, "lr_schedule.warmup_lr_init"),
    "warmup_ratio": (None, "lr_schedule.warmup_ratio"),
    "warmup_steps": (0, "lr_schedule.warmup_steps"),
    "warmup_epochs": (None, "lr_schedule.warmup_epochs"),
    "total_steps": (-1, "lr_schedule.total_steps"),
    "train_dataset": (None, f"{_DATA}.data_loader.dataset_dir"),
    "train_dataset_in_columns": (None, f"{_DATA}.input_columns"),
    "train_dataset_out_columns": (None, f"{_DATA}.output_columns"),
    "data_seed": (None, f"{_DATA}.seed"),
    "shuffle": (True, f"{_DATA}.data_loader.shuffle"),
    "dataloader_drop_last": (True, f"{_DATA}.drop_remainder"),
    "repeat": (1, f"{_DATA}.repeat"),
    "dataloader_num_workers": (8, f"{_DATA}.num_parallel_workers"),
    "wrapper_type": ("MFTrainOneStepCell", "runner_wrapper.type"),
    "scale_sense": (None, "runner_wrapper.scale_sense"),
    "use_clip_grad": (True, "runner_wrapper.use_clip_grad"),
    "max_grad_norm": (1.0, "runner_wrapper.max_grad_norm"),
    "profile": (False, "profile"),
    "profile_start_step": (1, "profile_start_step"),
    "profile_end_step": (10, "profile_stop_step"),
    "profile_memory": (True, "profile_memory"),
    "logging_steps": (1, "callbacks.MFLossMonitor.per_print_times"),
    "save_strategy": ("steps", "_"),
    "save_prefix": ("CKP", f"{_SAVE}.prefix"),
    "save_directory": (None, f"{_SAVE}.directory"),
    "save_steps": (500, f"{_SAVE}.save_checkpoint_steps"),
    "save_seconds": (None, f"{_SAVE}.save_checkpoint_seconds"),
    "save_total_limit": (5, f"{_SAVE}.keep_checkpoint_max"),
    "keep_checkpoint_per_n_minutes": (0, f"{_SAVE}.keep_checkpoint_per_n_minutes"),
    "save_network_params": (True, f"{_SAVE}.save_network_params"),
    "save_trainable_params": (False, f"{_SAVE}.save_trainable_params"),
    "async_save": (False, f"{_SAVE}.async_save"),
}
# Arguments that change nothing in this release, which is said once.
_NO_EFFECT = (
    # one process
    "parallel_mode", "gradients_mean", "loss_repeated_mean", "enable_alltoall", "full_batch",
    "dataset_strategy", "search_mode", "enable_parallel_optimizer", "gradient_accumulation_shard",
    "parallel_optimizer_threshold", "optimizer_weight_shard_size", "strategy_ckpt_save_file",
    "data_parallel", "model_parallel", "expert_parallel", "pipeline_stage", "micro_batch_num",
    "gradient_aggregation_group", "use_seq_parallel", "vocab_emb_dp", "integrated_save",
    "save_on_each_node", "parallel_optimizer_comm_recompute", "mp_comm_recompute",
    "recompute_slice_activation",
    # details of what is off
    "loss_scale_value", "loss_scale_factor", "loss_scale_window", "max_scale_window",
    "min_scale_window", "capacity_factor", "aux_loss_factor",
    "eval_dataset_in_columns", "eval_dataset_out_columns", "per_device_eval_batch_size",
    "prediction_loss_only", "init_start_profile", "profile_communication", "filepath_prefix",
    "autotune_per_step", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo",
    "hub_always_push",
    # what is always so
    "do_train", "do_predict", "overwrite_output_dir", "check_for_nan_in_loss_and_grad",
    "calculate_per_token_loss", "prefetch_size", "numa_enable", "python_multiprocessing",
)  # fmt: skip
# Arguments of what is not implemented -> the values that leave it off.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "dataset_task": (None, "CausalLanguageModelDataset"),
    "dataset_type": (None, "MindDataset"),
    "expert_num": (1,),
    "num_experts_chosen": (1,),
    "micro_batch_interleave_num": (1,),
    "logging_strategy": ("steps",),
    "evaluation_strategy": ("no",),
    "auto_tune": (False,),
    "push_to_hub": (False,),
}
_KNOWN = {**dict.fromkeys((*_SETTINGS, *_NO_EFFECT), ()), **_NEUTRAL}


class TrainingArguments:
    """What a training run does, as flat arguments; ``Trainer(args=...)`` takes it.

    Args:
        output_dir: Where everything is written.
        **arguments: Upstream's arguments; each is an attribute too. The network is not among them: give
            ``Trainer`` a model or merge these into a YAML file.

    Raises:
        ConfigError: If an argument is unknown or asks for what is not implemented.
    """

    def __init__(self, output_dir: str | Path = "./output", **arguments: Any) -> None:
        given = {name: getattr(value, "value", value) for name, value in arguments.items()}
        refuse_options("TrainingArguments", given, _KNOWN)
        say_without_effect("TrainingArguments", {n: given[n] for n in _NO_EFFECT if n in given})
        if isinstance(given.get("scale_sense"), str):
            raise ConfigError(
                f"{given['scale_sense']!r}: a loss scale that changes is not implemented",
                where="TrainingArguments.scale_sense",
                allowed="a number",
            )
        self._given = {"output_dir": str(output_dir), **given}
        defaults = {name: default for name, (default, _) in _SETTINGS.items()}
        self.__dict__.update({**defaults, **self._given})

    def convert_args_to_mindformers_config(
        self, task_config: str | Path | Mapping[str, Any] | None = None
    ) -> MindFormerConfig:
        """Return the settings of a run.

        Args:
            task_config: A YAML path or settings to start from: the arguments that were given win over
                it. None: all arguments count, with upstream's defaults.

        Raises:
            ConfigError: If a value does not fit its setting.
        """
        if isinstance(task_config, MindFormerConfig):
            config = task_config.copy()
        else:
            config = MindFormerConfig() if task_config is None else MindFormerConfig(task_config)
        names = self._given if task_config is not None else _SETTINGS
        optimizer = self.optim if "optim" in names else config.get_value("optimizer.type")
        for name in names:
            value, key = getattr(self, name), _SETTINGS[name][1] if name in _SETTINGS else "_"
            of_another = name.startswith("adam_") and optimizer not in (None, "AdamW")
            if value is None or key == "_" or (of_another and name not in self._given):
                continue
            if key.startswith("callbacks."):
                _, kind, field = key.split(".")
                if kind != "CheckpointMonitor" or self.save_strategy != "no":
                    _callback(config, kind)[field] = value
            elif key.startswith("optimizer.betas"):
                betas = [0.9, 0.999, *(config.get_value("optimizer.betas") or ())][-2:]
                betas[int(key[-1])] = value
                config.set_value("optimizer.betas", betas)
            else:
                config.set_value(key, value)
        self._more(config, names)
        return config

    def _more(self, config: MindFormerConfig, names: Mapping[str, Any]) -> None:
        """Set what is more than one setting under another name."""
        if "num_train_epochs" in names:
            if self.num_train_epochs != int(self.num_train_epochs):
                raise ConfigError(
                    f"is {self.num_train_epochs}", where="TrainingArguments.num_train_epochs",
                    allowed="a whole number",
                )  # fmt: skip
            config.set_value(f"{_RUN}.epochs", int(self.num_train_epochs))
        if "learning_rate" in names:
            config.set_value("optimizer.learning_rate", self.learning_rate)
        schedule = config.lr_schedule
        if "lr_end" in names and schedule is not None and _has_end(str(schedule["type"])):
            config.set_value("lr_schedule.lr_end", self.lr_end)
        if self.metric_type:
            kinds = [self.metric_type] if isinstance(self.metric_type, str) else self.metric_type
            config.set_value("metric", [{"type": kind} for kind in kinds])
        if self.batch_size is not None:
            config.set_value(f"{_RUN}.batch_size", self.batch_size)
        if self.use_cpu:
            config.set_value("context.device_target", "CPU")
        if self.resume_from_checkpoint:
            config.set_value("load_checkpoint", str(self.resume_from_checkpoint))
            config.set_value("resume_training", self.resume_training or True)
        monitors = [c for c in config.callbacks if c.get("type") == "CheckpointMonitor"]
        if self.save_seconds and monitors:
            monitors[0].pop("save_checkpoint_steps", None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"TrainingArguments has no argument {name!r}")


def _callback(config: MindFormerConfig, kind: str) -> Any:
    """Return the settings of a callback; they are added when the configuration has none."""
    if "callbacks" not in config:
        config["callbacks"] = []
    for callback in config.callbacks:
        if callback.get("type") == kind:
            return callback
    config["callbacks"] = [*config.to_dict()["callbacks"], {"type": kind}]
    return config.callbacks[-1]


def _has_end(schedule: str) -> bool:
    return ALIASES.get(schedule, schedule) in (
        "CosineWithWarmUpLR", "CosineWithRestartsAndWarmUpLR", "PolynomialWithWarmUpLR",
    )  # fmt: skip

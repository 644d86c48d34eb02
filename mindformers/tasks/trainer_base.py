"""What a ``Trainer`` knows before it runs: settings, callbacks, the checkpoints of its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mindformers.checkpoint.manifest import latest_step
from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.tasks.training_args import TrainingArguments
from mindformers.training.callback import Callback

# Arguments of ``train`` and ``evaluate`` -> the setting each is.
_TRAIN_SETTINGS = {
    "ignore_data_skip": "ignore_data_skip",
    "data_skip_steps": "data_skip_steps",
    "auto_trans_ckpt": "auto_trans_ckpt",
    "src_strategy": "src_strategy_path_or_dir",
    "transform_process_num": "transform_process_num",
    "do_eval": "do_eval",
}


class TrainerBase:
    """Settings, callbacks and checkpoints of a trainer.

    Args:
        args: A YAML path, a ``MindFormerConfig`` or ``TrainingArguments``.
        callbacks: One callback, several, or None.

    Raises:
        ConfigError: If there are no settings, or a callback is none of this library.
    """

    def __init__(self, args: Any, callbacks: Any = None):
        self.config = _settings(args)
        self.callbacks: list[Callback] = []
        for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
            if callback is not None:
                self.add_callback(callback)

    def set_parallel_config(self, **degrees: Any) -> None:
        """Change keys of ``parallel_config``; they are checked when a run starts."""
        for name, value in degrees.items():
            self.config.set_value(f"parallel_config.{name}", value)

    def set_recompute_config(self, **choices: Any) -> None:
        """Change keys of ``recompute_config``; they are checked when a run starts."""
        for name, value in choices.items():
            self.config.set_value(f"recompute_config.{name}", value)

    def add_callback(self, callback: Any) -> None:
        """Add a callback, given as an object or a class.

        Raises:
            ConfigError: If it is no callback of this library.
        """
        built = callback() if isinstance(callback, type) else callback
        if not isinstance(built, Callback):
            raise ConfigError(
                f"{type(built).__name__} is no callback", where="Trainer.add_callback",
                fix="derive it from mindformers.training.callback.Callback",
            )  # fmt: skip
        self.callbacks.append(built)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, named by itself or its class, and return it; None if it is not there."""
        for each in self.callbacks:
            if each is callback or type(each) is callback:
                self.callbacks.remove(each)
                return each
        return None

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, named by itself or its class."""
        self.pop_callback(callback)

    def get_last_checkpoint(self) -> str | None:
        """Return the folder of the newest committed step in the output folder, or None."""
        run = self.config.bind()
        monitor = run.checkpoint_monitor
        root = (monitor and monitor.directory) or Path(run.output_dir) / "checkpoint"
        found = latest_step(root)
        return None if found is None else str(found)

    def get_load_checkpoint(self, checkpoint: str | bool | None) -> str | None:
        """Return the weights that an argument of ``train`` names: a path, or True for the newest step.

        Raises:
            ConfigError: If there is no such path or step.
        """
        if not checkpoint:
            return None
        found = self.get_last_checkpoint() if checkpoint is True else str(checkpoint)
        if found is None or not Path(found).exists():
            raise ConfigError(
                f"no committed step in {self.config.output_dir}"
                if found is None
                else f"no such file or directory: {found}",
                where="checkpoint",
                fix="give a model directory, a step folder or a weight file",
            )
        return found

    def _set_options(self, owner: str, given: dict[str, Any]) -> None:
        refuse_options(f"Trainer.{owner}", given, dict.fromkeys(_TRAIN_SETTINGS, ()))
        for name, value in given.items():
            if value is not None:
                self.config.set_value(_TRAIN_SETTINGS[name], value)


def _settings(args: Any) -> MindFormerConfig:
    if args is None:
        raise ConfigError(
            "no settings were given",
            where="Trainer(args=...)",
            allowed="a YAML path, a MindFormerConfig or TrainingArguments",
            fix="pass args='configs/glm4/finetune_glm4_tiny_cpu.yaml', for example",
        )
    if isinstance(args, TrainingArguments):
        return args.convert_args_to_mindformers_config()
    return args if isinstance(args, MindFormerConfig) else MindFormerConfig(str(args))

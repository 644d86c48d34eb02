"""``Trainer``: the recipes as an object, with upstream's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.errors import ConfigError, did_you_mean
from mindformers.models.auto import AutoModel, AutoTokenizer
from mindformers.tasks import build
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import predict
from mindformers.training.run import TrainResult

TASKS = ("general", "text_generation")


class Trainer:
    """Finetune and predict from Python.

    Args:
        args: A YAML path or a ``MindFormerConfig``.
        task: ``text_generation`` (``general`` means the same).
        model: A network; or a path ``AutoModel`` takes, used as the network and its weights; None: the
            network the settings describe.
        model_name: Name in messages.
        tokenizer: A tokenizer or a path; needed to predict where the settings name none.
        train_dataset: A path of MindRecord files, or an object like ``TrainDataset``.
        optimizers: A built optimizer.
        callbacks: One callback or several, besides those of the settings.
        save_config: Kept for compatibility: the resolved settings are always saved in the output folder.

    Raises:
        ConfigError: If the task is unknown or no settings are given.
    """

    def __init__(  # noqa: PLR0913 -- upstream's arguments
        self,
        args: str | Path | MindFormerConfig | None = None,
        task: str = "general",
        model: Any = None,
        model_name: str | None = None,
        tokenizer: Any = None,
        train_dataset: Any = None,
        *,
        optimizers: Any = None,
        callbacks: Any = None,
        save_config: bool = False,
    ):
        if task not in TASKS:
            raise ConfigError(
                f"no task is called {task!r}",
                allowed=", ".join(TASKS),
                fix=did_you_mean(task, TASKS),
            )
        if args is None:
            raise ConfigError(
                "no settings were given",
                where="Trainer(args=...)",
                allowed="a YAML path or a MindFormerConfig",
                fix="pass args='configs/glm4/finetune_glm4_tiny_cpu.yaml', for example",
            )
        self.config = args if isinstance(args, MindFormerConfig) else MindFormerConfig(str(args))
        if model_name:
            self.config.set_value("trainer.model_name", model_name)
        self.model, self.tokenizer, self.train_dataset, self.optimizers = (
            model,
            tokenizer,
            train_dataset,
            optimizers,
        )
        self.callbacks: Sequence[Any] = (
            callbacks
            if isinstance(callbacks, (list, tuple))
            else ([] if callbacks is None else [callbacks])
        )
        self.save_config = save_config

    def train(
        self,
        train_checkpoint: str | bool = False,
        resume_from_checkpoint: str | None = None,
        resume_training: bool | str | None = None,
    ) -> TrainResult:
        """Train.

        Args:
            train_checkpoint: Weights to start from; True: the newest step in the output folder.
            resume_from_checkpoint: Folder of steps to go on from.
            resume_training: True or the name of a step: restore weights, optimizer, schedule and data position.
        """
        config = self.config
        if isinstance(train_checkpoint, str) and train_checkpoint:
            config.set_value("load_checkpoint", train_checkpoint)
        elif train_checkpoint is True:
            config.set_value("load_checkpoint", str(Path(config.output_dir) / "checkpoint"))
        if resume_from_checkpoint:
            config.set_value("load_checkpoint", str(resume_from_checkpoint))
        if resume_training is not None or resume_from_checkpoint:
            config.set_value(
                "resume_training", True if resume_training is None else resume_training
            )
        dataset = self.train_dataset
        if isinstance(dataset, (str, Path)):
            if config.train_dataset is None:
                config.set_value("train_dataset", {})
            config.set_value("train_dataset.data_loader.dataset_dir", str(dataset))
            dataset = None
        run = config.bind()
        return finetune(
            run,
            network=self._network(run),
            dataset=dataset,
            optimizer=self.optimizers,
            callbacks=self.callbacks,
        )

    def finetune(
        self,
        finetune_checkpoint: str | bool = False,
        resume_from_checkpoint: str | None = None,
        resume_training: bool | str | None = None,
    ) -> TrainResult:
        """Train; the same as ``train``."""
        return self.train(finetune_checkpoint, resume_from_checkpoint, resume_training)

    def predict(
        self,
        predict_checkpoint: str | None = None,
        input_data: str | Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[dict[str, list[str]]]:
        """Answer prompts.

        Args:
            predict_checkpoint: Weights; None: those of the settings, or the network's own.
            input_data: A text, a file of one prompt per line, or a list of either.
            batch_size: Prompts that run together.
        """
        config = self.config
        if predict_checkpoint:
            config.set_value("load_checkpoint", str(predict_checkpoint))
        if input_data is not None:
            config.set_value(
                "input_data", [input_data] if isinstance(input_data, str) else list(input_data)
            )
        if batch_size is not None:
            config.set_value("predict_batch_size", batch_size)
        tokenizer = self.tokenizer
        if isinstance(tokenizer, (str, Path)):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        run = config.bind()
        return predict(run, network=self._network(run), tokenizer=tokenizer)

    def _network(self, run: Any) -> Any:
        """Return the network given to this trainer, loaded once, or None."""
        if isinstance(self.model, (str, Path)):
            build.start(run)  # the device is set before the first tensor
            self.model = AutoModel.from_pretrained(self.model)
        return self.model

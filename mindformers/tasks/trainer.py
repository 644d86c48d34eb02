"""``Trainer``: the recipes as an object, with upstream's arguments and methods."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers.config.mindformer_config import MindFormerConfig
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.errors import ConfigError, did_you_mean
from mindformers.logger import warn_once
from mindformers.models.auto import AutoModel, AutoTokenizer
from mindformers.pet.lora import get_pet_model
from mindformers.tasks import build
from mindformers.tasks.evaluate import evaluate
from mindformers.tasks.finetune import finetune
from mindformers.tasks.predict import predict
from mindformers.tasks.trainer_base import TrainerBase
from mindformers.tasks.training_args import TrainingArguments
from mindformers.training.callback import Callback
from mindformers.training.run import TrainResult, TrainRun

TASKS = ("general", "text_generation")
_NO_EFFECT = ("eval_callbacks", "image_processor")
_OPTIONS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(_NO_EFFECT, ()),
    "data_collator": (None,),
    "pet_method": (None, "", "lora", "ptuning2"),
    "audio_processor": (None,),
    "save_config": (),  # the resolved settings are always saved in the output folder
}


class _KeepNetwork(Callback):
    """Remembers the network of a run."""

    network: Any = None

    def on_train_begin(self, run: TrainRun) -> None:
        self.network = run.step.network


class Trainer(TrainerBase):
    """Finetune, evaluate and predict from Python.

    Args:
        args: A YAML path, a ``MindFormerConfig`` or ``TrainingArguments``.
        task: ``text_generation`` (``general`` means the same).
        model: A network; or a path ``AutoModel`` takes, used as the network and its weights; None: the
            network the settings describe.
        model_name: Name in messages.
        tokenizer: A tokenizer or a path; needed for texts (to predict, in metrics, as data) where the
            settings name none.
        train_dataset: A path of MindRecord, JSON, JSON Lines or Parquet files, or an object like
            ``TrainDataset``.
        eval_dataset: What ``evaluate`` and ``do_eval`` read: a path, or an object like ``TrainDataset``.
        data_collator: None.
        optimizers: A built optimizer.
        compute_metrics: Names of metrics, as of the settings' ``metric``: a set, list or dict.
        callbacks: One callback or several, besides those of the settings.
        reset_model: True: a network built from the settings is not kept after a run.
        options: Upstream's other arguments: ``eval_callbacks`` and ``image_processor`` (no effect),
            ``save_config`` (always done), ``audio_processor`` (none), ``pet_method`` (``lora``: adapters,
            ``ptuning2``: a prefix, as ``pet_config`` of the settings says, or its defaults).

    Attributes:
        model: The network; after ``train`` the trained one.

    Raises:
        ConfigError: If the task is unknown, no settings are given, or an option asks for what is not
            implemented.
    """

    def __init__(  # noqa: PLR0913 -- upstream's arguments
        self,
        args: str | Path | MindFormerConfig | TrainingArguments | None = None,
        task: str = "general",
        model: Any = None,
        model_name: str | None = None,
        tokenizer: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Any = None,
        optimizers: Any = None,
        compute_metrics: Any = None,
        callbacks: Any = None,
        *,
        reset_model: bool = False,
        **options: Any,
    ):
        options["data_collator"] = data_collator
        refuse_options("Trainer", options, _OPTIONS)
        say_without_effect("Trainer", {n: options[n] for n in _NO_EFFECT if n in options})
        if task not in TASKS:
            raise ConfigError(
                f"no task is called {task!r}",
                allowed=", ".join(TASKS),
                fix=did_you_mean(task, TASKS),
            )
        super().__init__(args, callbacks)
        if model_name:
            self.config.set_value("trainer.model_name", model_name)
        if compute_metrics:
            self.config.set_value("metric", [{"type": str(name)} for name in compute_metrics])
        self.model, self.tokenizer = model, tokenizer
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.optimizers, self.reset_model = optimizers, reset_model
        self.pet_method = options.get("pet_method")
        if self.pet_method and not self._pet_config():
            self.config.set_value("model.model_config.pet_config", {"pet_type": self.pet_method})

    # --- runs ----------------------------------------------------------------------------------

    def train(
        self,
        train_checkpoint: str | bool | None = False,
        resume_from_checkpoint: str | None = None,
        resume_training: bool | str | None = None,
        **settings: Any,
    ) -> TrainResult:
        """Train.

        Args:
            train_checkpoint: Weights to start from; True: the newest step in the output folder.
            resume_from_checkpoint: Folder of steps to go on from.
            resume_training: True or the name of a step: restore weights, optimizer, schedule and data position.
            **settings: ``auto_trans_ckpt``, ``transform_process_num`` and upstream's other arguments;
                those that are not implemented at their neutral values.

        Raises:
            ConfigError: If an argument is unknown or asks for what is not implemented.
        """
        self._set_options("train", settings)
        config = self.config
        start = self.get_load_checkpoint(train_checkpoint)
        if start or resume_from_checkpoint:
            config.set_value("load_checkpoint", str(resume_from_checkpoint or start))
        if resume_training is not None or resume_from_checkpoint:
            config.set_value(
                "resume_training", True if resume_training is None else resume_training
            )
        dataset = self._named("train_dataset", self.train_dataset)
        eval_dataset = self._named("eval_dataset", self.eval_dataset)
        run = config.bind()
        network = self._network(run, "" if run.resume_training else start)
        keep = _KeepNetwork()
        result = finetune(
            run,
            network=network,
            dataset=dataset,
            optimizer=self.optimizers,
            tokenizer=self._tokenizer(),
            callbacks=[keep, *self.callbacks],
            eval_dataset=eval_dataset,
        )
        if not self.reset_model:
            self.model = keep.network
        return result

    def finetune(
        self, finetune_checkpoint: str | bool | None = False, *resume: Any, **settings: Any
    ) -> TrainResult:
        """Train; arguments as for ``train``."""
        return self.train(finetune_checkpoint, *resume, **settings)

    def evaluate(
        self,
        eval_dataset: Any = None,
        eval_checkpoint: str | bool | None = False,
        **settings: Any,
    ) -> dict[str, float]:
        """Find out how well the network foresees and answers data.

        Args:
            eval_dataset: A path, or an object like ``TrainDataset``; None: the trainer's, or that of the
                settings.
            eval_checkpoint: Weights; True: the newest step in the output folder.
            **settings: ``auto_trans_ckpt``, ``src_strategy`` and ``transform_process_num``.

        Returns:
            ``loss``, ``perplexity``, ``token_accuracy`` and the results of the metrics.

        Raises:
            ConfigError: If an argument is unknown, or no data or weights are named.
        """
        self._set_options("evaluate", settings)
        given = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self._named("eval_dataset", given)
        start = self.get_load_checkpoint(eval_checkpoint)
        if start:
            self.config.set_value("load_checkpoint", start)
        config = self.config.copy()
        config.set_value("run_mode", "eval")
        run = config.bind()
        network = self._network(run, start)
        return evaluate(run, network=network, tokenizer=self._tokenizer(), dataset=dataset)

    def predict(
        self,
        predict_checkpoint: str | bool | None = None,
        auto_trans_ckpt: bool | None = None,
        src_strategy: str | None = None,
        transform_process_num: int | None = None,
        input_data: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[dict[str, list[str]]]:
        """Answer prompts.

        Args:
            predict_checkpoint: Weights; True: the newest step in the output folder; None: the
                network's own, or those of the settings.
            auto_trans_ckpt: Has no effect: weights are always laid out for the run.
            src_strategy: None.
            transform_process_num: Has no effect.
            input_data: A text, a file of one prompt per line, or a list of either.
            batch_size: Prompts that run together.
            **settings: Fields of ``GenerationConfig`` for this call; ``seed``.
        """
        given = {"auto_trans_ckpt": auto_trans_ckpt, "src_strategy": src_strategy}
        self._set_options("predict", {**given, "transform_process_num": transform_process_num})
        config = self.config
        start = self.get_load_checkpoint(predict_checkpoint)
        if start:
            config.set_value("load_checkpoint", start)
        if input_data is not None:
            config.set_value(
                "input_data", [input_data] if isinstance(input_data, str) else list(input_data)
            )
        if batch_size is not None:
            config.set_value("predict_batch_size", batch_size)
        run = config.bind()
        network = self._network(run, start)
        return predict(run, network=network, tokenizer=self._tokenizer(), **settings)

    # --- parts ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Return the training data as the run will read it."""
        if self.train_dataset is not None and not isinstance(self.train_dataset, (str, Path)):
            return self.train_dataset
        config = self.config.copy()
        if self.train_dataset is not None:
            config.set_value("train_dataset.data_loader.dataset_dir", str(self.train_dataset))
        run = config.bind()
        known = getattr(self.model, "config", None) or build.network_settings(run)
        network = types.SimpleNamespace(config=known)
        return build.build_train_dataset(run, network, self._tokenizer())

    def save_model(self, output_dir: str | Path | None = None) -> Path:
        """Write the network, as ``save_pretrained`` does; return the folder (``<output_dir>/model``).

        Raises:
            ConfigError: If there is no network yet.
        """
        if self.model is None or isinstance(self.model, (str, Path)):
            raise ConfigError("there is no network to save yet", fix="call train() first")
        folder = Path(output_dir or Path(self.config.output_dir) / "model")
        saved: Path = self.model.save_pretrained(folder, tokenizer=self._tokenizer())
        return saved

    def _named(self, key: str, dataset: Any) -> Any:
        """Return the data for a run; a path goes into the settings, and None is returned."""
        if not isinstance(dataset, (str, Path)):
            return dataset
        if getattr(self.config, key) is None:
            self.config.set_value(key, {})
        self.config.set_value(f"{key}.data_loader.dataset_dir", str(dataset))
        return None

    def _pet_config(self) -> Any:
        section = self.config.model and self.config.model.model_config
        return section and section.pet_config

    def _tokenizer(self) -> Any:
        if isinstance(self.tokenizer, (str, Path)):
            self.tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        return self.tokenizer

    def _network(self, run: Any, weights: str | None) -> Any:
        """Return the network given to this trainer, with the weights named for this run, or None."""
        if isinstance(self.model, (str, Path)):
            build.start(run)  # the device is set before the first tensor
            self.model = AutoModel.from_pretrained(self.model)
        if self.model is not None and self.pet_method and not self.model.config.pet:
            get_pet_model(self.model, run.model.network.pet_config)
        if self.model is not None and weights:
            self.model.load_checkpoint(weights)
        elif self.model is not None and run.weights_path and not run.resume_training:
            warn_once("the trainer's network is used as it is: %s is not loaded", run.weights_path)
        return self.model

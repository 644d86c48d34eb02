"""``PreTrainedModel``: what every network can do besides its forward pass: load, save, generate, chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mindspore import Parameter, nn

from mindformers.checkpoint.export import GENERATION_FILE, TOKENIZER_FILES, copy_files
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.config.pet import LORA_A, LORA_B, LORA_DRAW, PREFIX
from mindformers.errors import CheckpointError, ConfigError, GenerationError
from mindformers.generation.native_runner import NativeRunner
from mindformers.generation.native_step import NativeStep
from mindformers.generation.portable_step import PortableStep
from mindformers.generation.runner import CachedRunner, RecomputeRunner
from mindformers.logger import logger
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.native_forms import native_runner, native_step
from mindformers.models.presets import SupportList
from mindformers.models.text_model import TextModel
from mindformers.ops.backend import active_backend
from mindformers.pet.adapter_files import save_adapter
from mindformers.pet.adapter_source import BASE, MARK
from mindformers.pet.identity import base_mark, check_base
from mindformers.pet.lora import adapter_parameters, draw_dropout

_CACHES = ("key_cache", "value_cache")  # a network has them once it has answered
_SAVE_OPTIONS: dict[str, tuple[Any, ...]] = {
    "save_json": (),
    "is_main_process": (True,),
    "state_dict": (None,),
    "push_to_hub": (False,),
    "variant": (None,),
    "token": (),
}


class PreTrainedModel(nn.Cell, SupportList, TextModel):
    """Base of the networks users load.

    A family gives ``config_class``, ``load_weights``, ``check_weights``, ``save_weights`` and the two
    logits methods the generation runners call.
    """

    config_class: ClassVar[type[PretrainedConfig]]

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config: Any = config
        self.pretrained_dir: Path | None = None
        self.weights_source = ""  # path of the weights that were loaded last, without adapters
        self._runners: dict[bool, Any] = {}
        self.cache_serial = 0  # which cache the network has now: whoever made another one lost it

    # --- weights -------------------------------------------------------------------------------

    def weight_parameters(self) -> dict[str, Parameter]:
        """Return the weights by name: every parameter but the key/value caches, adapters and prefix."""
        return {
            p.name: p
            for p in self.get_parameters()
            if not p.name.endswith((*_CACHES, LORA_A, LORA_B, LORA_DRAW))
            and not p.name.startswith(PREFIX)
        }

    def step_parameters(self) -> list[Parameter]:
        """Return what a step of a training run keeps: with adapters these alone, else everything."""
        whole = (p for p in self.get_parameters() if not p.name.endswith(_CACHES))
        return adapter_parameters(self) or list(whole)

    def begin_micro_batch(self, step: int, part: int) -> None:
        """Let what is random in training follow from these numbers and the seed.

        Args:
            step: Finished updates of the run.
            part: Micro batch of the step.
        """
        draw_dropout(self, step, part)

    def step_notes(self) -> dict[str, str]:
        """Return what a step says beside its tensors: with adapters, which weights they belong to."""
        has_adapters = bool(adapter_parameters(self))
        return {BASE: self.weights_source, MARK: base_mark(self)} if has_adapters else {}

    def check_step(self, notes: Mapping[str, Any], where: str) -> None:
        """Refuse a step whose adapters belong to other weights than this network holds."""
        check_base(self, notes.get(MARK), where)

    def load_weights(self, source: Path) -> Any:
        """Fill the weights from a file or folder; a family says how."""
        raise CheckpointError(f"{type(self).__name__} has no weights on disk", where=str(source))

    @classmethod
    def check_weights(cls, config: Any, source: Path) -> None:
        """Refuse weights that are not those of a configuration, before a network is built; a family says how."""

    def save_weights(self, folder: Path, **options: Any) -> None:
        """Write the weights into ``folder``; a family says how."""
        raise CheckpointError(f"{type(self).__name__} cannot be saved", where=str(folder))

    def load_checkpoint(self, source: str | Path | PretrainedConfig) -> Any:
        """Load weights from a Hugging Face directory, a directory we saved, a step folder or one file.

        Args:
            source: The path, or (upstream's form) a configuration with ``checkpoint_name_or_path``.
        """
        path = source.checkpoint_name_or_path if isinstance(source, PretrainedConfig) else source
        if not path:
            logger.warning("no weights are loaded: checkpoint_name_or_path is empty")
            return None
        return self.load_weights(Path(path))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_dir: str | Path, **overrides: Any
    ) -> PreTrainedModel:
        """Build the network a directory describes and load its weights; see ``AutoModel``."""
        from mindformers.models.auto import AutoModel

        network = AutoModel.from_pretrained(pretrained_model_name_or_dir, **overrides)
        if not isinstance(network, cls):
            raise ConfigError(
                f"the directory holds a {type(network).__name__}",
                where=str(pretrained_model_name_or_dir),
                allowed=cls.__name__,
            )
        return network

    def save_pretrained(
        self,
        save_directory: str | Path,
        save_name: str | None = None,
        *,
        tokenizer: Any = None,
        max_shard_size: str = "5GB",
        **options: Any,
    ) -> Path:
        """Write everything needed to load this network again.

        Args:
            save_directory: Made if it is not there; holds ``config.json`` (every field),
                ``model.safetensors`` or shards with an index, ``generation_config.json`` and, where
                known, the tokenizer with its template. Of a network with adapters only these are
                written, as peft does; ``merge_adapter`` first gives whole weights.
            save_name: Upstream's name of the files; has no effect.
            tokenizer: Saved along; None: the files this network was loaded with are copied.
            max_shard_size: Largest weight file.
            **options: Upstream's further arguments at their neutral values (``save_json`` at any).

        Returns:
            The directory.

        Raises:
            ConfigError: If an option asks for what is not implemented.
        """
        refuse_options("save_pretrained", options, _SAVE_OPTIONS)
        say_without_effect("save_pretrained", {"save_name": save_name})
        folder = Path(save_directory)
        if adapter_parameters(self):
            return save_adapter(self, folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        self.save_weights(folder, max_shard_size=max_shard_size)
        source = self.pretrained_dir
        if source is not None and source.resolve() != folder.resolve():
            copy_files(source, folder, (*TOKENIZER_FILES, GENERATION_FILE))
        if not (folder / GENERATION_FILE).is_file():
            self.generation_defaults().save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder

    # --- text ----------------------------------------------------------------------------------

    def native_network(self) -> Any:
        """Return this network for the native kernels as its weights are now, or None where they do not serve."""
        return None

    def build_runner(self, use_cache: bool) -> CachedRunner | RecomputeRunner | NativeRunner:
        """Return a new runner: the native one where it can be had."""
        if not use_cache or (self.prefix_length and active_backend() == "ascend"):
            # An NPU's attention of a prompt sees the tokens of the pass alone, and no prefix.
            return RecomputeRunner(self)
        if self.native_network() is None:
            return CachedRunner(self)
        return native_runner(self.config, self.native_network, self.prefix_length, self.prefix)

    def build_step(self) -> NativeStep | PortableStep:
        """Return what an engine answers through, by the weights as they are now."""
        network = self.native_network()
        if network is None:
            return PortableStep(self)
        prefix = self.prefix() if self.prefix_length else None
        return native_step(self.config, network, self.prefix_length, prefix)

    @property
    def prefix_length(self) -> int:
        """Positions of a trained prefix before the first token; 0 without one."""
        return 0

    def prefix(self) -> np.ndarray:
        """Return the prefix as it is now, (layers, 2, positions, heads, channels) float32; a family says how."""
        raise GenerationError(f"{type(self).__name__} has no prefix")

    def answering(self) -> AbstractContextManager[None]:
        """Return a context in which the network is not training."""
        return evaluating(self)


@contextmanager
def evaluating(network: nn.Cell) -> Iterator[None]:
    """Take a network out of training for a while, so that a callback may generate between two steps."""
    was_training = network.training
    network.set_train(False)
    try:
        yield
    finally:
        network.set_train(was_training)

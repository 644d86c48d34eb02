"""``PreTrainedModel``: what every network can do besides its forward pass: load, save, generate, chat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from mindspore import Parameter, nn

from mindformers.checkpoint.export import GENERATION_FILE, TOKENIZER_FILES, copy_files
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.errors import CheckpointError, ConfigError
from mindformers.generation.native_runner import NativeRunner
from mindformers.generation.runner import CachedRunner, RecomputeRunner
from mindformers.logger import logger
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.presets import SupportList
from mindformers.models.text_model import TextModel, native_runner

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
        self._runners: dict[bool, Any] = {}

    # --- weights -------------------------------------------------------------------------------

    def weight_parameters(self) -> dict[str, Parameter]:
        """Return the weights by name: every parameter but the key/value caches."""
        return {
            p.name: p
            for p in self.get_parameters()
            if not p.name.endswith(("key_cache", "value_cache"))
        }

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
                known, the tokenizer with its template.
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
        if not use_cache:
            return RecomputeRunner(self)
        if self.native_network() is None:
            return CachedRunner(self)
        return native_runner(self.config, self.native_network)

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

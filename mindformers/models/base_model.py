"""``PreTrainedModel``: what every network can do besides its forward pass: load, save, generate, chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mindspore import Parameter, nn

from mindformers.checkpoint.export import GENERATION_FILE, TOKENIZER_FILES, copy_files
from mindformers.config.options import refuse_options, say_without_effect
from mindformers.errors import CheckpointError, ConfigError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.config_fields import FIELDS
from mindformers.generation.engine import GenerateOutput, generate
from mindformers.generation.native_runner import NativeRunner
from mindformers.generation.prompts import prepare_prompts
from mindformers.generation.runner import CachedRunner, RecomputeRunner
from mindformers.generation.streamer import streaming
from mindformers.logger import logger
from mindformers.models.base_config import PretrainedConfig
from mindformers.models.presets import SupportList

UPSTREAM_LENGTH = FIELDS["max_length"].default  # nobody wants a prompt and answer of 20 tokens
_SAVE_OPTIONS: dict[str, tuple[Any, ...]] = {
    "save_json": (),
    "is_main_process": (True,),
    "state_dict": (None,),
    "push_to_hub": (False,),
    "variant": (None,),
    "token": (),
}
DEFAULT_ANSWER_LENGTH = 512  # tokens, where neither the call nor the model's files give a length


class PreTrainedModel(nn.Cell, SupportList):
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

    def generation_defaults(self) -> GenerationConfig:
        """Return the settings ``generate`` starts from: the directory's, else the configuration's."""
        source = self.pretrained_dir
        if source is not None and (source / GENERATION_FILE).is_file():
            return GenerationConfig.from_pretrained(source)
        return GenerationConfig.from_model_config(self.config)

    def native_network(self) -> Any:
        """Return this network for the native kernels as its weights are now, or None where they do not serve."""
        return None

    def runner(self, use_cache: bool = True) -> CachedRunner | RecomputeRunner | NativeRunner:
        """Return the device side of generation; it is kept, so graphs are compiled once."""
        if use_cache not in self._runners:
            self._runners[use_cache] = self._build_runner(use_cache)
        return self._runners[use_cache]

    def _build_runner(self, use_cache: bool) -> CachedRunner | RecomputeRunner | NativeRunner:
        if not use_cache:
            return RecomputeRunner(self)
        if self.native_network() is None:
            return CachedRunner(self)
        return NativeRunner(
            self.native_network,
            vocab_size=self.config.vocab_size,
            max_length=self.config.seq_length,
            block_size=self.config.block_size,
            block_limit=self.config.num_blocks,
        )

    def generate(
        self,
        input_ids: Any,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Any] | None = None,
        streamer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> list[np.ndarray] | GenerateOutput:
        """Continue prompts.

        Args:
            input_ids: A list of ids, a list of such lists, or an array (S,) or (B, S) padded on either side.
            generation_config: Settings; None: ``generation_defaults``.
            logits_processor: Further processors, applied after the standard ones.
            streamer: Gets the ids as they come: see ``TextStreamer`` and ``TextIteratorStreamer``.
            seed: Seed of this call's draws, 0 <= seed < 2**64.
            **kwargs: Fields of ``GenerationConfig`` (without a length anywhere, an answer may have
                512 tokens, or as many as fit); and ``attention_mask`` (B, S), ``tokenizer`` (needed
                for stop strings), ``use_past`` (False: no cache).

        Returns:
            One int32 array per row, prompt and answer, the end token included, no padding; or a
            ``GenerateOutput`` with ``return_dict_in_generate``.

        Raises:
            GenerationError: If a prompt or a setting cannot be used.
        """
        mask, tokenizer = kwargs.pop("attention_mask", None), kwargs.pop("tokenizer", None)
        use_cache = kwargs.pop("use_past", True)
        settings = (generation_config or self.generation_defaults()).merged(**kwargs)
        if settings.allowed_vocab_size is None:
            settings.update(allowed_vocab_size=getattr(self.config, "num_used_tokens", None))
        lengths = (settings.max_new_tokens, settings.max_length)
        is_open = (
            generation_config is None
            and "max_length" not in kwargs
            and lengths == (None, UPSTREAM_LENGTH)
        )
        with streaming(streamer), evaluating(self):
            prompts = prepare_prompts(input_ids, settings.pad_token_id, mask)
            if is_open:
                room = self.config.seq_length - max(len(prompt) for prompt in prompts)
                settings.update(max_new_tokens=max(1, min(DEFAULT_ANSWER_LENGTH, room)))
            output = generate(
                self.runner(use_cache),
                prompts,
                settings,
                streamer=streamer,
                logits_processors=logits_processor or (),
                tokenizer=tokenizer,
                seed=seed,
            )
        return output if settings.return_dict_in_generate else output.sequences

    def chat(  # noqa: PLR0913 -- upstream's arguments
        self,
        tokenizer: Any,
        query: str,
        history: Sequence[Mapping[str, Any]] | None = None,
        system_role_name: str = "system",
        user_role_name: str = "user",
        assistant_role_name: str = "assistant",
        instruction: str = "",
        *,
        seed: int | None = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> tuple[str, list[dict[str, Any]]]:
        """Answer one turn of a conversation.

        Args:
            tokenizer: The tokenizer with the chat template.
            query: What is said now.
            history: Earlier messages; not changed.
            system_role_name: Role of ``instruction``.
            user_role_name: Role of ``query``: ``user``, or ``observation`` for a tool's result.
            assistant_role_name: Role of the answer in the history.
            instruction: A system message put before them when they have none.
            seed: Seed of this call's draws.
            streamer: Gets the answer as it comes.
            **kwargs: Fields of ``GenerationConfig``.

        Returns:
            The answer and the history with this turn appended.
        """
        messages = [dict(message) for message in history or ()]
        if instruction and not any(message["role"] == system_role_name for message in messages):
            messages.insert(0, {"role": system_role_name, "content": instruction})
        messages.append({"role": user_role_name, "content": query})
        prompt = tokenizer.encode_segments(tokenizer.render(messages, add_generation_prompt=True))
        output = self.generate(
            [prompt],
            seed=seed,
            streamer=streamer,
            tokenizer=tokenizer,
            allowed_vocab_size=len(tokenizer),
            **{**kwargs, "return_dict_in_generate": True},
        )
        assert isinstance(output, GenerateOutput)
        answer = answer_text(output, 0, tokenizer)
        return answer, [*messages, {"role": assistant_role_name, "content": answer}]


@contextmanager
def evaluating(network: nn.Cell) -> Iterator[None]:
    """Take a network out of training for a while, so that a callback may generate between two steps."""
    was_training = network.training
    network.set_train(False)
    try:
        yield
    finally:
        network.set_train(was_training)


def answer_text(output: GenerateOutput, row: int, tokenizer: Any) -> str:
    """Return what a row of ``output`` answers, without control tokens and without a stop string.

    The model's first token after ``<|assistant|>`` is the newline that belongs to the turn's form.
    """
    if output.texts is not None:
        return output.texts[row].removeprefix("\n")
    ids = output.sequences[row][output.num_prompt_tokens[row] :]
    return tokenizer.decode(ids, skip_special_tokens=True).removeprefix("\n")

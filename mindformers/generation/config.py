"""``GenerationConfig``: how an answer is chosen and when it ends; values are checked when set.

The names and defaults are those of MindSpore Transformers; ``stop_strings``, ``tool_call_token_id``
and ``allowed_vocab_size`` are new. An unknown name is an error, not an attribute.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mindformers.checkpoint.json_file import read_json, write_json
from mindformers.errors import GenerationError, did_you_mean
from mindformers.generation.config_fields import FIELDS, MIN_TEMPERATURE
from mindformers.logger import warn_once

CONFIG_NAME = "generation_config.json"
LENGTH_ALIAS = "max_decode_length"  # YAML key; max_length wins where both are given
# Keys of other tools' files that say nothing about how to choose or stop.
_BOOKKEEPING = {"transformers_version", "_from_model_config", "_commit_hash", "use_cache"}


class GenerationConfig:
    """Settings of one call of ``generate``; attributes may be set, and are checked when they are.

    Args:
        **kwargs: Any field of ``FIELDS`` (and ``max_decode_length``, which gives ``max_length``
            when that is absent). ``None`` leaves a field at its default. ``max_new_tokens`` wins
            over ``max_length``, which counts the prompt too.

    Raises:
        GenerationError: If a name is unknown (the nearest names are given) or a value is refused.
    """

    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | str
    do_sample: bool
    use_past: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[int, float]
    bad_words_ids: list[list[int]]
    encoder_repetition_penalty: float
    renormalize_logits: bool
    return_dict_in_generate: bool
    output_scores: bool
    output_logits: bool
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: list[int]
    stop_strings: list[str]
    tool_call_token_id: int | None
    allowed_vocab_size: int | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int
    num_assistant_tokens: int
    parallel_decoding: bool
    window_size: int
    level: int
    guess_set_size: int

    def __init__(self, **kwargs: Any) -> None:
        for name, field in FIELDS.items():
            self.__dict__[name] = copy.copy(field.default)
        self._apply(kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in FIELDS:
            raise _unknown(name)
        self.__dict__[name] = FIELDS[name].checked(name, value)

    def _apply(self, settings: dict[str, Any]) -> None:
        """Set several fields, then check what holds between them; all or none are taken."""
        given = {name: value for name, value in settings.items() if value is not None}
        if LENGTH_ALIAS in given:
            alias = given.pop(LENGTH_ALIAS)
            given.setdefault("max_length", FIELDS["max_length"].checked(LENGTH_ALIAS, alias))
        for name in settings:
            if name not in FIELDS and name != LENGTH_ALIAS:
                raise _unknown(name)
        before = dict(self.__dict__)
        try:
            for name, value in given.items():
                setattr(self, name, value)
            self.check()
        except GenerationError:
            self.__dict__.update(before)
            raise
        self._note_what_has_no_effect(given)

    def check(self) -> None:
        """Check the rules between fields.

        Raises:
            GenerationError: If the shortest answer asked for is longer than the longest, or several
                answers are asked for that would be one and the same.
        """
        if self.num_return_sequences > self.num_beams and self.is_greedy:
            raise GenerationError(
                f"found {self.num_return_sequences}, but without sampling there is one answer"
                + (f" a beam, {self.num_beams}" if self.num_beams > 1 else ""),
                where="num_return_sequences",
                fix="set do_sample, or raise num_beams",
            )
        if self.max_new_tokens is not None:
            low, name, high = self.min_new_tokens or 0, "max_new_tokens", self.max_new_tokens
            low_name = "min_new_tokens"
        else:
            low, name, high = self.min_length, "max_length", self.max_length
            low_name = "min_length"
        if low > high:
            raise GenerationError(
                f"found {low}, above {name} {high}",
                where=low_name,
                fix=f"lower {low_name} or raise {name}",
            )

    def _note_what_has_no_effect(self, given: dict[str, Any]) -> None:
        idle = [
            f"{name} {given[name]}"
            for name, neutral in (("temperature", (0, 1)), ("top_p", (0, 1)))
            if name in given and given[name] not in neutral
        ]
        if idle and not self.do_sample:
            warn_once("%s: no effect while do_sample is false", " and ".join(idle))

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest one: not sampling, or at temperature 0."""
        return not self.do_sample or self.temperature < MIN_TEMPERATURE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary.

        Args:
            config_dict: Field names and values.
            **kwargs: Values that win over the dictionary; ``return_unused_kwargs=True`` gives the
                pair (config, the names that are no field) in place of an error.

        Returns:
            GenerationConfig, or (GenerationConfig, dict).

        Raises:
            GenerationError: As the constructor.
        """
        return_unused = bool(kwargs.pop("return_unused_kwargs", False))
        unused = {
            name: kwargs.pop(name)
            for name in list(kwargs)
            if return_unused and name not in FIELDS and name != LENGTH_ALIAS
        }
        config = cls(**{**config_dict, **kwargs})
        return (config, unused) if return_unused else config

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | Path,
        config_file_name: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read ``generation_config.json`` of a model folder (or the file itself).

        A key of the file that is no field here is reported once as having no effect.

        Args:
            pretrained_model_name: The folder or the file.
            config_file_name: The file's name in the folder.
            **kwargs: Values that win over the file; ``return_unused_kwargs`` as in ``from_dict``.

        Returns:
            As ``from_dict``.

        Raises:
            GenerationError: If the file is missing, is no JSON object or holds a refused value.
        """
        path = Path(pretrained_model_name)
        if not path.is_file():
            path = path / (config_file_name or CONFIG_NAME)
        content = read_json(path, GenerationError, fix=f"give a folder that holds {CONFIG_NAME}")
        known = {name: value for name, value in content.items() if name in FIELDS}
        foreign = sorted(set(content) - set(known) - _BOOKKEEPING)
        if foreign:
            warn_once("%s: no effect here: %s", path, ", ".join(foreign))
        try:
            return cls.from_dict(known, **kwargs)
        except GenerationError as error:
            raise GenerationError(
                error.found,
                where=f"{path}: {error.where}" if error.where else str(path),
                allowed=error.allowed,
                fix=error.fix,
            ) from error

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """Take the generation fields a model's configuration object holds; ``None`` is left out."""
        # Asking it for a name that it has not got would cost a search for the nearest one.
        given = vars(model_config)
        return cls(**{name: given[name] for name in (*FIELDS, LENGTH_ALIAS) if name in given})

    def merged(self, **kwargs: Any) -> GenerationConfig:
        """Return a copy with the fields among ``kwargs`` set; ``None`` changes nothing.

        Raises:
            GenerationError: As the constructor.
        """
        config = copy.deepcopy(self)
        config._apply(kwargs)
        return config

    def update(self, **kwargs: Any) -> dict[str, Any]:
        """Set the fields among ``kwargs``; return the others. ``None`` changes nothing."""
        unused = {n: v for n, v in kwargs.items() if n not in FIELDS and n != LENGTH_ALIAS}
        self._apply({name: value for name, value in kwargs.items() if name not in unused})
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a plain value; the lists are copies."""
        return {name: copy.copy(self.__dict__[name]) for name in FIELDS}

    def save_pretrained(
        self, save_directory: str | Path, config_file_name: str | None = None
    ) -> Path:
        """Write the fields that differ from their default as JSON, whole or not at all.

        Args:
            save_directory: Folder, made when missing.
            config_file_name: Name of the file; ``generation_config.json`` when not given.

        Returns:
            The file's path.

        Raises:
            CheckpointError: If the folder cannot be written.
        """
        changed = {n: v for n, v in self.to_dict().items() if v != FIELDS[n].default}
        return write_json(Path(save_directory) / (config_file_name or CONFIG_NAME), changed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it can be changed, so it is no key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"


def _unknown(name: str) -> GenerationError:
    choices = [*FIELDS, LENGTH_ALIAS]
    # "stop" is spelled more like "top_p", but stands for what begins with it.
    longer = [choice for choice in choices if len(name) > 2 and choice.startswith(name)]
    near = did_you_mean(name, choices)
    if longer:
        near = f"did you mean {' or '.join(map(repr, longer[:3]))}?"
    return GenerationError(
        f"unknown setting {name!r}",
        where="GenerationConfig",
        fix=near or f"known: {', '.join(sorted(choices))}",
    )

"""``TextModel``: how anything that computes next-token logits generates and chats. Needs no MindSpore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from mindformers.checkpoint.export import GENERATION_FILE
from mindformers.errors import GenerationError
from mindformers.generation.beam_search import refuse_in_search, search
from mindformers.generation.config import GenerationConfig
from mindformers.generation.config_fields import FIELDS
from mindformers.generation.constraint import compiler_of
from mindformers.generation.engine import generate
from mindformers.generation.output import GenerateOutput
from mindformers.generation.prompts import prepare_prompts
from mindformers.generation.stopping import STOP, STOP_STRING, TOOL_CALLS
from mindformers.generation.streamer import streaming
from mindformers.tokenizer.tool_calls import ParsedAnswer, dialect_of, parse_answer

UPSTREAM_LENGTH = FIELDS["max_length"].default  # nobody wants a prompt and answer of 20 tokens
_IDS = ("eos_token_id", "pad_token_id")
DEFAULT_ANSWER_LENGTH = 512  # tokens, where neither the call nor the model's files give a length


class TextModel:
    """A model with ``config`` (its settings) and ``pretrained_dir`` (where it came from, or None)."""

    config: Any
    pretrained_dir: Path | None
    _runners: dict[bool, Any]

    def generation_defaults(self) -> GenerationConfig:
        """Return the settings ``generate`` starts from: the directory's, else the configuration's."""
        source = self.pretrained_dir
        if source is not None and (source / GENERATION_FILE).is_file():
            stored = GenerationConfig.from_pretrained(source)
            # Where the file leaves them out, the ids of config.json count: an answer must end.
            missing = [name for name in _IDS if getattr(stored, name) == FIELDS[name].default]
            return stored.merged(**{name: getattr(self.config, name, None) for name in missing})
        return GenerationConfig.from_model_config(self.config)

    def runner(self, use_cache: bool = True) -> Any:
        """Return what computes the logits; it is kept, so graphs are compiled and caches made once."""
        if use_cache not in self._runners:
            self._runners[use_cache] = self.build_runner(use_cache)
        return self._runners[use_cache]

    def build_runner(self, use_cache: bool) -> Any:
        """Return a new ``ModelRunner``; a model says how."""
        raise GenerationError(f"{type(self).__name__} cannot generate")

    def build_step(self) -> Any:
        """Return a new ``PagedStep`` for an engine; a model says how."""
        raise GenerationError(f"{type(self).__name__} cannot answer through an engine")

    def answering(self) -> AbstractContextManager[Any]:
        """Return the context answers are computed in; nothing has to be set here."""
        return nullcontext()

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
                for stop strings), ``use_past`` (False: no cache), ``assistant_model`` (a smaller
                model of the same vocabulary that guesses tokens; answers do not depend on it),
                ``constraint`` (a function that opens a ``Constraint`` for each answer).

        Returns:
            One int32 array per row, prompt and answer, the end token included, no padding; or a
            ``GenerateOutput`` with ``return_dict_in_generate``.

        Raises:
            GenerationError: If a prompt or a setting cannot be used.
        """
        mask, tokenizer = kwargs.pop("attention_mask", None), kwargs.pop("tokenizer", None)
        use_cache, assistant = kwargs.pop("use_past", True), kwargs.pop("assistant_model", None)
        constraint = kwargs.pop("constraint", None)
        settings = (generation_config or self.generation_defaults()).merged(**kwargs)
        if settings.allowed_vocab_size is None:
            settings.update(allowed_vocab_size=getattr(self.config, "num_used_tokens", None))
        is_open = generation_config is None and is_length_open(settings, kwargs)
        with streaming(streamer), self.answering(), _assisting(self, assistant) as guesser:
            prompts = prepare_prompts(input_ids, settings.pad_token_id, mask)
            if is_open:
                longest = max(len(prompt) for prompt in prompts)
                settings.update(max_new_tokens=open_length(longest, self.config.seq_length))
            given: dict[str, Any] = {
                "logits_processors": logits_processor or (),
                "tokenizer": tokenizer,
                "constraint": constraint,
            }
            if settings.num_beams > 1:
                refuse_in_search(settings, streamer, use_cache, guesser)
                blocks = self.config.num_blocks
                output = search(self.build_step(), prompts, settings, blocks, **given)
            else:
                given |= {"streamer": streamer, "seed": seed, "assistant": guesser}
                output = generate(self.runner(use_cache), prompts, settings, **given)
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
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = "auto",
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
            tools: Tools the answer may call, in OpenAI's form.
            tool_choice: ``auto``, or (with the extra ``constrain``) ``required``, ``none`` or
                ``{"type": "function", "function": {"name": NAME}}``.
            seed: Seed of this call's draws.
            streamer: Gets the answer as it comes.
            **kwargs: Fields of ``GenerationConfig``; ``constraint`` and others of ``generate``.

        Returns:
            The answer and the history with this turn appended. Calls stand in the last message of the
            history, under ``tool_calls``; the answer is what is said beside them.

        Raises:
            TokenizerError: If a message or a tool is malformed.
            GenerationError: If a setting, or the choice of a tool, cannot be used.
        """
        messages = [dict(message) for message in history or ()]
        if instruction and not any(message["role"] == system_role_name for message in messages):
            messages.insert(0, {"role": system_role_name, "content": instruction})
        messages.append({"role": user_role_name, "content": query})
        given: dict[str, Any] = {"tools": tools} if tools else {}
        segments = tokenizer.render(messages, add_generation_prompt=True, **given)
        if tools and tool_choice not in ("auto", None):
            if kwargs.get("constraint") is not None:
                raise GenerationError(
                    f"a constraint and tool_choice={tool_choice!r:.80}",
                    where="chat",
                    fix="leave one out: each says what the whole answer may be",
                )
            compiler = compiler_of(tokenizer, self.config.vocab_size)
            kwargs["constraint"] = compiler.tool_calls(tools, tool_choice)
        output = self.generate(
            [tokenizer.encode_segments(segments)],
            seed=seed,
            streamer=streamer,
            tokenizer=tokenizer,
            allowed_vocab_size=len(tokenizer),
            **{
                "eos_token_id": turn_ends(self, tokenizer),
                **kwargs,
                "return_dict_in_generate": True,
            },
        )
        assert isinstance(output, GenerateOutput)
        reply: dict[str, Any] = {"role": assistant_role_name}
        reply["content"] = answer_text(output, 0, tokenizer)
        calls = answer_calls(output, 0, tokenizer, tools) if tools else None
        if calls is not None and calls.tool_calls:
            reply["content"] = calls.content
            reply["tool_calls"] = [
                call.as_dict(f"call_{len(messages)}_{number}")
                for number, call in enumerate(calls.tool_calls)
            ]
        return reply["content"], [*messages, reply]


@contextmanager
def _assisting(model: TextModel, assistant: Any) -> Iterator[Any]:
    """Give the runner of a model that guesses for ``model``; None where there is none.

    Raises:
        GenerationError: If it is no model, or the very one that it guesses for.
    """
    if assistant is None:
        yield None
        return
    if not isinstance(assistant, TextModel) or assistant is model:
        raise GenerationError(
            "found the model itself" if assistant is model else f"found {assistant!r:.80}",
            where="assistant_model",
            allowed="a smaller model of the same vocabulary, as AutoModel gives",
        )
    with assistant.answering():
        yield assistant.runner()


def is_length_open(settings: GenerationConfig, given: Mapping[str, Any]) -> bool:
    """Tell whether neither a model's ``settings`` nor what was ``given`` says how long an answer may be."""
    lengths = (settings.max_new_tokens, settings.max_length)
    return "max_length" not in given and lengths == (None, UPSTREAM_LENGTH)


def open_length(num_prompt_tokens: int, seq_length: int) -> int:
    """Return how long an answer may be where nobody says it: 512 tokens, or as many as fit."""
    return max(1, min(DEFAULT_ANSWER_LENGTH, seq_length - num_prompt_tokens))


def turn_ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the ids that end an answer: the model's own, and the control tokens no answer goes beyond.

    ChatGLM3's published settings name ``</s>`` alone, while the model ends a turn with ``<|user|>``.
    """
    ends = [tokenizer.special_tokens[name] for name in tokenizer.end_tokens]
    return list(dict.fromkeys([*model.generation_defaults().eos_token_id, *ends]))


def answer_text(output: GenerateOutput, row: int, tokenizer: Any) -> str:
    """Return what a row of ``output`` answers, without control tokens and without a stop string.

    What belongs to the form of a turn is left out: in GLM-4 the newline that begins it.
    """
    if output.texts is not None:
        return tokenizer.strip_answer(output.texts[row])
    ids = output.sequences[row][output.num_prompt_tokens[row] :]
    return tokenizer.strip_answer(tokenizer.decode(ids, skip_special_tokens=True))


def answer_calls(
    output: GenerateOutput, row: int, tokenizer: Any, tools: Sequence[Mapping[str, Any]]
) -> ParsedAnswer:
    """Return what a row of ``output`` says, and which of ``tools`` it calls."""
    ids = list(output.sequences[row][output.num_prompt_tokens[row] :])
    if ids and output.finish_reasons[row] in (STOP, TOOL_CALLS):
        ids.pop()  # the token that ended it
    text = tokenizer.decode(ids, spaces_between_special_tokens=False)
    if output.texts is not None and output.finish_reasons[row] == STOP_STRING:
        text = output.texts[row]
    return parse_answer(text, tools, output.finish_reasons[row], dialect_of(tokenizer))

"""``pipeline("text_generation", ...)``: from text or messages to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindformers.config.options import say_without_effect, without_options
from mindformers.errors import ConfigError, did_you_mean
from mindformers.generation.output import GenerateOutput
from mindformers.models.auto import AutoModel, AutoTokenizer, open_in_files
from mindformers.models.text_model import answer_text, turn_ends
from mindformers.parallel.runtime import default_device

TASKS = ("text_generation",)
_PIPELINE_OPTIONS: dict[str, tuple[Any, ...]] = {  # upstream's, of its other pipelines
    "framework": (None, "ms"),
    "task": (None, "", *TASKS),
    "feature_extractor": (None,),
    "image_processor": (None,),
    "audio_processor": (None,),
    "binary_output": (False,),
}
Messages = Sequence[Mapping[str, Any]]


class TextGenerationPipeline:
    """A network and its tokenizer as one function.

    Args:
        model: A network with ``generate``.
        tokenizer: Its tokenizer.
        **defaults: Settings of ``generate`` for every call.
    """

    return_name = "text_generation"

    def __init__(self, model: Any, tokenizer: Any, **defaults: Any):
        self.model, self.tokenizer = model, tokenizer
        self.defaults = without_options("TextGenerationPipeline", defaults, _PIPELINE_OPTIONS)

    def __call__(
        self,
        inputs: str | Messages | Sequence[str] | Sequence[Messages],
        *,
        batch_size: int | None = None,
        apply_chat_template: bool | None = None,
        **settings: Any,
    ) -> list[dict[str, list[str]]]:
        """Continue texts, or answer conversations.

        Args:
            inputs: One text, one list of messages, or a list of either.
            batch_size: Prompts that run together; None: all.
            apply_chat_template: True: a text is what a user says. Messages always get the template.
            **settings: Fields of ``GenerationConfig``; ``seed``; ``streamer``; ``tools`` for messages;
                ``add_special_tokens`` (True: a plain text begins with the family's prefix).

        Returns:
            One ``{"text_generation_text": [text]}`` per prompt: prompt and continuation of a plain text,
            the answer alone of a conversation.
        """
        return [
            {f"{self.return_name}_text": [text]}
            for text, _ in self.run(
                inputs, batch_size=batch_size, apply_chat_template=apply_chat_template, **settings
            )
        ]

    def run(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        apply_chat_template: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> list[tuple[str, str]]:
        """Return (text, finish reason) for every prompt; arguments as in ``__call__``."""
        items = [inputs] if isinstance(inputs, str) or _is_conversation(inputs) else list(inputs)
        answers: list[tuple[str, str]] = []
        size = batch_size or max(len(items), 1)
        for start in range(0, len(items), size):
            answers += self._run_batch(
                items[start : start + size], bool(apply_chat_template), tools, settings
            )
        return answers

    def _run_batch(
        self, items: Sequence[Any], as_chat: bool, tools: Any, settings: dict[str, Any]
    ) -> list[tuple[str, str]]:
        settings = {**self.defaults, **settings}
        has_prefix = settings.pop("add_special_tokens", True)
        prompts, plain = [], []
        for item in items:
            plain.append(isinstance(item, str) and not as_chat)
            if plain[-1]:
                prompts.append(
                    list(self.tokenizer(item, add_special_tokens=has_prefix)["input_ids"])
                )
                continue
            messages = [{"role": "user", "content": item}] if isinstance(item, str) else item
            segments = self.tokenizer.render(messages, tools=tools, add_generation_prompt=True)
            prompts.append(self.tokenizer.encode_segments(segments))
        output = self.model.generate(
            prompts,
            tokenizer=self.tokenizer,
            **{
                "allowed_vocab_size": len(self.tokenizer),
                **({} if all(plain) else {"eos_token_id": turn_ends(self.model, self.tokenizer)}),
                **settings,
                "return_dict_in_generate": True,
            },
        )
        assert isinstance(output, GenerateOutput)
        texts = [
            answer_text(output, row, self.tokenizer)
            if not is_plain
            else self.tokenizer.decode(output.sequences[row], skip_special_tokens=True)
            for row, is_plain in enumerate(plain)
        ]
        return list(zip(texts, output.finish_reasons, strict=True))


def _is_conversation(inputs: Any) -> bool:
    return not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], Mapping)


def pipeline(
    task: str | None = None,
    model: Any = None,
    tokenizer: Any = None,
    image_processor: Any = None,
    audio_processor: Any = None,
    backend: str = "ms",
    **defaults: Any,
) -> Any:
    """Return the pipeline of a task.

    Args:
        task: ``text_generation``, also when None.
        model: A network, a path ``AutoModel`` takes, or a pair of (model, tokenizer). On a CPU the weights
            of a directory are used where they lie in its files, without loading MindSpore.
        tokenizer: A tokenizer or a path; None: the model's directory.
        image_processor: Has no effect: these models read text.
        audio_processor: Has no effect.
        backend: ``ms``.
        **defaults: Settings of ``generate`` for every call.

    Raises:
        ConfigError: If the task or the backend is unknown, or no tokenizer can be found.
    """
    unread = {"image_processor": image_processor, "audio_processor": audio_processor}
    say_without_effect("pipeline", unread)
    without_options("pipeline", {"backend": backend}, {"backend": ("ms",)})
    task = task or TASKS[0]
    if task not in TASKS:
        raise ConfigError(
            f"no task is called {task!r}", allowed=", ".join(TASKS), fix=did_you_mean(task, TASKS)
        )
    if isinstance(model, tuple):
        model, tokenizer = model
    if model is None:
        raise ConfigError(
            "no model was given", allowed="a network, or a path such as a model directory"
        )
    is_path = isinstance(model, (str, Path))
    if tokenizer is None:
        tokenizer = model if is_path else getattr(model, "pretrained_dir", None)
    if tokenizer is None:
        raise ConfigError(
            "no tokenizer was given", fix="pass tokenizer=AutoTokenizer.from_pretrained(...)"
        )
    if isinstance(tokenizer, (str, Path)):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    if is_path:
        # A pipeline only answers, so weights may stay in their files; a network to train comes from AutoModel.
        in_files = open_in_files(model) if default_device() == "CPU" else None
        model = in_files or AutoModel.from_pretrained(model)
    return TextGenerationPipeline(model, tokenizer, **defaults)

"""The bodies of the requests, as OpenAI's reference has them; what is not OpenAI's says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mindformers.serving.fields import MAX_TOP_LOGPROBS, AnswerFields, Ids, Strict, Text, either
from mindformers.serving.settings import MAX_MESSAGES

_TEMPLATE = "the server's own chat template is used; a request cannot bring one"
_TOOLS = "an older form; use tools and tool_choice"
_SomeIds = Annotated[Ids, Field(min_length=1)]


class TextPart(Strict):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class CalledFunction(Strict):
    """A function's name and its arguments as JSON text."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str = ""


class CalledTool(Strict):
    """A call that an earlier answer made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Strict):
    """One message.

    Args:
        role: ``developer`` is read as ``system``; ``tool`` holds a tool's result.
        content: Text, or pieces of it.
        name: Accepted without effect: the templates have no place for it.
        tool_calls: What an assistant called.
        tool_call_id: Which call a result belongs to; results are read in the order of the calls.
        reasoning_content: An assistant's thoughts, for templates that read them (not OpenAI's).
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "observation"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(fail_fast=True)] | None,
        either('a text, or a list of {"type": "text", "text": ...}; these models read text only'),
    ] = None
    name: str | None = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True, max_length=128)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _check_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("no_content", "content is missing")
        return self

    # What an answer of OpenAI's holds and clients send back.
    refused: ClassVar[Mapping[str, str]] = {
        "refusal": "this server's models have no refusals",
        "annotations": "not available",
        "audio": "these models read text only",
        "function_call": _TOOLS,
    }


Messages = Annotated[
    list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
]


class NamedFunction(Strict):
    """A function's name."""

    name: str


class NamedTool(Strict):
    """The one tool that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Strict):
    """A schema that the answer has to keep."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(AnswerFields):
    """``POST /v1/chat/completions``.

    Args:
        messages: The conversation.
        max_completion_tokens: The same as ``max_tokens``; wins over it.
        logprobs: Tell the log probability of each token.
        top_logprobs: And of so many likeliest ones in its place.
        tools: Functions the model may call, in OpenAI's form.
        tool_choice: ``none``, ``auto``, ``required`` or one tool.
        parallel_tool_calls: False: one call at most.
        response_format: Text, any JSON object, or JSON of a schema.
    """

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | NamedTool | None,
        either('none, auto, required or {"type": "function", "function": {"name": ...}}'),
    ] = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "chat_template": _TEMPLATE,
        "chat_template_kwargs": _TEMPLATE,
        "functions": _TOOLS,
        "function_call": _TOOLS,
        "audio": "these models write text only",
        "modalities": "these models write text only",
        "prediction": "not available",
        "reasoning_effort": "not available",
        "verbosity": "not available",
        "web_search_options": "not available; offer a tool that searches",
        "moderation": "not available",
    }


class CompletionRequest(AnswerFields):
    """``POST /v1/completions``: continue texts as they are, without a chat template.

    Args:
        prompt: A text, texts, ids, or lists of ids. Texts get the model's own beginning
            (``[gMASK]<sop>``); ids are taken as they are.
        echo: Begin each answer with its prompt.
        logprobs: Tell the log probability of each token and of so many likeliest ones, up to 20.
        best_of: Accepted when it equals ``n``.
    """

    prompt: Annotated[
        str
        | Ids
        | Annotated[list[str], Field(fail_fast=True)]
        | Annotated[list[Ids], Field(fail_fast=True)],
        either("a text, texts, ids, or lists of ids"),
    ]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "suffix": "these models only continue a text; they do not fill one in",
    }


class EmbeddingsRequest(Strict):
    """``POST /v1/embeddings``: texts as vectors.

    Args:
        input: A text, texts, ids, or lists of ids, none empty. Texts get the model's own beginning
            (``[gMASK]<sop>``); ids are taken as they are.
        model: The served model's name; may be left out.
        encoding_format: ``float``, or ``base64`` of little-endian float32.
        dimensions: Accepted when it is what the model's embeddings have.
        user: Accepted without effect.
    """

    input: Annotated[
        Text
        | _SomeIds
        | Annotated[list[Text], Field(fail_fast=True, min_length=1)]
        | Annotated[list[_SomeIds], Field(fail_fast=True, min_length=1)],
        either("a text, texts, ids, or lists of ids, none empty"),
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    user: str | None = None


class TokenizeRequest(Strict):
    """``POST /tokenize`` (not OpenAI's): the ids of a text or of a conversation.

    Args:
        model: The served model's name; may be left out.
        prompt: A text.
        messages: Or a conversation, rendered as ``/v1/chat/completions`` does.
        tools: Of the conversation.
        add_special_tokens: Whether a text gets the model's own beginning.
    """

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=128)] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(Strict):
    """``POST /detokenize`` (not OpenAI's): the text of ids.

    Args:
        model: The served model's name; may be left out.
        tokens: Ids.
    """

    model: str | None = None
    tokens: Ids

"""``MindFormersLM``: a model of this library as lm-evaluation-harness asks for one. Needs the ``lm_eval`` extra.

Texts meet tokens where the harness's ``hf`` model lets them meet: a context and its continuation are encoded
as one text and cut where the context's own tokens end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM

from mindformers.config.columns import IGNORED_LABEL
from mindformers.config.options import refuse_options
from mindformers.errors import ConfigError
from mindformers.evaluation.progress import row_bar
from mindformers.evaluation.rows import TokenRow
from mindformers.evaluation.scoring import lots, open_scorer
from mindformers.logger import only_warnings
from mindformers.tasks.lm_harness_prompts import ChatPrompts
from mindformers.tasks.pipeline import pipeline

_DEFAULT_BATCH = 8
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "max_batch_size": (),
    "device": (None, "cpu", "cuda:0"),  # the command line's default; there is no choice here
    "trust_remote_code": (None, False),
    "dtype": ("auto",),  # the weights' own
}
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SETTINGS = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
Request = tuple[Any, list[int], list[int]]  # what to remember an answer by, context, continuation


class MindFormersLM(TemplateLM):
    """Likelihoods and answers of a model directory.

    Args:
        pretrained: A directory or YAML file that ``AutoModel`` takes.
        tokenizer: A directory or ``tokenizer.model``; None: that of ``pretrained``.
        batch_size: Prompts answered at once, and rows of a pass where rows are padded; ``auto``: 8.
        max_length: Most tokens of a row; None: the model's ``seq_length``.
        max_gen_toks: Most tokens of an answer where a task does not say.
        add_bos_token: Begin texts with ``[gMASK]<sop>``; None: yes, as the tokenizer does.
        prefix_token_id: Stands before a text without context; None: ``<|endoftext|>``.
        options: The harness's other arguments, at their neutral values.

    Raises:
        ConfigError: If an argument is unknown or cannot be had.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        tokenizer: str | None = None,
        batch_size: int | str = 1,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        **options: Any,
    ):
        super().__init__()
        refuse_options("lm_eval --model_args", options, _NEUTRAL)
        opened = pipeline(model=pretrained, tokenizer=tokenizer)
        self.model, self.tokenizer = opened.model, opened.tokenizer
        self.batch_size = _DEFAULT_BATCH if "auto" in str(batch_size) else int(batch_size)
        self.max_length = min(
            max_length or self.model.config.seq_length, self.model.config.seq_length
        )
        self.max_gen_toks, self.add_bos_token = max_gen_toks, add_bos_token
        self._prefix_token_id = prefix_token_id
        self._prompts = ChatPrompts(self.tokenizer)
        self._scorer = open_scorer(self.model, self.batch_size)
        self.name_or_path = pretrained

    # --- texts and tokens ------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self.eot_token_id if self._prefix_token_id is None else self._prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """What prepared requests are remembered by."""
        return str(self.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Return the ids of a text; control tokens are those of a chat template's prompt alone."""
        del unused
        prompt = self._prompts.encode(string)
        if prompt is not None:
            return prompt
        has_prefix = self.add_bos_token if add_special_tokens is None else add_special_tokens
        encoded = self.tokenizer(string, add_special_tokens=has_prefix is not False)
        return list(encoded["input_ids"])

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a conversation, up to where an answer begins."""
        return self._prompts.render(chat_history, add_generation_prompt)

    # --- likelihoods -----------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Return the log likelihood of whole texts, in windows of ``max_length`` that share no token."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            found = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for context, rest in map(utils.make_disjoint_window, found):
                windows.append((None, list(context), list(rest)))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (value, _) in zip(
            owners, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm), strict=True
        ):
            sums[number] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **unused: Any
    ) -> list[tuple[float, bool]]:
        """Return (log likelihood, whether greedy decoding gives it) of continuations, longest first."""
        del unused
        rows = [self._row(context, rest) for _, context, rest in requests]
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), rows[i].ids.tolist()))
        results: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        with row_bar(len(rows), "loglikelihood", not disable_tqdm) as on_rows:
            for lot in lots(order):
                for i, score in zip(lot, self._scorer([rows[i] for i in lot]), strict=True):
                    results[i] = (-score.loss, score.correct == score.tokens)
                on_rows(len(lot))
        for (key, _, _), result in zip(requests, results, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
        return results

    def _row(self, context: list[int], continuation: list[int]) -> TokenRow:
        """Return a row whose labels are the continuation; of a long one the first tokens go."""
        tokens = np.array([*context, *continuation][-(self.max_length + 1) :], np.int32)
        labels = tokens[1:].copy()
        labels[: max(0, len(labels) - len(continuation))] = IGNORED_LABEL
        return TokenRow(tokens[:-1], labels)

    # --- answers ---------------------------------------------------------------------------------

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Return the texts that follow contexts, up to the first of a task's stop strings."""
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        groups: dict[str, list[int]] = {}
        for i in sorted(range(len(requests)), key=lambda i: -len(contexts[i])):
            groups.setdefault(repr(requests[i].args[1]), []).append(i)
        answers = [""] * len(requests)
        with row_bar(len(requests), "generate_until", not disable_tqdm) as on_rows:
            for group in groups.values():
                for lot in lots(group, self.batch_size):
                    texts = self._generate([contexts[i] for i in lot], requests[lot[0]].args[1])
                    for i, text in zip(lot, texts, strict=True):
                        answers[i] = text
                        self.cache_hook.add_partial("generate_until", requests[i].args, text)
                    on_rows(len(lot))
        return answers

    def _generate(self, contexts: list[list[int]], asked: dict[str, Any]) -> list[str]:
        until = asked.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        length = next((int(asked[name]) for name in _LENGTHS if asked.get(name)), self.max_gen_toks)
        room = self.max_length - length
        if room < 1:
            raise ConfigError(
                f"the task asks for answers of {length} tokens, the model holds {self.max_length}",
                where="--gen_kwargs max_gen_toks", allowed=f"below {self.max_length}",
            )  # fmt: skip
        settings = {name: asked[name] for name in _SETTINGS if asked.get(name) is not None}
        if not settings.get("temperature"):
            settings.pop("temperature", None)
            settings["do_sample"] = False
        settings.setdefault("do_sample", True)
        with only_warnings():
            output = self.model.generate(
                [context[-room:] for context in contexts],
                tokenizer=self.tokenizer,
                max_new_tokens=length,
                stop_strings=stops or None,
                allowed_vocab_size=len(self.tokenizer),
                return_dict_in_generate=True,
                **settings,
            )
        return [
            _before(stops, self.tokenizer.decode(ids[start:], skip_special_tokens=True))
            for ids, start in zip(output.sequences, output.num_prompt_tokens, strict=True)
        ]


def _before(stops: Iterable[str], text: str) -> str:
    """Return what stands before the first of some stop strings."""
    for stop in stops:
        text = text.partition(stop)[0]
    return text

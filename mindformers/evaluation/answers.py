"""A model's own answers to the prompts of rows, beside those of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from mindformers.config.evaluation import Turns
from mindformers.evaluation.rows import Ids, TokenRow, turns_of
from mindformers.evaluation.scoring import lots, own_share
from mindformers.generation.config_fields import FIELDS
from mindformers.logger import only_warnings
from mindformers.parallel.heartbeat import beat
from mindformers.parallel.mesh import mesh

ANSWER_TOKENS = 512  # of an answer, where neither the call nor the model's files give a length


@dataclass(frozen=True)
class Answer:
    """An answer, all that follows ``<|assistant|>`` without control tokens.

    Attributes:
        row: Number of the row, counted from 1.
        turn: Number of the answer within it, counted from 1.
        prompt: What was asked, with the control tokens.
        answer: What the model says.
        reference: What the data says.
    """

    row: int
    turn: int
    prompt: str
    answer: str
    reference: str


def answer_rows(
    model: Any,
    tokenizer: Any,
    rows: Iterable[TokenRow],
    *,
    turns: Turns = "all",
    batch_size: int,
    on_rows: Callable[[int], None] = lambda count: None,
    **settings: Any,
) -> list[Answer]:
    """Return the answers to the turns of all rows, in order.

    Of several copies of a model each answers some of the rows.

    Args:
        model: Has ``generate``.
        tokenizer: Its tokenizer.
        rows: The same ones in every process; one without an answer is passed over.
        turns: Which answers of a row are asked for.
        batch_size: Prompts that are answered at once.
        on_rows: Called with a number of rows that are done.
        **settings: Fields of ``GenerationConfig``; ``seed``.
    """
    lengths = _Lengths.of(model, settings)
    settings |= {"max_new_tokens": lengths.new} if lengths.new else {"max_length": lengths.limit}
    found: list[Answer] = []
    for lot in lots(own_share(enumerate(rows, 1)), batch_size):
        asked = [(number, turn) for number, row in lot for turn in turns_of(row, turns)]
        texts: list[str] = []
        for some in lots(asked, batch_size):
            for prompts in lengths.that_fit([turn.prompt for _, turn in some], model.config):
                with only_warnings():
                    texts += _generate(model, tokenizer, prompts, lengths, settings)
                beat("evaluation")
        found += [
            Answer(
                number,
                turn.number,
                tokenizer.decode(turn.prompt),
                text,
                tokenizer.decode(turn.answer, skip_special_tokens=True),
            )
            for (number, turn), text in zip(asked, texts, strict=True)
        ]
        on_rows(len(lot) * mesh().layout.data)
    return _joined(found)


@dataclass(frozen=True)
class _Lengths:
    """How long answers may be.

    Attributes:
        limit: Tokens of a prompt and its answer.
        new: Tokens of an answer; None: whatever ``limit`` leaves.
    """

    limit: int
    new: int | None

    @classmethod
    def of(cls, model: Any, settings: dict[str, Any]) -> _Lengths:
        """Return the lengths the settings of a call and of a model say; 512 tokens where they say none."""
        given = {name: value for name, value in settings.items() if name in FIELDS}
        known, most = model.generation_defaults().merged(**given), model.config.seq_length
        if known.max_new_tokens is not None:
            return cls(most, known.max_new_tokens)
        if known.max_length == FIELDS["max_length"].default:
            return cls(most, ANSWER_TOKENS if most > ANSWER_TOKENS else None)
        return cls(min(most, known.max_length), None)

    def that_fit(self, prompts: Sequence[Ids], config: Any) -> Iterator[list[Ids]]:
        """Yield the prompts in lots whose tokens, answers included, the cache has blocks for."""
        lot: list[Ids] = []
        blocks = 0
        for prompt in prompts:
            length = min(self.limit, len(prompt) + self.new) if self.new else self.limit
            needed = -(-max(length, len(prompt)) // config.block_size)
            if lot and blocks + needed > config.num_blocks:
                yield lot
                lot, blocks = [], 0
            lot.append(prompt)
            blocks += needed
        if lot:
            yield lot


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Ids],
    lengths: _Lengths,
    settings: dict[str, Any],
) -> list[str]:
    """Return the texts that follow prompts; one that leaves no room is followed by nothing."""
    texts = [""] * len(prompts)
    open_ones = [i for i, each in enumerate(prompts) if len(each) < lengths.limit]
    if not open_ones:
        return texts
    output = model.generate(
        [prompts[i].tolist() for i in open_ones],
        tokenizer=tokenizer,
        **{
            "allowed_vocab_size": len(tokenizer),
            **settings,
            "return_dict_in_generate": True,
        },
    )
    for i, ids, length in zip(open_ones, output.sequences, output.num_prompt_tokens, strict=True):
        texts[i] = tokenizer.decode(ids[length:], skip_special_tokens=True)
    return texts


def _joined(own: list[Answer]) -> list[Answer]:
    """Return the answers of all copies of the model, in the order of the rows."""
    if mesh().layout.data == 1:
        return own
    every = mesh().replicas.gather_objects([astuple(each) for each in own])
    return [Answer(*each) for each in sorted(each for part in every for each in part)]

"""Which answers go on in the next step, with how many tokens, and what gives way when the cache is full.

Every answer that has been read so far gets its next token in every step; what room a step has left goes to the
prompts that are still being read, the shortest first, and a small step is filled up with guesses. What is given up is
read again later, from the prompt and what was answered: no answer depends on it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mindformers.errors import GenerationError
from mindformers.generation.answer import Answer
from mindformers.generation.block_manager import BlockManager

# At least a quarter of a step goes to prompts, however many answers are under way; of that, as much to the first.
PROMPT_PART = 4
# Tokens of a step with guesses, at most. Kernels take so many at once, and a step still costs little more than
# reading the weights; in a larger one every wrong guess costs its share of the products.
GUESSED_STEP = 8


@dataclass(frozen=True)
class EngineSettings:
    """What an engine may take at once.

    Args:
        num_blocks: Blocks of the cache; None: see ``open_engine``.
        max_running: Answers that go on at once.
        max_waiting: Requests that may wait for it.
        step_tokens: Tokens of a step, about: how long prompts hold up the answers that are under way.
        prefix_cache: Whether prompts that begin alike share what was read.

    Raises:
        GenerationError: If one is below 1.
    """

    num_blocks: int | None = None
    max_running: int = 64
    max_waiting: int = 256
    step_tokens: int = 256
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        for name in ("num_blocks", "max_running", "max_waiting", "step_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise GenerationError(f"found {value}", where=name, allowed="1 or more")


class Scheduler:
    """Answers waiting and running, and their blocks.

    Args:
        blocks: The cache's.
        settings: The limits.
        is_whole: Whether prompts cannot be cut into pieces, nor share what was read.
    """

    def __init__(self, blocks: BlockManager, settings: EngineSettings, is_whole: bool) -> None:
        self.blocks, self.settings, self._is_whole = blocks, settings, is_whole
        self._shares = settings.prefix_cache and not is_whole
        self.waiting: list[Answer] = []
        self.running: list[Answer] = []
        self.num_preempted = 0
        self._places = itertools.count()

    def add(self, answer: Answer) -> None:
        """Let an answer wait for its turn."""
        self.waiting.append(answer)

    def fork(self, answer: Answer, other: Answer) -> None:
        """Let a new answer go on from where a running one is; their blocks are shared."""
        other.place, other.num_written = next(self._places), answer.num_written
        self.blocks.fork(answer.place, other.place)
        self.running.append(other)

    def remove(self, answer: Answer) -> None:
        """Forget an answer, wherever it is; its blocks are free."""
        if answer in self.running:
            self.running.remove(answer)
            self.blocks.free([answer.place])
        elif answer in self.waiting:
            self.waiting.remove(answer)

    def plan(self) -> list[tuple[Answer, int]]:
        """Return which answers have how many of their unread tokens read in the next step."""
        while True:
            self._admit()
            self.running.sort(key=lambda answer: answer.rank)
            self._make_room()
            planned = [(answer, 1) for answer in self.running if answer.num_unread == 1]
            reading = [answer for answer in self.running if answer.num_unread > 1]
            most = self.settings.step_tokens
            planned += self._share_out(reading, max(most - len(planned), most // PROMPT_PART, 1))
            if planned or not self.running:
                assert planned or not self.waiting, "what was let in fits into an empty cache"
                self._add_guesses(planned)
                return planned
            # Beams wait for others of theirs, and these for blocks that somebody holds.
            self._preempt(self.running[-1])

    def note_written(self, answer: Answer, count: int) -> None:
        """Take note that a step has read ``count`` more tokens of an answer."""
        answer.num_written = answer.num_positions - answer.num_unread + count
        if self._shares:
            self.blocks.note(answer.place, answer.cached_ids, answer.num_written)

    def settle(self, answer: Answer, num_right: int) -> None:
        """Take note that so many guesses of an answer were right; what the others took is free."""
        if answer.draft:
            self.note_written(answer, num_right)
            self.blocks.truncate([answer.place], [answer.num_written])
            answer.draft = []

    def _admit(self) -> None:
        """Let those that wait run, in their order, as long as there is room."""
        jobs = {answer.job for answer in self.running}
        places = self.settings.max_running - len(self.running)
        places -= sum(job.num_coming for job in jobs)
        for answer in sorted(self.waiting, key=lambda each: each.rank):
            coming = 0 if answer.job in jobs else answer.job.num_coming
            if places < 1 + coming or not self._open(answer):
                return
            places -= 1 + coming
            jobs.add(answer.job)

    def _open(self, answer: Answer) -> bool:
        place = next(self._places)
        # A block for each that runs: else the next step would give up what this one began.
        num_cached = self.blocks.open(
            place,
            answer.cached_ids,
            reserve=len(self.running),
            is_shared=not answer.job.reads_all,
        )
        if num_cached is None:
            return False
        answer.place, answer.num_written = place, num_cached
        answer.job.note_start(answer)
        self.waiting.remove(answer)
        self.running.append(answer)
        for job in {other.job for other in self.waiting}:
            if job.rank[-1] < answer.job.rank[-1]:
                job.note_overtaken()
        return True

    def _make_room(self) -> None:
        """Give every answer that chose a token a place for it; the last in rank give theirs up."""
        for answer in list(self.running):
            while answer in self.running and self._lacks_room(answer):
                if self.blocks.needs_block(answer.place) and not self.blocks.num_free:
                    self._preempt(self.running[-1])
                else:
                    self.blocks.append([answer.place])

    def _lacks_room(self, answer: Answer) -> bool:
        return self.blocks.length(answer.place) < answer.num_positions

    def _preempt(self, answer: Answer) -> None:
        """Take an answer's blocks and let it wait, with all it belongs together with."""
        job = answer.job
        for each in [
            a for a in self.running if a is answer or (a.job is job and job.goes_together)
        ]:
            self.remove(each)
            each.num_written = 0
            self.waiting.append(each)
            self.num_preempted += 1

    def _share_out(self, reading: list[Answer], room: int) -> list[tuple[Answer, int]]:
        """Give a part of a step to the first in rank, so that nobody waits for ever, the rest to who has least left.

        So prompts of one length are read one after another. At an equal pace all of them would be done, and
        begin to answer, when the last is.
        """
        counts = dict.fromkeys(reading, 0)
        turns = [(answer, -(-room // PROMPT_PART)) for answer in reading[:1]]
        turns += [(answer, room) for answer in sorted(reading, key=lambda each: each.num_unread)]
        for answer, part in turns:
            left = answer.num_unread - counts[answer]
            # One that cannot be cut may take more than there is.
            count = left if self._is_whole and room > 0 else max(0, min(left, part, room))
            counts[answer] += count
            room -= count
        return [(answer, count) for answer, count in counts.items() if count]

    def _add_guesses(self, planned: list[tuple[Answer, int]]) -> None:
        """Fill a small step up with guesses, an equal part for each answer under way; nobody gives way for them."""
        room = min(GUESSED_STEP, self.settings.step_tokens) - sum(count for _, count in planned)
        if self._is_whole or room <= 0:
            return
        guessing = [answer for answer, _ in planned if answer.num_unread == 1]
        for place, answer in enumerate(guessing):
            share = -(-room // (len(guessing) - place))
            most = min(share, self.blocks.spare(1))
            draft = answer.job.guess(answer.row, most) if most > 0 else []
            if draft:
                self.blocks.append([answer.place], [len(draft)])
                answer.draft = draft
                room -= len(draft)

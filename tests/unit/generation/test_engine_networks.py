"""The engine over real networks: every request of a mix gets the tokens that ``generate`` gives to it alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.config import GenerationConfig
from mindformers.generation.paged_step import Piece
from mindformers.generation.request import Request
from mindformers.generation.serving_engine import open_engine
from mindformers.pet import Ptuning2Config, get_pet_model
from tests.support.engine import answers, is_empty, open_core, run_all, submit
from tests.support.golden_model import CASES
from tests.support.networks import golden_network


def mix(rng: np.random.Generator, vocab: int, count: int):
    """Yield prompts, settings, seeds and numbers of answers; many prompts begin alike."""
    beginnings = [rng.integers(1, vocab, 40).tolist() for _ in range(2)]
    for number in range(count):
        shared = beginnings[number % 2][: int(rng.integers(0, 40))]
        prompt = shared + rng.integers(1, vocab, int(rng.integers(1, 12))).tolist()
        choice = {"do_sample": True, "top_k": 20, "temperature": 0.8} if number % 3 == 1 else {}
        rules = {"repetition_penalty": 1.3, "min_new_tokens": 3} if number % 3 == 2 else {}
        limit = int(rng.integers(3, 16))
        config = GenerationConfig(max_new_tokens=limit, eos_token_id=[7, 30], **choice, **rules)
        yield prompt, config, int(rng.integers(0, 2**63)), 1 + 2 * (number % 4 == 1)


MIXES = {  # num_blocks, step_tokens, prefix_cache, count
    "native": [(200, 512, True, 14), (24, 11, True, 14), (24, 11, False, 14)],
    "portable": [(24, 11, True, 8)],  # each pass of MindSpore takes milliseconds
}


@pytest.fixture
def network(backend: str, pynative: None):
    return golden_network(CASES[1], seq_length=80, num_blocks=64)


def test_any_mix_gets_the_tokens_that_each_gets_alone(network, backend):
    for case in MIXES[backend]:
        check_mix(network, *case)


def check_mix(network, num_blocks, step_tokens, prefix_cache, count):
    rng = np.random.default_rng(num_blocks + step_tokens)
    requests = list(mix(rng, network.config.vocab_size, count))
    expected = [
        [row[len(prompt) :].tolist() for row in network.generate([prompt] * n, config, seed=seed)]
        for prompt, config, seed, n in requests
    ]
    core = open_core(
        network.build_step(), num_blocks, step_tokens=step_tokens, prefix_cache=prefix_cache
    )
    handles = []
    for prompt, config, seed, n in requests:
        handles.append(submit(core, prompt, config, seed=seed, num_answers=n))
        for _ in range(int(rng.integers(0, 3))):
            core.run_once()
    run_all(core)
    for handle, wanted in zip(handles, expected, strict=True):
        assert list(answers(handle).values()) == wanted
    stats = core.stats()
    assert is_empty(core)
    assert (stats.preemptions > 0) == (num_blocks == 24)
    assert (stats.cached_tokens > 0) == prefix_cache


def test_guesses_beside_one_another_change_no_token(backend, pynative):
    network = golden_network(CASES[1], seq_length=80, num_blocks=64)
    rng = np.random.default_rng(4)
    count, length = (10, 24) if backend == "native" else (3, 12)
    requests = list(mix(rng, network.config.vocab_size, count))
    handles: list[list] = [[], []]
    stats = []
    for own, guesses in zip(handles, (None, 5), strict=True):
        core = open_core(network.build_step(), 24, step_tokens=11)
        for prompt, config, seed, n in requests:
            # Longer answers of few tokens: they repeat themselves.
            asked = config.merged(
                max_new_tokens=length, allowed_vocab_size=12, prompt_lookup_num_tokens=guesses
            )
            own.append(submit(core, prompt, asked, seed=seed, num_answers=n))
            core.run_once()
        run_all(core)
        assert is_empty(core)
        stats.append(core.stats())
    assert [answers(each) for each in handles[1]] == [answers(each) for each in handles[0]]
    assert 0 < stats[1].accepted_tokens < stats[1].drafted_tokens
    assert stats[1].preemptions > 0 or backend == "portable"


def test_an_engine_opened_over_a_model_answers_beside_generate(network):
    prompt = [3, 1, 4, 1, 5]
    config = GenerationConfig(max_new_tokens=9)
    wanted = network.generate([prompt], config)[0][5:].tolist()
    with open_engine(network) as engine:
        assert (engine.vocab_size, engine.max_length) == (network.config.vocab_size, 80)
        assert answers(engine.submit(Request(prompt, config))) == {0: wanted}


def test_requests_and_cancels_of_many_threads_leave_no_block_behind(native, pynative):
    network = golden_network(CASES[1], seq_length=80, num_blocks=64)
    greedy = GenerationConfig(max_new_tokens=10)
    prompts = [[number % 7 + 1] * (1 + number % 23) for number in range(30)]
    wanted = [network.generate([p], greedy)[0][len(p) :].tolist() for p in prompts]
    wrong = []

    def ask(number):
        place = number % len(prompts)
        handle = engine.submit(Request(prompts[place], greedy, num_answers=1 + number % 3 // 2))
        if number % 4 == 0:
            handle.cancel()
        for index, ids in answers(handle).items():
            if ids != wanted[place][: len(ids)] or (number % 4 and len(ids) != len(wanted[place])):
                wrong.append((number, index, ids))

    with open_engine(network, num_blocks=24) as engine:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(300)))
        stats = engine.stats()
    assert wrong == []
    assert sum(stats.finished.values()) == 300
    assert (stats.running, stats.waiting, stats.free_blocks) == (0, 0, 24)


def test_generate_beside_an_open_engine_does_not_touch_its_cache(network, backend):
    config = GenerationConfig(max_new_tokens=30)
    core = open_core(network.build_step())
    handle = submit(core, [3, 1, 4], config)
    core.run_once()
    wanted = network.generate([[3, 1, 4]], config)[0][3:].tolist()
    run_all(core)
    if backend == "native":  # a cache of its own
        assert answers(handle) == {0: wanted}
    else:
        with pytest.raises(GenerationError, match="its cache took the place of the engine's"):
            list(handle)
        assert network.generate([[3, 1, 4]], config)[0][3:].tolist() == wanted


def test_a_trained_prefix_stands_before_every_answer_and_is_shared(backend, pynative):
    network = golden_network(CASES[1], seq_length=80, num_blocks=64)
    get_pet_model(network, Ptuning2Config(pre_seq_len=6, dropout_prob=0.0))
    config = GenerationConfig(max_new_tokens=8)
    prompts = [[3, 1, 4], [2, 7, 1, 8, 2, 8], [3, 1]]
    wanted = [network.generate([p], config)[0][len(p) :].tolist() for p in prompts]
    core = open_core(network.build_step(), 20)
    for _ in range(2):
        handles = [submit(core, prompt, config, num_answers=2) for prompt in prompts]
        run_all(core)
        assert [list(answers(handle).values()) for handle in handles] == [
            [ids] * 2 for ids in wanted
        ]
    assert is_empty(core)
    # The second time: a block of the prefix, and one with its end and two tokens of the longer prompts.
    assert [handle.usage.cached_tokens for handle in handles] == [2, 2, 0]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_caches_type_is_the_models_and_shared_blocks_are_copied_whole(native, pynative, dtype):
    network = golden_network(CASES[1], seq_length=80, num_blocks=64, kv_cache_dtype=dtype)
    config = GenerationConfig(max_new_tokens=12, do_sample=True, top_k=20)
    prompt = [3, 1, 4, 1, 5, 9]
    wanted = [ids[6:].tolist() for ids in network.generate([prompt] * 4, config, seed=3)]
    step = network.build_step()
    assert step.network.cache_dtype == dtype
    core = open_core(step, prefix_cache=False)
    handle = submit(core, prompt, config, seed=3, num_answers=4)
    run_all(core)
    assert list(answers(handle).values()) == wanted


def test_logits_hardly_depend_on_the_company_a_sequence_is_read_in(native, pynative):
    network = golden_network(CASES[4], seq_length=400)
    step = network.build_step()
    step.allocate(200)
    rng = np.random.default_rng(5)
    texts = [rng.integers(1, network.config.vocab_size, 40) for _ in range(8)]

    tables = [np.arange(1 + 10 * n, 11 + 10 * n, dtype=np.int32) for n in range(8)]
    whole = [Piece(text, 0, table, (39,)) for text, table in zip(texts, tables, strict=True)]
    alone = np.concatenate([step.run([piece])[0] for piece in whole])
    together = np.concatenate(step.run(whole))
    by_token = []
    for text, table in zip(texts, tables, strict=True):
        for place in range(40):
            (found,) = step.run([Piece(text[place : place + 1], place, table, (0,))])
        by_token.append(found[0])
    scale = np.abs(alone).max()
    for other in (together, np.stack(by_token)):
        assert np.abs(other - alone).max() / scale < 5e-6

"""Texts of up to a million tokens through the native kernels: found at any depth, in memory that grows in step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindformers.errors import GenerationError
from mindformers.generation.native_runner import NativeRunner
from mindformers.models.native_forms import native_runner
from mindformers.ops.native.library import choose_backend
from tests.support import induction

ROOT = Path(__file__).resolve().parents[2]
FILLING, KEYS, VALUES = 200, 200, 230  # ids below, and the first of each kind
PART = 65536  # tokens put into the cache at a time


def haystack(length: int, depths: list[float]) -> np.ndarray:
    """Return random ids of ``length``, with needle i (KEYS + i, then VALUES + i) at a depth from 0 to 1."""
    ids = np.random.default_rng(0).integers(0, FILLING, length)
    for needle, depth in enumerate(depths):
        place = max(1, int(depth * (length - 2)))  # the very first token has none before it
        ids[place : place + 2] = KEYS + needle, VALUES + needle
    return ids


def reading(ids: np.ndarray, read: int, **changes: object) -> NativeRunner:
    """Return a runner that holds ``ids``: the last ``read`` really read, the others put into its cache."""
    settings = induction.config(**changes)
    network = induction.native(settings)
    runner = native_runner(settings, lambda: network)
    before = len(ids) - read
    if not before:
        runner.prefill([ids.tolist()])
        return runner
    runner._make_room(1)
    runner.blocks.allocate([0], [before])
    for first in range(0, before, PART):
        stop = min(first + PART, before)
        slots = runner.blocks.slot_mapping([0], np.arange(first, stop))[0]
        past = induction.cached(settings, ids[max(0, first - 1) : stop], first)
        network.write_cache(slots, past)
    for first in range(before, len(ids), runner.chunk):
        runner.extend([ids[first : first + runner.chunk].tolist()], np.zeros(1, np.int32))
    return runner


def found_after(runner: NativeRunner, length: int, needles: int) -> list[int]:
    """Return the likeliest token after each needle's key, asked at the end of the text."""
    answers = []
    for needle in range(needles):
        logits = runner.extend([[KEYS + needle]], np.zeros(1, np.int32))
        answers.append(int(logits.argmax()) - VALUES)
        runner.rollback([length], [0])
    return answers


DEPTHS = [0.0, 0.1, 0.25, 0.5, 0.75, 0.99, 1.0]


def test_what_the_network_reads_is_what_the_formulas_say(native: None) -> None:
    ids = haystack(3000, DEPTHS)
    runner = reading(ids, 3000, seq_length=4096)
    assert found_after(runner, 3000, len(DEPTHS)) == list(range(len(DEPTHS)))
    settings = induction.config(seq_length=4096)
    slots = runner.blocks.slot_mapping([0], np.arange(3000))[0]
    assert runner.network is not None
    for layer, past in zip(runner.network._cache, induction.cached(settings, ids), strict=True):
        for held, wanted in zip(layer[:2], past, strict=True):
            held = held.reshape(-1, *held.shape[2:])[slots]
            np.testing.assert_allclose(held, wanted, atol=2e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("cache_dtype", ["float32", "bfloat16", "int8"])
def test_a_needle_is_found_at_any_depth_of_128k_tokens(native: None, cache_dtype: str) -> None:
    length = 131072 - 1
    ids = haystack(length, DEPTHS)
    runner = reading(ids, 300, seq_length=131072, kv_cache_dtype=cache_dtype)
    assert found_after(runner, length, len(DEPTHS)) == list(range(len(DEPTHS)))


def test_a_needle_is_found_at_any_depth_of_a_million_tokens(native: None) -> None:
    length = 1048576 - 1
    ids = haystack(length, DEPTHS)
    runner = reading(ids, 20, seq_length=1048576, rope_ratio=10000, kv_cache_dtype="int8")
    assert found_after(runner, length, len(DEPTHS)) == list(range(len(DEPTHS)))


@pytest.mark.parametrize("chunk", [1, 7, 64, 500, 4096])
def test_pieces_of_any_size_give_the_logits_of_one_pass(native: None, chunk: int) -> None:
    prompts = [haystack(700, [0.3]).tolist(), [1, 2, 3], haystack(257, [0.9]).tolist()]
    network = induction.native(induction.config())
    whole = native_runner(induction.config(), lambda: network)
    whole.chunk = 10**6
    wanted = whole.prefill(prompts)
    whole.release()
    whole.chunk = chunk
    found = whole.prefill(prompts)
    np.testing.assert_allclose(
        found / np.abs(wanted).max(), wanted / np.abs(wanted).max(), atol=1e-6
    )


def test_pieces_of_the_portable_form_give_the_logits_of_one_pass(
    pynative: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindspore import Tensor

    from mindformers.generation import runner as portable
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration

    choose_backend("portable")
    settings = induction.config(seq_length=512, num_blocks=128)
    network = ChatGLM2ForConditionalGeneration(settings)
    weights = induction.weights(settings)
    for name, parameter in network.weight_parameters().items():
        parameter.set_data(Tensor(weights[name]))
    prompts = [haystack(150, [0.3]).tolist(), [1, 2, 3], haystack(129, [0.9]).tolist()]
    wanted = portable.CachedRunner(network, 10**6).prefill(prompts)
    passes = []
    for chunk, scores in ((64, 2**26), (64, 3 * 20 * 150)):
        monkeypatch.setattr(portable, "SCORES", scores)
        runner = portable.CachedRunner(network, chunk)
        sizes = [stop - start for start, stop in runner._pieces(3, 150)]
        assert sum(sizes) == 150
        passes.append(sizes)
        found = runner.prefill(prompts)
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(found / scale, wanted / scale, atol=1e-6)
    # 20 * 150 scores a row: 46 tokens while 64 of the context count, in the end no less than 16.
    assert (passes[0], passes[1][0], passes[1][-2]) == ([64, 64, 22], 46, 16)


def test_a_text_that_is_too_long_is_refused_with_both_numbers(native: None) -> None:
    model = induction.native_model(induction.config(seq_length=64))
    with pytest.raises(
        GenerationError, match=r"has 64 tokens .*: the model holds 64 in all; shorten"
    ):
        model.generate([[1] * 64])
    small = induction.native_model(induction.config(seq_length=64, num_blocks=2))
    with pytest.raises(
        GenerationError, match=r"3 more blocks of 16 tokens are needed, 2 of 2 are free"
    ):
        small.generate([[1] * 40])


# In a process of its own: what it may take from here on is less than one square of S x S.
_LIMITED = """
import os, resource, sys
import numpy as np
from pathlib import Path
form, length, spare = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if form == "portable":
    from mindformers.parallel.runtime import start_runtime
    start_runtime(device_target="CPU", mode=1, seed=1)
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration as Network
from tests.support import induction
settings = induction.config(num_layers=1, padded_vocab_size=16, hidden_size=8, kv_channels=4,
                            seq_length=length, num_blocks=length // 16, num_attention_heads=1)
rng = np.random.default_rng(0)
if form == "portable":
    model = Network(settings)
else:
    from mindformers.models.glm2.glm2_in_files import GlmInFiles
    from mindformers.models.glm2.glm2_native import native_network
    from mindformers.ops.native.arrays import of_array
    shapes = {"transformer.embedding.embedding_weight": (16, 8), "transformer.output_layer.weight": (16, 8),
              "transformer.encoder.final_layernorm.weight": (8,)}
    layer = "transformer.encoder.layers.0."
    shapes |= {layer + "input_layernorm.weight": (8,), layer + "post_attention_layernorm.weight": (8,),
               layer + "self_attention.query_key_value.weight": (12, 8),
               layer + "self_attention.query_key_value.bias": (12,),
               layer + "self_attention.dense.weight": (8, 4), layer + "mlp.dense_h_to_4h.weight": (8, 8),
               layer + "mlp.dense_4h_to_h.weight": (8, 4)}
    weights = {n: (of_array(rng.normal(size=s).astype(np.float32)),) for n, s in shapes.items()}
    model = GlmInFiles(settings, native_network(settings, weights))
model.generate([[1, 2, 3]], max_new_tokens=2, eos_token_id=[])  # everything is loaded, the cache is there
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + spare, size + spare))
try:
    np.ones((length, length), np.float32)
except MemoryError:
    pass
else:
    sys.exit("a square fits")
prompt = rng.integers(0, 16, length - 4).tolist()
found = model.generate([prompt], max_new_tokens=4, eos_token_id=[])
assert len(found[0]) == length
print("done", flush=True)
os._exit(0)  # a framework's own end may want memory that there is no more
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("form", "length", "spare"), [("native", 32768, 2**29), ("portable", 8192, 2**27 + 2**26)]
)
def test_no_square_of_the_length_is_ever_made(form: str, length: int, spare: int) -> None:
    assert spare < 4 * length * length
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, form, str(length), str(spare)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "MINDFORMERS_BACKEND": form},
    )  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr[-2000:]

"""P-tuning v2 on a network: numbers against NumPy, gradients against finite differences, files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

from mindformers import AutoModel, ChatGLM2ForConditionalGeneration, ChatGLM2WithPtuning2
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.glm2.glm2_config import ChatGLM2Config
from mindformers.parallel.runtime import start_runtime
from mindformers.pet import (
    LoraConfig,
    Ptuning2Config,
    get_pet_model,
    load_adapter,
    merge_adapter,
    save_adapter,
)
from tests.support import numpy_glm
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.networks import ints

SIZES = numpy_glm.Sizes(vocab=64)
WEIGHTS = numpy_glm.random_weights(SIZES)
LENGTH, DIM = 5, 12
WIDTH = SIZES.layers * 2 * SIZES.groups * SIZES.head_dim
PREFIX = "transformer.prefix_encoder."
RNG = np.random.default_rng(3)
IDS = RNG.integers(1, 64, (2, 7)).astype(np.int32)
LABELS = np.where(np.arange(7) < 2, -100, RNG.integers(1, 64, (2, 7))).astype(np.int32)
PLAIN = {"pet_type": "ptuning2", "pre_seq_len": LENGTH, "dropout_prob": 0.0}
FORMS = {"rows": PLAIN, "projected": {**PLAIN, "prefix_projection": True, "projection_dim": DIM}}


def settings(**changes) -> ChatGLM2Config:
    return ChatGLM2Config(
        **{
            "num_layers": SIZES.layers, "padded_vocab_size": SIZES.vocab, "hidden_size": SIZES.hidden,
            "ffn_hidden_size": SIZES.ffn, "kv_channels": SIZES.head_dim, "seq_length": 48,
            "num_attention_heads": SIZES.heads, "multi_query_group_num": SIZES.groups,
            "param_init_type": "float32", "compute_dtype": "float32", "block_size": 4,
            "eos_token_id": [], "pad_token_id": 0, **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file(WEIGHTS, path)
    return path


def prefix_weights(form: str, seed: int = 7) -> dict[str, np.ndarray]:
    """Return what a P-tuning run of the original repository stores."""
    rng = np.random.default_rng(seed)
    shapes = {"embedding.weight": (LENGTH, WIDTH)}
    if form == "projected":
        shapes |= {"trans.0.weight": (DIM, WIDTH), "trans.0.bias": (DIM,),
                   "trans.2.weight": (WIDTH, DIM), "trans.2.bias": (WIDTH,)}  # fmt: skip
    return {f"{PREFIX}{n}": rng.normal(size=s).astype(np.float32) * 0.7 for n, s in shapes.items()}


def past(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Return the prefix by hand, (layers, 2, P, G, D)."""
    w = {name.removeprefix(PREFIX): value.astype(np.float64) for name, value in tensors.items()}
    rows = w["embedding.weight"]
    if "trans.0.weight" in w:
        rows = np.tanh(rows @ w["trans.0.weight"].T + w["trans.0.bias"])
        rows = rows @ w["trans.2.weight"].T + w["trans.2.bias"]
    out = np.empty((SIZES.layers, 2, LENGTH, SIZES.groups, SIZES.head_dim))
    size = SIZES.groups * SIZES.head_dim
    for layer in range(SIZES.layers):
        for part in range(2):  # keys, then values of a layer, side by side in a row
            start = (2 * layer + part) * size
            out[layer, part] = rows[:, start : start + size].reshape(out.shape[2:])
    return out


def tuned(base: Path, folder: Path, form: str, **changes) -> ChatGLM2WithPtuning2:
    """Return a network with a known prefix, loaded as the original stores it."""
    network = ChatGLM2WithPtuning2(settings(pet_config=FORMS[form], **changes))
    network.load_checkpoint(base)
    folder.mkdir(exist_ok=True)
    save_file(prefix_weights(form), folder / "model.safetensors")
    return load_adapter(network, folder).set_train(False)


@pytest.mark.parametrize("form", FORMS)
def test_logits_with_a_prefix_are_those_worked_out_by_hand(base, tmp_path, pynative, backend, form):
    compare_logits(base, tmp_path, form)


@pytest.fixture
def graph():
    start_runtime(device_target="CPU", mode=0, seed=1)
    yield
    start_runtime(device_target="CPU", mode=1)


def test_a_graph_gives_the_same_logits_and_continuation(base, tmp_path, graph):
    compare_logits(base, tmp_path, "projected")
    compare_continuation(base, tmp_path, use_cache=True, tolerance=MODEL_FP32)


def compare_logits(base, tmp_path, form):
    network = tuned(base, tmp_path / "prefix", form)
    (found,) = network(ints(IDS))
    before = past(prefix_weights(form))
    for row, expected in zip(found.asnumpy(), IDS, strict=True):
        assert_close(row, numpy_glm.logits(WEIGHTS, SIZES, expected, before), MODEL_FP32)
    plain = numpy_glm.logits(WEIGHTS, SIZES, IDS[0])
    assert np.abs(found.asnumpy()[0] - plain).max() > 0.1  # the prefix matters


@pytest.mark.parametrize("form", FORMS)
def test_only_the_prefix_has_gradients_and_they_are_those_of_finite_differences(
    base, tmp_path, pynative, backend, form
):
    network = tuned(base, tmp_path / "prefix", form).set_train(True)
    trained = network.trainable_params()
    assert {p.name for p in trained} == set(prefix_weights(form))
    loss, slopes = ms.value_and_grad(network, None, trained)(ints(IDS), ints(LABELS))
    tensors = prefix_weights(form)

    def by_hand(changed: dict[str, np.ndarray]) -> float:
        return numpy_glm.loss(WEIGHTS, SIZES, IDS, LABELS, past(changed))

    assert_close(loss.asnumpy()[0], by_hand(tensors), MODEL_FP32)
    rng, step = np.random.default_rng(1), 1e-4
    for parameter, slope in zip(trained, slopes, strict=True):
        direction = rng.normal(size=parameter.shape)
        ends = [
            by_hand({**tensors, parameter.name: tensors[parameter.name].astype(np.float64) + s * direction})
            for s in (step, -step)
        ]  # fmt: skip
        expected = (ends[0] - ends[1]) / (2 * step)
        found = float((slope.asnumpy() * direction).sum())
        assert abs(found - expected) <= 1e-3 * max(abs(expected), 0.05), parameter.name


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_continuation_is_the_one_worked_out_by_hand(base, tmp_path, pynative, backend, use_cache):
    compare_continuation(base, tmp_path, use_cache=use_cache, tolerance=MODEL_FP32)


@pytest.mark.parametrize("kv_cache_dtype", ["bfloat16", "int8"])
def test_a_rounded_cache_holds_the_prefix_too(base, tmp_path, pynative, native, kv_cache_dtype):
    # One part in 256 of a key, added up over 16 channels of scores and two layers.
    compare_continuation(
        base, tmp_path, use_cache=True, tolerance=0.1, kv_cache_dtype=kv_cache_dtype
    )


def compare_continuation(base, tmp_path, *, use_cache, tolerance, **changes):
    network = tuned(base, tmp_path / "prefix", "rows", **changes)
    prompts = [IDS[0].tolist(), IDS[1][:3].tolist(), IDS[1].tolist()]
    answers = network.generate(
        prompts, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True,
        use_past=use_cache,
    )  # fmt: skip
    before = past(prefix_weights("rows"))
    for row, prompt in enumerate(prompts):
        ids = answers.sequences[row]
        assert ids[: len(prompt)].tolist() == prompt
        scores = numpy_glm.logits(WEIGHTS, SIZES, ids, before)
        for step in range(5):
            assert_close(answers.logits[step][row], scores[len(prompt) + step - 1], tolerance)


def test_an_answer_changes_with_the_prefix_and_not_with_the_batch(
    base, tmp_path, pynative, backend
):
    network = tuned(base, tmp_path / "prefix", "rows")
    one, many = IDS[0].tolist(), [IDS[1].tolist(), IDS[0].tolist()]
    (first,) = network.generate([one], max_new_tokens=4, do_sample=False)
    assert network.generate(many, max_new_tokens=4, do_sample=False)[1].tolist() == first.tolist()
    (parameter,) = network.trainable_params()
    parameter.set_data(Tensor(np.roll(parameter.asnumpy(), 1, 1) * 2))
    (second,) = network.generate([one], max_new_tokens=4, do_sample=False)
    assert second.tolist() != first.tolist()


def test_a_row_may_be_as_long_as_the_network_reads_beside_the_prefix(
    base, tmp_path, pynative, native
):
    network = tuned(base, tmp_path / "prefix", "rows")
    (whole,) = network.generate([IDS[0].tolist()], max_new_tokens=41, do_sample=False)
    assert len(whole) == 48


def test_dropout_follows_from_step_and_seed_and_is_off_when_answering(base, pynative):
    pet = {**PLAIN, "dropout_prob": 0.5}
    network = ChatGLM2WithPtuning2(settings(pet_config=pet))
    network.load_checkpoint(base)
    encoder = network.transformer.prefix_encoder

    def drawn(step: int) -> np.ndarray:
        network.begin_micro_batch(step, 0)
        return encoder().asnumpy()

    network.set_train(True)
    first, again, other = drawn(1), drawn(1), drawn(2)
    np.testing.assert_array_equal(first, drawn(1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert 0.3 < (first == 0).mean() < 0.7
    network.set_train(False)
    whole = encoder().asnumpy()
    assert (whole != 0).all()
    np.testing.assert_allclose(first[first != 0], 2 * whole[first != 0], rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_prefix_is_saved_under_the_original_names_and_loaded_again(
    base, tmp_path, pynative, form
):
    network = tuned(base, tmp_path / "prefix", form)
    folder = save_adapter(network, tmp_path / "saved")
    stored = load_file(folder / "adapter_model.safetensors")
    expected = prefix_weights(form)
    assert set(stored) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(stored[name], value)
    described = json.loads((folder / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(base.resolve())
    assert (described["pet_type"], described["pre_seq_len"]) == ("ptuning2", LENGTH)
    # Into a network without a prefix, and, with what the folder says of its base, from nothing.
    plain = ChatGLM2ForConditionalGeneration(settings())
    plain.load_checkpoint(base)
    load_adapter(plain, folder)
    alone = ChatGLM2WithPtuning2(settings(pet_config=FORMS[form]))
    alone.load_checkpoint(folder)
    (wanted,) = network(ints(IDS))
    for each in (plain, alone):
        np.testing.assert_array_equal(
            each.set_train(False)(ints(IDS))[0].asnumpy(), wanted.asnumpy()
        )
    assert network.save_pretrained(tmp_path / "again").joinpath("adapter_config.json").is_file()


def test_a_prefix_goes_with_the_weights_it_was_trained_on(base, tmp_path, pynative):
    folder = save_adapter(tuned(base, tmp_path / "prefix", "rows"), tmp_path / "saved")
    other = tmp_path / "other.safetensors"
    save_file(numpy_glm.random_weights(SIZES, seed=9), other)
    network = ChatGLM2ForConditionalGeneration(settings())
    network.load_checkpoint(other)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        load_adapter(network, folder)
    network.load_checkpoint(base)
    get_pet_model(network, Ptuning2Config(pre_seq_len=4))
    with pytest.raises(
        ConfigError, match=rf"embedding.weight is \(5, {WIDTH}\); allowed: \(4, {WIDTH}\)"
    ):
        load_adapter(network, folder)
    tensors = prefix_weights("projected")
    del tensors[f"{PREFIX}trans.2.bias"]
    broken = tmp_path / "broken"
    broken.mkdir()
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match="trans.2.bias is missing"):
        load_adapter(network, broken)


def test_a_published_directory_with_pre_seq_len_is_the_original_s_p_tuning(
    base, tmp_path, pynative
):
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(base, folder / "model.safetensors")
    content = {
        "model_type": "chatglm", "num_layers": SIZES.layers, "padded_vocab_size": SIZES.vocab,
        "hidden_size": SIZES.hidden, "ffn_hidden_size": SIZES.ffn, "kv_channels": SIZES.head_dim,
        "num_attention_heads": SIZES.heads, "multi_query_group_num": SIZES.groups, "seq_length": 48,
        "add_qkv_bias": True, "layernorm_epsilon": SIZES.eps, "pre_seq_len": LENGTH,
        "prefix_projection": True, "torch_dtype": "float32", "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    network = AutoModel.from_pretrained(folder)
    shapes = {p.name.removeprefix(PREFIX): p.shape for p in network.trainable_params()}
    assert shapes["embedding.weight"] == (LENGTH, WIDTH)
    assert shapes["trans.0.weight"] == (SIZES.hidden, WIDTH)  # the original's width between
    assert network.config.pet.dropout_prob == 0.1
    # The prefix beside the weights is loaded with them.
    tuned = prefix_weights("rows")
    save_file(tuned, folder / "adapter_model.safetensors")
    content["prefix_projection"] = False
    (folder / "config.json").write_text(json.dumps(content))
    (parameter,) = AutoModel.from_pretrained(folder).trainable_params()
    np.testing.assert_array_equal(parameter.asnumpy(), tuned[f"{PREFIX}embedding.weight"])
    content["pre_seq_len"] = None
    (folder / "config.json").write_text(json.dumps(content))
    assert AutoModel.from_pretrained(folder).config.pet is None


def test_what_cannot_be_is_told(base, pynative):
    with pytest.raises(ConfigError, match="describe no trained prefix.*pre_seq_len: 128"):
        ChatGLM2WithPtuning2(settings())
    with pytest.raises(ConfigError, match="pre_seq_len 3 beside a pet_config of pre_seq_len 5"):
        settings(pre_seq_len=3, pet_config=PLAIN)
    with pytest.raises(ConfigError, match="pre_seq_len 3 beside a pet_config of pet_type lora"):
        settings(pre_seq_len=3, pet_config={"lora_rank": 4})
    with pytest.raises(ConfigError, match="found 'prefix' .*allowed: lora, ptuning2"):
        settings(pet_config={"pet_type": "prefix"})
    with pytest.raises(ConfigError, match="pet_type 'ptuning'.*mean 'ptuning2'"):
        get_pet_model(ChatGLM2ForConditionalGeneration(settings()), {"pet_type": "ptuning"})
    network = ChatGLM2WithPtuning2(settings(pet_config=PLAIN))
    with pytest.raises(ConfigError, match="has a prefix already"):
        get_pet_model(network, Ptuning2Config())
    with pytest.raises(ConfigError, match="has a trained prefix"):
        get_pet_model(network, LoraConfig())
    with pytest.raises(CheckpointError, match="a trained prefix is no part of the weights"):
        merge_adapter(network)

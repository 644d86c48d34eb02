"""The NPU forms as far as a CPU can tell: which one is chosen, how it is built, what the operators take.

None of them is run: no NPU is at hand. The argument names are those of MindSpore's own signatures.
"""

from __future__ import annotations

import inspect

import mindspore as ms
import pytest
from mindspore import ops

from mindformers.generation.runner import CachedRunner
from mindformers.ops import (
    activation,
    attention,
    backend,
    embedding,
    linear,
    norm,
    paged_attention,
)
from tests.support.golden_model import CASES
from tests.support.networks import golden_network


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch, pynative: None) -> None:
    """Let the builders believe that an NPU is there."""
    for module in (backend, paged_attention):
        monkeypatch.setattr(module, "active_backend", lambda: "ascend")
    for module in (activation, attention, embedding, linear, norm):
        monkeypatch.setattr(module, "cell_backend", lambda: "ascend")


def test_every_builder_takes_the_fused_form_on_an_npu(npu: None) -> None:
    assert isinstance(norm.build_rms_norm(1e-5, ms.bfloat16, ms.float32), norm.AscendRmsNorm)
    assert isinstance(activation.build_swiglu(8), activation.AscendSwiGlu)
    assert isinstance(linear.build_linear_product(ms.float32, ms.float32), linear.PortableLinear)
    gather = embedding.build_embedding(ms.float32, ms.float32)
    assert isinstance(gather, embedding.PortableEmbedding)
    assert isinstance(attention.build_attention(4, 2, 8, True), attention.AscendFlashAttention)
    assert isinstance(attention.build_attention(4, 2, 8, False), attention.PortableAttention)
    paged = paged_attention.build_paged_attention(4, 2, 8, 3, 16, ms.bfloat16)
    assert isinstance(paged, paged_attention.AscendPagedAttention)
    assert paged.key_cache.shape == (3, 16, 2, 8)
    assert paged.key_cache.dtype == ms.bfloat16
    assert not paged.key_cache.requires_grad


def test_an_npu_computes_in_the_type_that_is_asked_for(npu: None) -> None:
    assert backend.compute_dtype("bfloat16") == ms.bfloat16
    assert backend.compute_dtype("float16") == ms.float16


def test_the_operators_have_the_arguments_the_forms_pass() -> None:
    names = list(inspect.signature(ops.flash_attention_score).parameters)
    assert names[:4] == ["query", "key", "value", "head_num"]
    assert {"attn_mask", "scalar_value", "input_layout"} <= set(names)
    assert list(inspect.signature(ops.rms_norm).parameters)[:3] == ["x", "gamma", "epsilon"]
    assert list(inspect.signature(ops.swiglu).parameters)[:2] == ["input", "dim"]
    write = inspect.signature(ops.auto_generate.ReshapeAndCache.__call__)
    assert list(write.parameters)[1:6] == [
        "key",
        "value",
        "key_cache",
        "value_cache",
        "slot_mapping",
    ]
    built = list(inspect.signature(ops.auto_generate.PagedAttention.__init__).parameters)
    assert built[1:4] == ["head_num", "scale_value", "kv_head_num"]
    attend = list(inspect.signature(ops.auto_generate.PagedAttention.__call__).parameters)
    assert attend[1:6] == ["query", "key_cache", "value_cache", "block_tables", "context_lens"]


def test_flags_tell_a_prompt_from_one_token(npu: None) -> None:
    network = golden_network(CASES[1])
    network.allocate_cache(3)
    layers = [layer.self_attention.cached_attention for layer in network.transformer.encoder.layers]
    for first in (True, False):
        network.add_flags_custom(is_first_iteration=first)
        assert [layer.is_first_iteration for layer in layers] == [first, first]


def test_a_prompt_goes_through_an_npu_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, pynative: None
) -> None:
    network = golden_network(CASES[1])
    assert CachedRunner(network).chunk == 512
    monkeypatch.setattr("mindformers.generation.runner.active_backend", lambda: "ascend")
    assert CachedRunner(network).chunk == network.config.seq_length

"""Which part of each weight a rank holds: the two extra norms of GLM-4-0414 are whole on every rank."""

from __future__ import annotations

import pytest

from mindformers.checkpoint.keymap import Piece
from mindformers.checkpoint.parts import Parted
from mindformers.models.glm2.glm2_shares import copied_rows, held_tensors, share_of, weight_parts
from mindformers.models.glm2.glm2_weights import layout_named, stored_tensors
from mindformers.parallel.layout import Layout
from tests.support.glm_files import tiny_config

CONFIG = tiny_config(post_self_attn_layernorm=True, post_mlp_layernorm=True, add_qkv_bias=False)
WHOLE = stored_tensors(CONFIG, layout_named("mindformers", CONFIG))
NORMS = ("input", "post_self_attn", "post_attention", "post_mlp")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_of_a_layer_is_whole_on_both_tensor_ranks(norm: str, rank: int) -> None:
    layout = Layout(tensor=2, rank=rank)
    share = share_of(Piece(f"1.{norm}_norm", (16,)), CONFIG, layout)
    assert (share.rows, share.columns, share.copies) == ((0, 16), None, 2)
    held = {stored.name: stored.shape for stored in held_tensors(WHOLE, CONFIG, layout)}
    name = f"transformer.encoder.layers.1.{norm}_layernorm.weight"
    assert held[name] == (16,)
    assert weight_parts(WHOLE, CONFIG, layout)[name] == Parted.whole((16,))


@pytest.mark.parametrize("is_sequence_parallel", [False, True])
def test_their_gradients_are_summed_where_each_rank_saw_some_tokens_only(
    is_sequence_parallel: bool,
) -> None:
    layout = Layout(tensor=2, rank=1, is_sequence_parallel=is_sequence_parallel)
    copied = copied_rows(WHOLE, CONFIG, layout)
    for norm in NORMS:
        (rows,) = copied[f"transformer.encoder.layers.0.{norm}_layernorm.weight"]
        assert (rows.rows, rows.copies, rows.is_everywhere) == ((0, 16), 2, True)
        assert rows.is_partial is is_sequence_parallel


def test_a_pipeline_stage_holds_the_norms_of_its_own_layers() -> None:
    held = [
        {stored.name for stored in held_tensors(WHOLE, CONFIG, Layout(pipeline=2, rank=rank))}
        for rank in (0, 1)
    ]
    for layer in (0, 1):
        for norm in NORMS:
            name = f"transformer.encoder.layers.{layer}.{norm}_layernorm.weight"
            assert (name in held[layer], name in held[1 - layer]) == (True, False)

"""Which part of each weight a rank holds: the two extra norms of GLM-4-0414 are whole on every rank."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers.checkpoint.keymap import Piece
from mindformers.checkpoint.parts import Parted
from mindformers.config.pet import Ptuning2Section
from mindformers.models.glm2.glm2_shares import (
    copied_rows,
    held_tensors,
    prefix_copies,
    prefix_parts,
    share_of,
    weight_parts,
)
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
        assert (rows.rows, rows.copies, rows.group) == ((0, 16), 2, "tensor")
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


WIDE = tiny_config(num_layers=3, num_attention_heads=4, multi_query_group_num=2, kv_channels=4)
ROWS, FIRST, LAST = (
    f"transformer.prefix_encoder.{name}.weight" for name in ("embedding", "trans.0", "trans.2")
)


def test_a_rank_has_the_prefix_of_its_own_layers_and_heads() -> None:
    """Layers, keys and values, two heads of 4 channels: 16 channels a layer, 48 a row."""
    settings = Ptuning2Section(pre_seq_len=2)
    channels = np.broadcast_to(np.arange(48), (2, 48))
    own = [
        prefix_parts(settings, WIDE, Layout(tensor=2, pipeline=2, rank=rank))[ROWS].cut(channels)[0]
        for rank in range(4)
    ]
    first = [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27]  # head 0 of layers 0 and 1
    assert own[0].tolist() == first
    assert own[1].tolist() == [channel + 4 for channel in first]
    assert own[2].tolist() == [32, 33, 34, 35, 40, 41, 42, 43]  # of layer 2
    assert own[3].tolist() == [36, 37, 38, 39, 44, 45, 46, 47]
    copies = [prefix_parts(settings, WIDE, Layout(tensor=4, rank=rank))[ROWS] for rank in range(4)]
    assert copies[0] == copies[1] != copies[2] == copies[3]


def test_gradients_of_a_prefix_are_summed_over_those_that_hold_the_same() -> None:
    plain = Ptuning2Section(pre_seq_len=2)
    deep = Ptuning2Section(pre_seq_len=2, prefix_projection=True, projection_dim=5)
    assert prefix_copies(plain, WIDE, Layout(tensor=2, pipeline=3, data=2)) == {}
    (heads,) = prefix_copies(plain, WIDE, Layout(tensor=4))[ROWS]
    assert (heads.rows, heads.copies, heads.is_partial, heads.group) == (
        (0, 2),
        2,
        True,
        "kv_copies",
    )
    layout = Layout(tensor=4, pipeline=3)
    parts, found = prefix_parts(deep, WIDE, layout), prefix_copies(deep, WIDE, layout)
    assert parts[FIRST].own_shape == (5, 48)
    assert parts[LAST].own_shape == (8, 5)  # keys and values of one head of one layer
    of_group = {name: (each.rows, each.copies, each.group) for name, (each,) in found.items()}
    assert of_group == {
        ROWS: ((0, 2), 12, "model"),
        FIRST: ((0, 5), 12, "model"),
        FIRST.replace("weight", "bias"): ((0, 5), 12, "model"),
        LAST: ((0, 8), 2, "kv_copies"),
        LAST.replace("weight", "bias"): ((0, 8), 2, "kv_copies"),
    }

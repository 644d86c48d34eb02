"""Ranks, groups and shares of a layout, against values written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mindformers.errors import ConfigError
from mindformers.parallel.layout import Layout, Sizes, check_layout, faults_of, stage_counts
from mindformers.parallel.schedule import Slot, one_forward_one_backward

SIZES = Sizes(heads=32, groups=2, ffn=13696, vocab=151552, layers=40, seq_length=8192)


def test_coordinates_of_a_mix():
    layout = Layout(data=2, tensor=2, pipeline=2, rank=5)
    assert layout.coordinates() == {"pipeline": 1, "data": 0, "context": 0, "tensor": 1}
    assert layout.group("tensor") == (4, 5)
    assert layout.group("data", "context") == (5, 7)
    assert layout.group("pipeline") == (1, 5)
    assert layout.group("pipeline", "tensor") == (0, 1, 4, 5)
    assert layout.neighbour(-1) == 1


@pytest.mark.parametrize("layout", [Layout(2, 2, 2), Layout(1, 4, 1, 2), Layout(3, 1, 2)])
def test_groups_of_an_axis_cover_every_rank_once(layout):
    for axes in (("tensor",), ("data",), ("context",), ("pipeline",), ("data", "context")):
        groups = {each.group(*axes) for each in layout.every_rank()}
        assert sorted(rank for group in groups for rank in group) == list(range(layout.size))


def test_published_offsets_give_9_10_12_and_9_layers():
    layout = Layout(data=2, pipeline=4, offset=(-1, 0, 2, -1))
    found = [each.layers(40) for each in layout.every_rank() if each.data_rank == 0]
    assert found == [range(9), range(9, 19), range(19, 31), range(31, 40)]
    assert stage_counts(7, 3) == [3, 2, 2]


def test_keys_are_held_by_several_ranks_beyond_their_number():
    shares = [Layout(tensor=4, rank=rank).kv_share(2, 8) for rank in range(4)]
    assert shares == [(0, 8), (0, 8), (8, 16), (8, 16)]
    assert Layout(tensor=4).copies_of_kv_head(2) == 2
    assert [Layout(tensor=2, rank=rank).kv_share(4, 8) for rank in range(2)] == [(0, 16), (16, 32)]


def test_every_reason_is_in_one_report():
    layout = Layout(tensor=3, pipeline=41, context=5)
    with pytest.raises(ConfigError) as caught:
        check_layout(layout, SIZES, world_size=8)
    text = str(caught.value)
    for reason in ("asks for 615 processes", "3, which does not divide query heads 32",
                   "neither divides nor is a multiple of 2 key/value heads", "more than 40 layers",
                   "5, which does not divide seq_length 8192"):  # fmt: skip
        assert reason in text, text
    assert faults_of(Layout(data=2, pipeline=4, offset=(-1, 0, 2, -1)), SIZES, 8) == []


def test_a_layout_survives_its_text():
    layout = Layout(2, 2, 4, offset=(0, 1, 0, 0), is_sequence_parallel=True)
    assert Layout.from_dict(layout.to_dict()) == layout


@pytest.mark.parametrize(("stages", "count"), [(1, 3), (2, 4), (4, 4), (4, 9), (4, 2)])
def test_a_pipeline_does_everything_once_and_never_holds_more_than_it_must(stages, count):
    for stage in range(stages):
        slots = one_forward_one_backward(stage, stages, count)
        assert sorted(slots) == sorted(Slot(way, i) for way in (True, False) for i in range(count))
        under_way = most = 0
        for slot in slots:
            under_way += 1 if slot.is_forward else -1
            most = max(most, under_way)
        assert most == min(stages - stage, count)
        for way in (True, False):
            assert [s.micro_batch for s in slots if s.is_forward is way] == list(range(count))


def test_a_group_of_columns_that_share_a_scale_is_not_cut():
    rounded = replace(SIZES, rounded=(("ffn_hidden_size", 13696, 64),))
    assert faults_of(Layout(tensor=2), rounded) == []
    assert faults_of(Layout(pipeline=4), rounded) == []
    ((key, reason),) = faults_of(Layout(tensor=4), rounded)
    assert key == "parallel_config.model_parallel"
    assert reason == "is 4, which cuts groups of 64 of 13696 ffn_hidden_size that share a scale"
    assert (
        faults_of(Layout(tensor=4), replace(SIZES, rounded=(("ffn_hidden_size", 13696, 32),))) == []
    )

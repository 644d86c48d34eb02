"""Layouts for a number of devices, the smallest change, and times."""

from dataclasses import replace

import pytest

from mindformers.config.run_config import load_run_config
from mindformers.errors import ConfigError
from mindformers.parallel.layout import Layout, faults_of
from mindformers.tasks.plan_change import smallest_change
from mindformers.tasks.plan_devices import DEVICES, GIB, find_device, link_speed
from mindformers.tasks.plan_job import job_of, with_changes
from mindformers.tasks.plan_search import (
    best_layouts,
    layouts,
    peak,
    recomputing,
)
from mindformers.tasks.plan_time import answer_time, bubble_share, stage_flops, step_time
from tests.support.config_files import REPOSITORY

ATLAS = DEVICES["atlas_800t_a2"]
PUBLISHED = job_of(load_run_config(REPOSITORY / "configs/glm4/finetune_glm4_9b.yaml"))
CHAT = job_of(load_run_config(REPOSITORY / "configs/glm4/predict_glm4_9b_chat.yaml"))
LORA = job_of(load_run_config(REPOSITORY / "configs/glm4/lora_glm4_9b.yaml"))
ONE = replace(PUBLISHED, layout=Layout(), micro_batches=1, recompute=())
LONG = {"seq_length": 2**20, "multi_query_group_num": 4, "num_blocks": 2**16, "max_length": 2**20}


def with_long_rows(job):
    from mindformers.tasks.plan_job import first_tensors

    changed = with_changes(job, LONG)
    return replace(changed, tensors=first_tensors(changed.network), _held={})


def test_every_layout_found_has_the_devices_and_divides_the_network():
    found = list(layouts(PUBLISHED, 64))
    assert len(set(found)) == len(found) > 30
    assert all(each.size == 64 and not faults_of(each, PUBLISHED.sizes()) for each in found)


@pytest.mark.parametrize("devices", [8, 64, 1024])
def test_the_best_layouts_fit_and_keep_the_rows_of_a_step(devices):
    found = best_layouts(PUBLISHED, devices, 58 * GIB, ATLAS)
    assert len(found) == 3
    for each in found:
        assert each.job.layout.size == devices
        assert each.memory == peak(each.job) <= 58 * GIB
        assert each.job.step_tokens == PUBLISHED.step_tokens
        assert each.job.micro_batches >= each.job.layout.pipeline
    speeds = [each.tokens_per_second for each in found]
    assert speeds == sorted(speeds, reverse=True)


def test_one_device_is_too_small_for_the_whole_training():
    assert best_layouts(ONE, 1, 64 * GIB, ATLAS) == []


def test_as_few_layers_as_needed_are_computed_again():
    fitting = recomputing(PUBLISHED, 48 * GIB)
    assert fitting.recompute == (1, 0, 4, 4)
    for stage in (0, 2, 3):
        fewer = tuple(count - (index == stage) for index, count in enumerate(fitting.recompute))
        assert peak(replace(PUBLISHED, recompute=fewer)) > 48 * GIB


def test_recomputation_is_the_first_change():
    change = smallest_change(PUBLISHED, 48 * GIB)
    assert (change.kind, change.keys) == ("recompute more layers", "recompute: [6, 3, 4, 4]")
    assert peak(change.job) <= 48 * GIB


def test_smaller_micro_batches_keep_the_rows_of_a_step():
    job = replace(LORA, rows=64, recompute=True)
    limit = peak(replace(job, rows=16, micro_batches=4 * job.micro_batches))
    change = smallest_change(job, limit)
    assert (change.kind, change.job.rows, change.job.micro_batches) == (
        "smaller micro batches", 16, 4 * job.micro_batches,
    )  # fmt: skip
    assert change.job.step_tokens == job.step_tokens


def test_sharing_the_optimizer_is_found_where_it_suffices():
    job = replace(PUBLISHED, layout=Layout(data=8), recompute=True, micro_batches=2)
    shared = replace(job, layout=replace(job.layout, shards_optimizer=True))
    change = smallest_change(job, peak(shared))
    assert change.keys == "--parallel.enable_parallel_optimizer True"


def test_sequence_parallelism_is_found_where_it_suffices():
    job = replace(PUBLISHED, layout=Layout(tensor=8, is_vocab_parallel=True), recompute=True)
    shared = replace(job, layout=replace(job.layout, is_sequence_parallel=True))
    change = smallest_change(job, peak(shared))
    assert change.keys == "--parallel_config.use_seq_parallel True"


def test_one_device_needs_more_of_them():
    change = smallest_change(ONE, 64 * GIB)
    assert change.kind == "another layout, 4 devices"
    assert peak(change.job) <= 64 * GIB


def test_weights_are_rounded_on_a_cpu_before_more_processes_are_asked_for():
    job = replace(CHAT, on_cpu=True)
    assert smallest_change(job, 12 * GIB).keys == "--quantization int8"
    assert smallest_change(job, 7 * GIB).keys == "--quantization int4"


def test_a_training_of_a_million_tokens_needs_hundreds_of_devices():
    change = smallest_change(with_long_rows(PUBLISHED), 64 * GIB)
    assert change.kind == "another layout, 1024 devices"
    assert change.job.layout.context >= 64
    found = best_layouts(with_long_rows(PUBLISHED), 1024, 64 * GIB, ATLAS)
    assert all(each.memory <= 64 * GIB for each in found)
    assert found


def test_a_million_tokens_to_answer_do_not_fit_an_npu_for_their_mask():
    job = with_long_rows(CHAT)
    assert peak(job) > 5 * 2**40  # the mask has a number for every pair of tokens
    change = smallest_change(job, 59 * GIB)
    assert (change.kind, change.job.length) == ("shorter rows", 2**16)


def test_a_million_tokens_to_answer_fit_a_cpu_of_128_gb():
    assert peak(replace(with_long_rows(CHAT), on_cpu=True)) < 100 * GIB


def test_answers_are_shared_by_tensor_groups_alone_and_adapters_by_every_layout():
    assert {each.tensor for each in layouts(CHAT, 8)} == {8}
    assert {each.tensor * each.pipeline for each in layouts(LORA, 8)} == {1, 2, 4, 8}


def test_the_bubble_is_p_minus_1_of_m_plus_p_minus_1():
    assert bubble_share(PUBLISHED) == 3 / 67
    assert bubble_share(ONE) == 0


def test_a_step_of_one_process_does_six_operations_a_weight_and_token():
    matrices = 40 * (4096 * 4608 + 4096 * 4096 + 3 * 4096 * 13696) + 151552 * 4096
    scores = 3.5 * 4 * 8192 * 8192 / 2 * 4096 * 40
    assert stage_flops(ONE, 0) == pytest.approx(6 * matrices * 8192 + scores, rel=1e-12)
    seconds = step_time(ONE, ATLAS)
    assert seconds.compute == pytest.approx(stage_flops(ONE, 0) / (353e12 * 0.4))
    assert (seconds.bubble, seconds.exchange) == (0, 0)


def test_stages_but_the_last_compute_their_forward_pass_twice():
    job = replace(PUBLISHED, layout=Layout(pipeline=4), recompute=())
    head = 6 * 8192 * 151552 * 4096
    first, last = stage_flops(job, 0), stage_flops(job, 3) - head
    assert first / last == pytest.approx(4 / 3, rel=0.01)


def test_a_token_reads_every_weight_once():
    seconds = answer_time(CHAT, ATLAS)
    read = 2 * 9_399_951_360 + 2 * 81 * 4096 + 8192 * 40 * 1024
    assert seconds.token == pytest.approx(read / (1.6e12 * 0.7))


def test_groups_beyond_a_server_have_the_network():
    assert link_speed(ATLAS, 8) == pytest.approx(0.7 * 7 * 28e9)
    assert link_speed(ATLAS, 2, stride=8) == pytest.approx(0.7 * 25e9)
    assert link_speed(ATLAS, 16) == pytest.approx(0.7 * 25e9)


@pytest.mark.parametrize("name", ["Atlas 800T A2", "atlas-800t-a2", "ATLAS_800T_A2"])
def test_a_device_is_found_however_it_is_spelled(name):
    assert find_device(name, "CPU") is ATLAS


def test_processes_on_a_cpu_share_its_memory_and_cores():
    one, four = find_device(None, "CPU"), find_device("cpu", "Ascend", 4)
    assert one.memory == 4 * four.memory
    assert one.flops == 4 * four.flops


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="allowed: atlas_800t_a2, atlas_900_a2, cpu"):
        find_device("h100", "CPU")

"""What a plan says is sent, against what the engine counted in runs of several processes, and by hand."""

from dataclasses import replace

import pytest

from mindformers.config.run_config import load_run_config
from mindformers.parallel.layout import Layout
from mindformers.tasks.plan_job import job_of, with_changes
from mindformers.tasks.plan_traffic import total_sent, traffic_of
from tests.support.config_files import REPOSITORY

H, F, V, N, G, D, L, S, ROWS = 512, 1408, 16384, 8, 2, 64, 4, 256, 4
SIZES = {
    "num_layers": L, "hidden_size": H, "ffn_hidden_size": F, "num_attention_heads": N,
    "kv_channels": D, "padded_vocab_size": V, "multi_query_group_num": G, "seq_length": S,
}  # fmt: skip
SMALL = with_changes(
    job_of(load_run_config(REPOSITORY / "configs/glm4/finetune_glm4_tiny_cpu.yaml")), SIZES
)


def small(layout, **fields):
    from mindformers.tasks.plan_job import first_tensors

    return replace(
        SMALL, layout=layout, tensors=first_tensors(SMALL.network), _held={}, rows=ROWS,
        **{"micro_batches": 1, "recompute": (), **fields},
    )  # fmt: skip


def megabytes(job, stage):
    return {
        key: round(sent / 1e6, 3) for key, (sent, _) in total_sent(traffic_of(job, stage)).items()
    }


M, P, C, R = "model_parallel", "pipeline", "context_parallel", "data_parallel"
SHARED = {"is_sequence_parallel": True, "is_vocab_parallel": True}
# MB a process sent in a step, from ``mesh().traffic()`` of two steps of these runs on a CPU.
MEASURED = [
    (Layout(data=2, shards_optimizer=True), {"micro_batches": 2}, 0,
     {(R, "all_reduce"): 112.228, (R, "all_gather"): 56.114}),
    (Layout(tensor=2), {}, 0, {(M, "all_reduce"): 35.664}),
    (Layout(tensor=2, **SHARED), {"recompute": True}, 0,
     {(M, "all_gather"): 27.263, (M, "reduce_scatter"): 27.263, (M, "all_reduce"): 0.031}),
    (Layout(tensor=4), {}, 0, {(M, "all_reduce"): 53.496, ("kv_copies", "all_reduce"): 1.051}),
    (Layout(pipeline=2), {"micro_batches": 4, "recompute": (1, 1)}, 0, {(P, "send"): 8.389}),
    (Layout(context=2), {}, 0,
     {(C, "all_gather"): 2.097, (C, "reduce_scatter"): 2.097, (R, "all_reduce"): 112.228}),
    (Layout(pipeline=2, tensor=2, **SHARED), {"micro_batches": 2}, 0,
     {(M, "all_gather"): 27.263, (M, "reduce_scatter"): 29.36, (M, "all_reduce"): 0.008,
      (P, "send"): 2.097}),
    (Layout(pipeline=2, tensor=2, **SHARED), {"micro_batches": 2}, 1,
     {(M, "all_gather"): 18.874, (M, "reduce_scatter"): 18.874, (M, "all_reduce"): 0.035,
      (P, "send"): 2.097}),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "fields", "stage", "sent"), MEASURED)
def test_a_process_sends_what_the_engine_counted(layout, fields, stage, sent):
    assert megabytes(small(layout, **fields), stage) == sent


def test_a_tensor_group_sums_four_times_a_layer_and_once_before_the_output_layer():
    tokens = ROWS * S
    by_hand = (4 * L + 1) * tokens * H * 4 + tokens * 12  # two processes: 2 * (t - 1) / t is 1
    (exchange,) = total_sent(traffic_of(small(Layout(tensor=2)), 0)).values()
    assert exchange == (by_hand, 4 * L + 1 + 2)


def test_layers_computed_again_repeat_their_forward_sums():
    plain, again = (
        total_sent(traffic_of(small(Layout(tensor=2), recompute=some), 0))[M, "all_reduce"]
        for some in ((), True)
    )
    assert again[0] - plain[0] == 2 * L * ROWS * S * H * 4


def test_a_stage_that_is_not_the_last_computes_its_forward_pass_twice():
    layout = Layout(pipeline=2, tensor=2)
    first, last = (
        total_sent(traffic_of(small(layout, micro_batches=2), stage))[M, "all_reduce"][0]
        for stage in (0, 1)
    )
    row = ROWS * S * H * 4
    embedding = 2 * 2 * 0  # not shared: nothing is summed
    assert first == 2 * (2 * 2 * 2 + 2 * 2) * row + embedding
    assert last == 2 * (2 * 2 + 2 * 2 + 1) * row + 2 * ROWS * S * 12


def test_a_single_process_sends_nothing():
    assert traffic_of(small(Layout()), 0) == []


def test_adapters_alone_are_summed():
    config = load_run_config(REPOSITORY / "configs/glm4/lora_glm4_9b.yaml")
    job = replace(job_of(config), layout=Layout(data=4))
    adapters = 40 * 8 * (4096 + 4608)
    assert total_sent(traffic_of(job, 0))[R, "all_reduce"][0] == 2 * 3 / 4 * 4 * adapters


def test_answers_of_a_tensor_group_are_summed_twice_a_layer_and_their_logits_gathered():
    job = small(Layout(tensor=2), is_training=False)
    sent = total_sent(traffic_of(job, 0))
    assert sent[M, "all_reduce"] == (2 * L * job.tokens * H * 4, 2 * L)
    assert sent[M, "all_gather"] == (ROWS * V // 2 * 4, 1)


def test_adapters_of_a_tensor_group_are_summed_where_every_process_holds_them():
    config = load_run_config(REPOSITORY / "configs/glm4/lora_glm4_9b.yaml")
    job = replace(job_of(config), layout=Layout(tensor=2), recompute=())
    qkv_a, copies = 40 * 8 * 4096, 2 * (1 - 1 / 2) * 4  # float32, a ring of two
    trained = total_sent(traffic_of(job, 0))
    layers = 4 * 40 * job.tokens * 4096 * 2  # two sums forward, two back, bfloat16
    head = job.tokens * 4096 * 2 + 12 * job.tokens
    assert trained[M, "all_reduce"][0] == layers + head + copies * qkv_a
    of_four = total_sent(traffic_of(replace(job, layout=Layout(tensor=4)), 0))
    keys = 2 * 128 * 8 * 40  # B's rows of a key and a value head, held by two processes
    assert of_four["kv_copies", "all_reduce"] == (copies * keys, 2 * 40)


def test_gradients_of_a_prefix_are_summed_where_several_processes_hold_it():
    config = load_run_config(REPOSITORY / "configs/glm2/run_glm2_6b_ptuning2.yaml")
    job = replace(job_of(config), recompute=())
    width, narrow = 28 * 2 * 2 * 128, 64
    of_four = total_sent(traffic_of(replace(job, layout=Layout(tensor=4)), 0))
    rows = 128 * width // 2  # of one of two heads, held by two processes
    assert of_four["kv_copies", "all_reduce"] == (2 * (1 - 1 / 2) * 4 * rows, 1)
    deep = job.prefix.model_copy(update={"prefix_projection": True, "projection_dim": narrow})
    deep = replace(job, prefix=deep, _held={})
    before = 128 * width + narrow * width + narrow  # rows and first layer, whole in every process
    stages = total_sent(traffic_of(replace(deep, layout=Layout(pipeline=4)), 1))
    assert stages["model", "all_reduce"] == (2 * (1 - 1 / 4) * 4 * before, 3)
    both = total_sent(traffic_of(replace(deep, layout=Layout(pipeline=2, tensor=4)), 0))
    assert both["model", "all_reduce"] == (2 * (1 - 1 / 8) * 4 * before, 3)
    last = width // 2 // 2 * (narrow + 1)  # of half the layers, one head
    assert both["kv_copies", "all_reduce"] == (2 * (1 - 1 / 2) * 4 * last, 2)
    copies = total_sent(traffic_of(replace(job, layout=Layout(data=2)), 0))
    assert copies[R, "all_reduce"][0] == 2 * (1 - 1 / 2) * 4 * 128 * width

"""Bytes of a plan against closed forms, against the shares the engine hands out, and against a real optimizer."""

import math
from dataclasses import replace

import pytest

from mindformers.config.optimizer import MuonSection
from mindformers.config.overrides import Patch
from mindformers.config.run_config import load_run_config
from mindformers.models.glm2.glm2_shares import held_tensors
from mindformers.models.glm2.glm2_weights import count_parameters, layout_named, stored_tensors
from mindformers.parallel.layout import Layout
from mindformers.tasks.plan_job import first_tensors, job_of, with_changes
from mindformers.tasks.plan_memory import layer_bytes, memory_of, rank_memory, stage_memory
from mindformers.tasks.plan_search import layouts
from tests.support.config_files import REPOSITORY

H, F, V, N, G, D, L = 4096, 13696, 151552, 32, 2, 128, 40
PUBLISHED = REPOSITORY / "configs/glm4/finetune_glm4_9b.yaml"
CHAT = REPOSITORY / "configs/glm4/predict_glm4_9b_chat.yaml"
LORA = REPOSITORY / "configs/glm4/lora_glm4_9b.yaml"
PREFIX = REPOSITORY / "configs/glm2/run_glm2_6b_ptuning2.yaml"


def job_from(path=PUBLISHED, **keys):
    patches = [Patch(tuple(key.split("__")), value, "test") for key, value in keys.items()]
    return job_of(load_run_config(path, patches))


def alone(**fields):
    return replace(job_from(), layout=Layout(), **fields)


def layer_parameters(t=1):
    """Count a layer's weights in one of t processes by hand."""
    heads, groups = N // t, max(1, G // t)
    qkv = (heads + 2 * groups) * D * (H + 1)
    return qkv + H * heads * D + 3 * H * F // t + 2 * H


def test_the_published_stages_together_hold_each_weight_once():
    stages = memory_of(job_from())
    assert sum(each.parameters for each in stages) == 9_399_951_360
    assert [each.layers for each in stages] == [9, 10, 12, 9]
    layer = layer_parameters()
    assert [each.parameters for each in stages] == [
        9 * layer + V * H, 10 * layer, 12 * layer, 9 * layer + H + V * H,
    ]  # fmt: skip


def test_weights_and_optimizer_of_the_published_file_by_hand():
    for each in memory_of(job_from()):
        assert each.weights == 4 * each.parameters
        assert each.optimizer == 8 * each.parameters // 2  # two copies of the model share it
        assert each.copies == 4 * each.parameters // 2
        assert each.summed == each.newest == 4 * each.parameters


@pytest.mark.parametrize("tensor", [2, 4, 8])
@pytest.mark.parametrize("is_vocab_parallel", [True, False])
def test_a_tensor_group_divides_matrices_and_copies_norms_and_spare_key_heads(
    tensor, is_vocab_parallel
):
    layout = Layout(tensor=tensor, is_vocab_parallel=is_vocab_parallel)
    held = stage_memory(replace(job_from(), layout=layout), 0).parameters
    table = V * H // tensor if is_vocab_parallel else V * H
    assert held == L * layer_parameters(tensor) + table + V * H // tensor + H


LAYOUTS = [
    Layout(),
    Layout(tensor=2),
    Layout(tensor=4, is_vocab_parallel=True, is_sequence_parallel=True),
    Layout(pipeline=4, offset=(-1, 0, 2, -1)),
    Layout(pipeline=3, data=2),
    Layout(data=2, tensor=4, pipeline=2, context=2, is_vocab_parallel=True),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_is_planned_as_the_engine_hands_out_its_share(layout):
    job = replace(job_from(), layout=layout)
    whole = stored_tensors(job.network, layout_named("mindformers", job.network))
    for seen in layout.every_rank():
        shapes = [each.shape for each in held_tensors(whole, job.network, seen)]
        size = sum(rows * (rest[0] if rest else 1) for rows, *rest in shapes)
        assert rank_memory(job, seen.rank).parameters == size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_not_copied_adds_up_to_the_model(layout):
    job = replace(job_from(), layout=layout)
    ranks = [rank_memory(job, rank) for rank in range(layout.size)]
    copies = layout.data * layout.context
    spare_heads = max(1, layout.tensor // G) * max(1, G // layout.tensor) * layout.tensor / G
    kv = L * 2 * G * D * (H + 1)
    norms = (2 * L + 1) * H
    table = V * H * (0 if layout.is_vocab_parallel else layout.tensor - 1)
    copied = norms * (layout.tensor - 1) + table
    held_kv = L * 2 * max(1, G // layout.tensor) * layout.tensor * D * (H + 1)
    assert spare_heads >= 1
    expected = count_parameters(job.network) + copied + held_kv - kv
    assert sum(each.parameters for each in ranks) == copies * expected


def test_a_layer_keeps_what_is_written_by_hand():
    job = alone(rows=2)
    tokens = 2 * 8192
    bf16 = 2 * H + 2 * N * D + 2 * G * D + 3 * F  # qkv and mlp in, q k v out, gate_up, down in
    by_hand = tokens * (2 * 4 * H + 2 * bf16 + N * 64) + tokens * 8192  # norms in fp32, one mask
    assert layer_bytes(job) == by_hand


def test_a_layer_on_a_cpu_keeps_float32_and_no_mask():
    job = alone(on_cpu=True)
    elements = 2 * H + 2 * H + (N + 2 * G) * D + N * D + 3 * F + N
    assert layer_bytes(job) == 4 * 8192 * elements


def test_sequence_parallelism_shares_what_enters_norms():
    whole, shared = (
        replace(job_from(), layout=Layout(tensor=4, is_sequence_parallel=shares)) for shares in (0, 1)
    )  # fmt: skip
    assert layer_bytes(whole) - layer_bytes(shared) == 2 * 4 * H * 8192 * 3 // 4


def test_recomputation_leaves_the_inputs_of_layers_and_one_layer_at_a_time():
    kept, again = alone(recompute=()), alone(recompute=True)
    stream = 8192 * H * 4
    cast = 2 * (layer_parameters() - 2 * H - (N + 2 * G) * D)  # matrices in bf16
    saved = stage_memory(kept, 0).activations - stage_memory(again, 0).activations
    assert saved == (L - 1) * (layer_bytes(kept) + cast) - L * stream


def test_a_list_of_recomputed_layers_counts_by_stage():
    job = job_from()
    assert [job.recomputed(stage) for stage in range(4)] == [6, 3, 2, 3]
    assert replace(job, recompute=True).recomputed(2) == 12
    assert replace(job, recompute=()).recomputed(2) == 0


def test_a_stage_keeps_inputs_of_as_many_micro_batches_as_stages_follow():
    few, many = job_from(parallel_config__micro_batch_num=4), job_from()
    assert stage_memory(few, 1).activations == stage_memory(many, 1).activations
    fewest = replace(many, micro_batches=1)
    saved = stage_memory(many, 1).activations - stage_memory(fewest, 1).activations
    assert saved == 2 * 8192 * H * 4  # three under way instead of one


def test_one_micro_batch_needs_no_sum_of_gradients():
    assert stage_memory(alone(micro_batches=1), 0).summed == 0
    assert stage_memory(alone(micro_batches=2), 0).summed == 4 * 9_399_951_360


def test_weights_in_bfloat16_have_float32_masters():
    job = with_changes(alone(), {"param_init_type": "bfloat16"})
    held = stage_memory(job, 0)
    norms = (2 * L + 1) * H  # float32
    assert held.weights == 2 * 9_399_951_360 + 2 * norms
    assert held.optimizer == 12 * 9_399_951_360 - 4 * norms


def test_weights_whose_rows_do_not_divide_have_whole_states():
    job = replace(job_from(), layout=Layout(data=3, shards_optimizer=True))
    divide = L * 4608 * (H + 1)  # of all rows only those of query, key and value
    assert stage_memory(job, 0).optimizer == 8 * (9_399_951_360 - divide) + 8 * divide // 3
    assert stage_memory(job, 0).copies == 4 * divide // 3


def test_adapters_alone_are_trained():
    held = stage_memory(job_from(LORA), 0)
    adapters = L * 8 * (H + (N + 2 * G) * D)
    assert held.trained == adapters
    assert held.parameters == 9_399_951_360 + adapters
    assert held.optimizer == 8 * adapters


def test_adapters_of_named_layers_are_counted_by_their_numbers():
    job = job_from(LORA)
    targets = job.adapters.model_copy(update={"target_modules": r".*layers\.[0-4]\..*dense$"})
    changed = with_changes(job, adapters=targets)
    assert stage_memory(changed, 0).trained == 5 * 8 * (H + H)


@pytest.mark.parametrize(
    ("layout", "share"),
    [
        (Layout(), 1),
        (Layout(tensor=2), 2),
        (Layout(tensor=4), 2),  # of two key/value heads
        (Layout(pipeline=4, tensor=2), 8),
        (Layout(data=2, context=2), 1),
    ],
    ids=str,
)
def test_a_prefix_alone_is_trained_by_those_that_attend_to_it(layout, share):
    job = replace(job_from(PREFIX), layout=layout)
    width, narrow = 28 * 2 * 2 * 128, 512
    deep = job.prefix.model_copy(update={"prefix_projection": True, "projection_dim": narrow})
    projected = replace(job, prefix=deep, _held={})
    for stage in range(layout.pipeline):
        held = stage_memory(job, stage)
        assert held.trained == 128 * width // share
        assert held.optimizer == 8 * held.trained
        before = 128 * width + narrow * width + narrow
        assert stage_memory(projected, stage).trained == before + width // share * (narrow + 1)


def test_a_position_of_a_prefix_costs_a_column_of_scores_and_lies_beside_the_keys():
    job = replace(job_from(PREFIX), on_cpu=True, layout=Layout())
    longer = replace(job, prefix=job.prefix.model_copy(update={"pre_seq_len": 129}), _held={})
    beside = 2 * job.rows * 2 * 128 * 4
    assert layer_bytes(longer) - layer_bytes(job) == 4 * 32 * job.tokens + beside
    answering = [replace(each, is_training=False) for each in (job, longer)]
    assert stage_memory(answering[1], 0).cache >= stage_memory(answering[0], 0).cache


def test_logits_exist_in_chunks_where_processes_share_the_vocabulary():
    shared = stage_memory(replace(job_from(), layout=Layout(tensor=2)), 0)
    chunk = 2**25 // (4 * V // 2)
    rows = V // 2
    layer = 4 * layer_parameters(2)  # gradients, float32
    assert shared.vocabulary == 48 * chunk * rows + 8 * 8192 * H + 8 * rows * H + layer


def test_the_cache_is_as_long_as_the_rows():
    held = stage_memory(job_from(CHAT), 0)
    token = 2 * G * D * 2 * L  # bytes of keys and values in bf16: 40 KiB
    assert token == 40 * 1024
    assert held.cache == (8192 // 16 + 1) * 16 * token
    assert held.optimizer == held.summed == held.newest == held.trained == 0


def test_a_million_tokens_of_the_long_model_take_eighty_gigabytes_of_cache():
    job = with_changes(
        job_from(CHAT), {"seq_length": 2**20, "multi_query_group_num": 4, "num_blocks": 2**16}
    )
    assert stage_memory(job, 0).cache == (2**20 + 16) * 80 * 1024
    assert sum(each.parameters for each in memory_of(job)) == 9_483_857_920


TINY = REPOSITORY / "configs/glm4/finetune_glm4_tiny_cpu.yaml"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_built_network_and_its_optimizer_have_the_planned_bytes(dtype):
    from mindformers.tasks.build import build_network
    from mindformers.tasks.trained import build_optimizer

    patches = [Patch(("model", "model_config", "param_init_type"), dtype, "test")]
    config = load_run_config(TINY, patches)
    network = build_network(config)
    state = build_optimizer(network, config).state_parameters()
    planned = stage_memory(job_of(config), 0)
    parameters = list(network.trainable_params())
    assert planned.parameters == sum(each.size for each in parameters)
    assert planned.weights == sum(each.size * each.itemsize for each in parameters)
    assert planned.optimizer == sum(each.size * each.itemsize for each in state)


@pytest.mark.parametrize("is_projected", [False, True])
def test_a_built_prefix_has_the_planned_bytes(is_projected):
    from mindformers.tasks.build import build_network

    pet = {
        "pet_type": "ptuning2",
        "pre_seq_len": 7,
        "prefix_projection": is_projected,
        "projection_dim": 3,
    }
    patches = [Patch(("model", "model_config", "pet_config"), pet, "test")]
    config = load_run_config(TINY, patches)
    network = build_network(config)
    trained = sum(each.size for each in network.trainable_params())
    weights = sum(each.size for each in network.weight_parameters().values())
    planned = stage_memory(job_of(config), 0)
    assert (planned.trained, planned.parameters) == (trained, trained + weights)


# Peak memory of processes on a CPU (MB of 10^6), as the runs of a GLM of 8 layers, hidden 1024, told it.
WIDE = {
    "num_layers": 8, "hidden_size": 1024, "ffn_hidden_size": 2816, "num_attention_heads": 16,
    "kv_channels": 64, "padded_vocab_size": 16384, "multi_query_group_num": 2, "seq_length": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "measured"),
    [
        ({"recompute": True}, 2828),
        ({}, 3365),
        ({"layout": Layout(data=2, shards_optimizer=True), "micro_batches": 2}, 4850),
        ({"layout": Layout(pipeline=2), "micro_batches": 4, "recompute": (1, 1)}, 2455),
        (
            {
                "layout": Layout(tensor=2, is_sequence_parallel=True, is_vocab_parallel=True),
                "recompute": True,
            },
            2232,
        ),
    ],
)
def test_the_total_is_near_what_processes_on_a_cpu_took(fields, measured):
    job = with_changes(job_from(TINY), WIDE)
    tensors = first_tensors(job.network)
    fields = {"micro_batches": 1, "recompute": (), **fields}
    planned = stage_memory(replace(job, tensors=tensors, rows=4, _held={}, **fields), 0).total
    assert 0.9 < planned / 1e6 / measured < 1.1


def test_parts_of_layers_that_are_computed_again_are_not_kept():
    job = alone(on_cpu=True, rows=1, micro_batches=1, recompute=(), selected=())
    product = 8192 * F * 4  # of gate and up, float32
    kept, without = (stage_memory(replace(job, selected=each), 0) for each in ((), (10,)))
    assert kept.activations - without.activations == 10 * product
    both = stage_memory(replace(job, selected=(10,), recompute=(4,)), 0)
    four = stage_memory(replace(job, recompute=(4,)), 0)
    assert four.activations - both.activations == 6 * product
    assert job_from(recompute_config__select_recompute=[9, 9, 9, 9]).selected == (9, 9, 9, 9)


@pytest.mark.parametrize(
    ("kind", "of_a_matrix"),
    [("SGD", 0), ("Lion", 4 * F * H), ("AdaFactor", 4 * (F + H)), ("Muon", 4 * F * H)],
)
def test_each_optimizer_keeps_its_own_share_of_a_matrix(kind, of_a_matrix):
    from mindformers.training.optimizer_slots import slot_shapes

    shapes = slot_shapes(kind, "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", (H, F), {})
    assert sum(4 * math.prod(shape) for shape in shapes.values()) == of_a_matrix


def test_optimizers_of_whole_matrices_are_planned_without_tensor_groups_and_shared_states():
    job = replace(job_from(), optimizer=MuonSection())
    found = list(layouts(job, 8))
    assert found
    assert not any(layout.tensor > 1 or layout.shards_optimizer for layout in found)

"""Which weights a run trains and how fast, on a built network; and the patterns that are refused before it is built."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from mindformers.config.overrides import Patch
from mindformers.config.run_config import load_run_config
from mindformers.errors import ConfigError
from mindformers.tasks import build
from mindformers.tasks.patterns import check_patterns
from mindformers.tasks.plan import plan
from mindformers.tasks.plan_job import job_of
from mindformers.tasks.plan_memory import stage_memory
from mindformers.tasks.trained import build_optimizer, build_rate
from mindformers.training.train_step import MFTrainOneStepCell
from tests.support.config_files import REPOSITORY

pytestmark = pytest.mark.usefixtures(
    "pynative"
)  # a network built before that would settle the device

TINY = REPOSITORY / "configs/glm4/finetune_glm4_tiny_cpu.yaml"
SMALL = {
    "model__model_config__hidden_size": 32, "model__model_config__ffn_hidden_size": 48,
    "model__model_config__kv_channels": 8, "model__model_config__seq_length": 16,
}  # fmt: skip
KEYS = slice(32, 48)  # rows of query_key_value: four heads of 8 before, two groups of values behind
OPTIMIZERS = {
    "AdamW": {}, "SGD": {"momentum": 0.9}, "Lion": {}, "AdaFactor": {"beta1": 0.9}, "Muon": {},
}  # fmt: skip
LORA = {"pet_type": "lora", "lora_rank": 4, "lora_dropout": 0.0}


def config_of(**keys):
    """Settings of the tiny network; a section that is given replaces the file's."""
    patches = [Patch((key,), None, "test") for key in keys if "__" not in key]
    patches += [Patch(tuple(k.split("__")), v, "test") for k, v in (SMALL | keys).items()]
    return load_run_config(TINY, patches)


def section(kind, **settings):
    return {"type": kind, "learning_rate": 1e-3, **OPTIMIZERS[kind], **settings}


def check(config):
    check_patterns(config, build.network_settings(config))


def batch(rows=2):
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 2000, (rows, 16)).astype(np.int32)
    labels = ids.copy()
    labels[:, :4] = -100
    return {"input_ids": ids, "labels": labels}


def weights_of(network):
    return {p.name: p.astype(ms.float32).asnumpy().copy() for p in network.get_parameters()}


def trained_step(config, parts):
    """One clipped step over micro batches; the network and its optimizer afterwards."""
    ms.set_seed(1)
    network = build.build_network(config)
    optimizer = build_optimizer(network, config)
    step = MFTrainOneStepCell(network, optimizer, use_clip_grad=True, max_grad_norm=0.01)
    result = step(parts, 1e-2)
    assert result.grad_norm > 0.01
    return network, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_micro_batches_of_each_optimizer_make_the_step_of_one_batch(backend, name):
    config = config_of(optimizer=section(name, weight_decay=0.1), model__model_config__num_layers=2)
    whole = batch(4)
    parts = [
        {key: value[rows] for key, value in whole.items()} for rows in np.split(np.arange(4), 2)
    ]
    (one, _), (other, _) = trained_step(config, [whole]), trained_step(config, parts)
    ours, theirs = weights_of(one), weights_of(other)
    rough = name in ("AdamW", "Lion")  # a gradient of rounding alone makes a whole step
    for key, value in ours.items():
        apart = abs(value - theirs[key])
        if rough and key.endswith("query_key_value.bias"):
            apart = np.delete(apart, KEYS)  # rounding is all the gradient these have
        assert np.mean(apart > 2e-5) < (2e-2 if rough else 1e-9), key


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("average", [None, 0.9])
def test_the_plan_counts_each_optimizers_state(name, dtype, average):
    config = config_of(
        optimizer=section(name, ema_decay=average), model__model_config__param_init_type=dtype
    )
    state = build_optimizer(build.build_network(config), config).state_parameters()
    planned = stage_memory(job_of(config), 0)
    assert planned.optimizer == sum(each.size * each.itemsize for each in state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adapters_alone_have_a_state_and_learn(backend, name):
    config = config_of(optimizer=section(name), model__model_config__pet_config=LORA,
                       model__model_config__num_layers=2)  # fmt: skip
    ms.set_seed(1)
    before = weights_of(build.build_network(config))
    network, optimizer = trained_step(config, [batch()])
    assert all("_lora_" in each.name for each in optimizer.state_parameters())
    assert stage_memory(job_of(config), 0).optimizer == sum(
        each.nbytes for each in optimizer.state_parameters()
    )
    changed = {k for k, v in weights_of(network).items() if not np.array_equal(v, before[k])}
    assert changed
    assert all("_lora_b" in key for key in changed)  # B starts at 0, and so does the slope of A


def test_frozen_weights_stay_and_the_others_move_as_they_would(backend):
    free = config_of(optimizer=section("SGD", momentum=0.0), runner_wrapper__use_clip_grad=False)
    frozen = config_of(
        optimizer=section("SGD", momentum=0.0, freeze_include=["*embedding*", "*.layers.[0-2].*"],
                          freeze_exclude=["*.layers.1.mlp*"]),
    )  # fmt: skip
    results = []
    for config in (free, frozen):
        ms.set_seed(1)
        network = build.build_network(config)
        before = weights_of(network)
        optimizer = build_optimizer(network, config)
        MFTrainOneStepCell(network, optimizer)([batch()], 1.0)
        results.append({k: v - before[k] for k, v in weights_of(network).items()})
    moved = {key for key, value in results[1].items() if value.any()}
    assert all(value.any() for value in results[0].values())
    assert moved == {
        key for key in results[0]
        if "output_layer" in key or "final" in key or "layers.3" in key or "layers.1.mlp" in key
    }  # fmt: skip
    for key in moved:
        np.testing.assert_allclose(results[1][key], results[0][key], atol=1e-6)


def test_the_plan_counts_frozen_weights():
    config = config_of(
        optimizer=section("AdamW", freeze_include=["*embedding*", "*.layers.[0-1].*"])
    )
    network = build.build_network(config)
    state = build_optimizer(network, config).state_parameters()
    planned = stage_memory(job_of(config), 0)
    assert planned.trained == sum(each.size for each in network.trainable_params())
    assert planned.optimizer == sum(each.nbytes for each in state)
    assert planned.parameters == sum(each.size for each in network.get_parameters())


def test_layers_learn_slower_the_deeper_they_are():
    config = config_of(layer_scale=True, layer_decay=0.5,
                       optimizer=section("AdamW", lr_scales={"*.bias": 2.0, "*embedding*": 3.0}))  # fmt: skip
    optimizer = build_optimizer(build.build_network(config), config)
    found = {
        p.name: g.lr_scale for p, g in zip(optimizer.parameters, optimizer.groups, strict=True)
    }
    layers = "transformer.encoder.layers"
    assert found["transformer.output_layer.weight"] == 1.0
    assert found["transformer.encoder.final_layernorm.weight"] == 1.0
    assert found[f"{layers}.3.mlp.dense_4h_to_h.weight"] == 0.5
    assert found[f"{layers}.0.self_attention.dense.weight"] == 0.5**4
    assert found[f"{layers}.0.self_attention.query_key_value.bias"] == 2 * 0.5**4
    assert found["transformer.embedding.embedding_weight"] == 3 * 0.5**5


def test_the_rate_is_scaled_to_the_rows_of_a_step():
    plain = config_of(lr_schedule=None, optimizer__learning_rate=0.1)
    scaled = config_of(lr_schedule=None, optimizer__learning_rate=0.1, lr_scale=True,
                       lr_scale_factor=64, runner_config__gradient_accumulation_steps=4)  # fmt: skip
    assert build_rate(None, plain, 10)(3) == 0.1
    assert build_rate(None, scaled, 10)(3) == pytest.approx(0.1 * 80 / 64)


def test_a_rise_may_be_given_in_epochs():
    config = config_of(
        lr_schedule={
            "type": "linear",
            "learning_rate": 1.0,
            "warmup_epochs": 0.5,
            "warmup_ratio": 0.0,
        },
        runner_config__epochs=4,
    )
    rate = build_rate(None, config, 40)  # ten steps an epoch
    assert [rate(step) for step in (0, 1, 5, 40)] == [0.0, 0.2, 1.0, 0.0]


def test_adafactors_own_rate_is_the_runs():
    config = config_of(lr_schedule=None, optimizer=section("AdaFactor", relative_step=True))
    optimizer = build_optimizer(build.build_network(config), config)
    rate = build_rate(optimizer, config, 10)
    assert (rate(0), rate(9_999), rate(39_999)) == (1e-2, 1e-2, 5e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_include": ["*embeding*"]}, "optimizer.freeze_include: '*embeding*' names no weight"),
        ({"freeze_include": ["*"], "freeze_exclude": ["*lm_head*"]},
         "optimizer.freeze_exclude: '*lm_head*' names no weight; names are as transformer.encoder"),
        ({"lr_scales": {"*.qkv.*": 2.0}}, "optimizer.lr_scales: '*.qkv.*' names no weight"),
        ({"freeze_include": ["*"]}, "optimizer.freeze_include: every weight is frozen; name fewer"),
    ],
)  # fmt: skip
def test_patterns_that_leave_nothing_are_refused_before_anything_is_built(settings, message):
    with pytest.raises(ConfigError) as caught:
        check(config_of(optimizer=section("AdamW", **settings)))
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError) as caught:
        plan(config_of(optimizer=section("AdamW", **settings)))
    assert str(caught.value).startswith(message)


def test_patterns_for_another_network_than_the_files_are_refused_when_it_is_given():
    config = config_of(optimizer=section("AdamW", freeze_include=["*dense_left*"]))
    network = build.build_network(config)
    with pytest.raises(ConfigError, match=r"freeze_include: \['\*dense_left\*'\] names no weight"):
        build_optimizer(network, config)


def test_a_stage_without_a_weight_to_train_is_refused():
    config = config_of(
        use_parallel=True, parallel_config={"pipeline_stage": 2, "micro_batch_num": 2},
        optimizer=section("AdamW", freeze_include=["*.layers.[0-1].*", "*embedding*"]),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="every weight of pipeline stage 0 is frozen"):
        check(config)


def test_patterns_of_adapters_are_known():
    check(config_of(model__model_config__pet_config=LORA,
                             optimizer=section("AdamW", lr_scales={"*_lora_b": 16.0})))  # fmt: skip


def test_gradients_of_short_weights_are_summed_in_float32(backend):
    config = config_of(optimizer=section("SGD", momentum=0.0), model__model_config__num_layers=2,
                       model__model_config__param_init_type="bfloat16")  # fmt: skip
    network = build.build_network(config)
    step = MFTrainOneStepCell(network, build_optimizer(network, config))
    parts = [batch(1), batch(3)]
    losses, total = step._accumulate(parts, [0.25, 0.75])
    each = [step.gradients(part, weight) for part, weight in zip(parts, [0.25, 0.75], strict=True)]
    assert losses == [loss for loss, _ in each]
    for index, found in enumerate(total):
        assert found.dtype == ms.float32
        expected = each[0][1][index].asnumpy() + each[1][1][index].asnumpy()
        np.testing.assert_array_equal(found.asnumpy(), expected)
    kinds = {str(p.dtype) for p in network.get_parameters() if "norm" not in p.name}
    assert kinds == {"BFloat16"}

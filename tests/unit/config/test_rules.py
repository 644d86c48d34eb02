import pytest

from mindformers.config.rules import RULES
from tests.support.config_files import bind, refused

PIPELINE = {"pipeline_stage": 4, "micro_batch_num": 4}


def network(**settings):
    return {"model_config": {"eos_token_id": 2, "pad_token_id": 0, **settings}}


CASES = {
    "_one_recompute_count_per_stage": (
        {
            "use_parallel": True,
            "parallel_config": PIPELINE,
            "recompute_config": {"recompute": [6, 3]},
        },
        "recompute_config.recompute: found a list of 2, but parallel_config.pipeline_stage is 4",
    ),
    "_one_select_recompute_count_per_stage": (
        {
            "use_parallel": True,
            "parallel_config": PIPELINE,
            "recompute_config": {"select_recompute": [1]},
        },
        "recompute_config.select_recompute: found a list of 1, "
        "but parallel_config.pipeline_stage is 4",
    ),
    "_one_offset_per_stage": (
        {"use_parallel": True, "parallel_config": PIPELINE, "model": network(offset=[1, -1])},
        "model.model_config.offset: found a list of 2, but parallel_config.pipeline_stage is 4",
    ),
    "_heads_divide_among_processes": (
        {"use_parallel": True, "parallel_config": {"model_parallel": 3}, "model": network()},
        "parallel_config.model_parallel: found 3, which does not divide 32 query heads",
    ),
    "_stages_have_work": (
        {"use_parallel": True, "parallel_config": PIPELINE, "model": network(num_layers=2)},
        "parallel_config.pipeline_stage: found 4, more than num_layers 2",
    ),
    "_flash_attention_tiles": (
        {"model": network(use_flash_attention=True, seq_length=100)},
        "model.model_config.seq_length: found 100; allowed: a multiple of 16 "
        "while use_flash_attention is True",
    ),
    "_answers_can_end": (
        {"model": network(padded_vocab_size=64, eos_token_id=[2, 151329])},
        "model.model_config.eos_token_id: found 151329; allowed: ids below padded_vocab_size 64",
    ),
    "_padding_is_in_the_vocabulary": (
        {"model": network(padded_vocab_size=64, pad_token_id=64)},
        "model.model_config.pad_token_id: found 64; allowed: ids below padded_vocab_size 64",
    ),
    "_one_training_set": (
        {"train_dataset": {"seed": 1}, "train_dataset_task": {"dataset_config": {"seed": 2}}},
        "train_dataset_task.dataset_config: differs from train_dataset; "
        "write 'train_dataset: &train_dataset' and '*train_dataset'",
    ),
    "_one_evaluation_set": (
        {"eval_dataset": {"seed": 1}, "eval_dataset_task": {"dataset_config": {"seed": 2}}},
        "eval_dataset_task.dataset_config: differs from eval_dataset; "
        "write 'eval_dataset: &eval_dataset' and '*eval_dataset'",
    ),
    "_one_batch_size": (
        {"train_dataset": {"batch_size": 4}, "runner_config": {"batch_size": 2}},
        "train_dataset.batch_size: found 4, but runner_config.batch_size is 2",
    ),
    "_whole_matrices_for_their_optimizer": (
        {
            "use_parallel": True,
            "parallel_config": {"data_parallel": 2},
            "parallel": {"enable_parallel_optimizer": True},
            "optimizer": {"type": "Muon"},
        },
        "optimizer.type: Muon needs whole matrices; allowed with it: "
        "parallel.enable_parallel_optimizer False",
    ),
    "_one_source_of_the_rate": (
        {
            "optimizer": {"type": "Adafactor", "relative_step": True},
            "lr_schedule": {"type": "linear"},
        },
        "optimizer.relative_step: True sets the rate by itself; leave lr_schedule out, "
        "or set it to False",
    ),
    "_adapters_freeze_the_rest": (
        {
            "optimizer": {"freeze_include": ["*"]},
            "model": network(pet_config={"pet_type": "lora"}),
        },
        "optimizer.freeze_include: with pet_config only the adapters are trained; "
        "leave one of the two out",
    ),
    "_adapters_answer": (
        {"run_mode": "eval", "adapter_id": "folder"},
        "adapter_id: has an effect when predicting only; elsewhere name the adapters with load_checkpoint",
    ),
    "_metrics_of_this_task": (
        {"metric": {"type": "EntityScore"}, "do_eval": True},
        "metric: EntityScore is a metric of networks that label entities: not implemented",
    ),
    "_one_metric_of_a_kind": (
        {"metric": [{"type": "ADGENMetric"}, {"type": "ADGENMetric"}]},
        "metric: ADGENMetric is listed twice; keep one of them",
    ),
    "_evaluations_to_look_at": (
        {"callbacks": [{"type": "EarlyStopping"}]},
        "callbacks: EarlyStopping looks at evaluations, but do_eval is False; add do_eval: True",
    ),
    "_one_callback_of_a_kind": (
        {"callbacks": [{"type": "MFLossMonitor"}, {"type": "MFLossMonitor"}]},
        "callbacks: MFLossMonitor is listed twice; keep one of them",
    ),
}


def test_every_rule_has_a_case():
    assert {rule.check.__name__ for rule in RULES} == set(CASES)


@pytest.mark.parametrize(("data", "message"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_reported_at_its_key(data, message):
    assert refused(**data) == message


def test_an_optimizer_of_whole_matrices_runs_in_data_and_pipeline_groups_alone():
    stages = {"data_parallel": 2, "pipeline_stage": 2, "micro_batch_num": 2}
    own = {"use_parallel": True, "optimizer": {"type": "AdaFactor"}}
    assert bind(parallel_config=stages, **own)
    assert bind(parallel_config={"pipeline_stage": 2, "micro_batch_num": 2},
                parallel={"enable_parallel_optimizer": True}, **own)  # fmt: skip
    assert bind(parallel_config={"model_parallel": 2}, **(own | {"optimizer": {"type": "Lion"}}))
    assert refused(parallel_config={"model_parallel": 2}, **own) == (
        "optimizer.type: AdaFactor needs whole matrices; allowed with it: "
        "parallel_config.model_parallel 1"
    )


def test_a_metric_of_another_task_binds_where_nothing_is_evaluated():
    assert bind(metric={"type": "PromptAccMetric"}, run_mode="finetune").metric
    assert "PromptAccMetric is a metric of data" in refused(
        metric={"type": "PromptAccMetric"}, run_mode="eval"
    )


def test_the_layers_left_over_are_given_to_stages():
    parallel = {"use_parallel": True, "parallel_config": PIPELINE}
    assert bind(model=network(num_layers=41, offset=[1, 0, 0, 0]), **parallel)
    assert refused(model=network(num_layers=40, offset=[1, 0, 0, 0]), **parallel) == (
        "model.model_config.offset: found a sum of 1; allowed: 0, "
        "the remainder of 40 layers in 4 stages"
    )


def test_a_pipeline_needs_as_many_micro_batches_as_stages():
    parallel = {"pipeline_stage": 4, "micro_batch_num": 2}
    assert refused(use_parallel=True, parallel_config=parallel, model=network()) == (
        "parallel_config.pipeline_stage: found 4, more than micro_batch_num 2"
    )


def test_parallel_rules_wait_until_use_parallel_is_true():
    config = bind(
        parallel_config={"pipeline_stage": 4, "model_parallel": 3},
        recompute_config={"recompute": [6, 3]},
        model=network(offset=[1, 2]),
    )
    assert config.recompute_config.recompute == [6, 3]


def test_any_length_is_right_where_no_ascend_operator_reads_it():
    model = network(use_flash_attention=True, seq_length=100)
    assert bind(model=model, context={"device_target": "CPU"})

import pytest

from mindformers.config.loader import Document, load_yaml
from mindformers.config.report import Problem, is_secret, report, show
from mindformers.config.run_config import bind_run_config
from mindformers.errors import ConfigError
from tests.support.config_files import refused, write


def test_one_problem_is_one_line_with_place_key_finding_and_hint(tmp_path):
    path = write(
        tmp_path, "seed: 1\nlr_schedule:\n  type: CosineWithWarmUpLR\n  warmup_rato: 0.1\n"
    )
    with pytest.raises(ConfigError) as caught:
        bind_run_config(load_yaml(path))
    assert str(caught.value) == (
        f"{path}:4: lr_schedule.warmup_rato: unknown key 'warmup_rato'; "
        "did you mean 'warmup_ratio' or 'warmup_lr_init' or 'warmup_steps'?"
    )


def test_all_problems_stand_in_one_report_in_the_order_of_the_file(tmp_path):
    text = (
        "sed: 1\n"
        "runner_config:\n  epochs: 0\n"
        "model:\n  model_config:\n    num_layers: 'x'\n    multi_query_group_num: 3\n"
        "use_parallel: True\n"
        "parallel_config: {pipeline_stage: 2}\n"
        "recompute_config: {recompute: [1]}\n"
    )
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        bind_run_config(load_yaml(path))
    assert str(caught.value).splitlines() == [
        f"5 problems in {path}:",
        f"  {path}:1: sed: unknown key 'sed'; did you mean 'seed'?",
        f"  {path}:3: runner_config.epochs: found 0; allowed: 1 or more",
        f"  {path}:6: model.model_config.num_layers: found 'x' (text); allowed: a whole number",
        f"  {path}:7: model.model_config.multi_query_group_num: "
        "multi_query_group_num 3 does not divide num_attention_heads 32",
        f"  {path}:10: recompute_config.recompute: found a list of 1, "
        "but parallel_config.pipeline_stage is 2",
    ]


def test_a_check_that_reads_a_wrong_value_is_left_out():
    text = refused(model={"model_config": {"num_attention_heads": "x", "multi_query_group_num": 3}})
    assert (
        text == "model.model_config.num_attention_heads: found 'x' (text); allowed: a whole number"
    )
    text = refused(use_parallel=True, parallel_config={"pipeline_stage": "4"},
                   recompute_config={"recompute": [1, 2]})  # fmt: skip
    assert text == "parallel_config.pipeline_stage: found '4' (text); allowed: a whole number"


def test_an_alias_does_not_repeat_the_problem_of_its_anchor(tmp_path):
    text = "train_dataset: &t\n  sede: 1\ntrain_dataset_task: {dataset_config: *t}\n"
    with pytest.raises(ConfigError) as caught:
        bind_run_config(load_yaml(write(tmp_path, text)))
    assert str(caught.value).count("unknown key 'sede'") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"use_parallel": "true"}, "use_parallel: found 'true' (text); allowed: true or false"),
        ({"use_parallel": 1}, "use_parallel: found 1; allowed: true or false"),
        ({"seed": True}, "seed: found true; allowed: a whole number"),
        ({"seed": 1.5}, "seed: found 1.5; allowed: a whole number"),
        ({"seed": None}, "seed: found null; allowed: a whole number"),
        ({"seed": -1}, "seed: found -1; allowed: 0 or more"),
        ({"model": 3}, "model: found 3; allowed: a section of 'key: value'"),
        ({"callbacks": {"type": "X"}}, "callbacks: found a section; allowed: a list"),
        ({"recompute_config": {"recompute": "a"}},
         "recompute_config.recompute: found 'a' (text); allowed: true or false or a list"),
        ({"recompute_config": {"recompute": [1, "a"]}},
         "recompute_config.recompute.1: found 'a' (text); allowed: a whole number"),
        ({"optimizer": {"eps": float("nan")}}, "optimizer.eps: found nan; allowed: a finite number"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas: found [0.9]; allowed: a list of 2"),
        ({"model": {"model_config": {"kv_channels": 30}}},
         "model.model_config.kv_channels: found 30; allowed: a multiple of 4"),
        ({"context": {"device_target": "Ascent"}},
         "context.device_target: found 'Ascent' (text); allowed: 'Ascend' or 'CPU'; "
         "did you mean 'Ascend'?"),
        ({"context": {"mode": True}}, "context.mode: found True; allowed: a number or a name"),
        ({"callbacks": [{"type": "LossMonitor"}]},
         "callbacks.0.type: found 'LossMonitor' (text); allowed: MFLossMonitor, CheckpointMonitor, "
         "EarlyStopping, MetricsWriter, LossPlot, ProgressBar, ProfileMonitor, SummaryMonitor, TrainCallBack; "
         "did you mean 'MFLossMonitor' or 'SummaryMonitor' or 'ProfileMonitor'?"),
        ({"callbacks": [{}]},
         "callbacks.0.type: the key is missing; allowed: MFLossMonitor, CheckpointMonitor, EarlyStopping, "
         "MetricsWriter, LossPlot, ProgressBar, ProfileMonitor, SummaryMonitor, TrainCallBack"),
        ({"lr_schedule": {"type": "CosineAnnealingLR", "base_lr": 0.1}},
         "lr_schedule.t_max: the key is missing"),
        ({"model": {"model_config": {"hidden_dropout": 0.1}}},
         "model.model_config.hidden_dropout: found 0.1: dropout is not implemented; allowed: 0.0"),
        ({"optimizer": {"type": "Lion", "eps": 1e-8}},
         "optimizer.eps: unknown key 'eps'; another type has it"),
        ({"arch": 1}, "arch: unknown key 'arch'; this name is known as model.arch"),
        ({"qqq": 1}, "qqq: unknown key 'qqq'; docs/config_reference.md lists every key"),
        ({"trainer": {"xyz": 1}}, "trainer.xyz: unknown key 'xyz'; allowed: type, model_name"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_shown_with_what_is_allowed(data, message):
    assert refused(**data) == message


def test_a_flag_that_names_the_key_is_not_followed_by_the_key():
    document = Document(positions={("seed",): ("command line: --seed", 0)})
    assert str(report([Problem(("seed",), "found x")], document)) == "command line: --seed: found x"
    document = Document(positions={("seed",): ("command line: --rng", 0)})
    assert str(report([Problem(("seed",), "found x")], document)) == (
        "command line: --rng: seed: found x"
    )


def test_long_values_are_cut_and_secrets_are_not_shown():
    assert len(show("x" * 1000)) < 80
    assert show("s3cret", "enc_key") == "a value that is not shown"
    assert is_secret("remote_save_url")
    assert is_secret("api_key")
    assert not is_secret("eos_token_id")
    text = refused(callbacks=[{"type": "CheckpointMonitor", "enc_key": "s3cret"}])
    assert "s3cret" not in text
    assert "encryption of checkpoints is not implemented" in text
    assert "s3cret" not in refused(remote_save_url="obs://user:s3cret@host")

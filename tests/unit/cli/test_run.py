import subprocess
import sys
from pathlib import Path

import pytest

from mindformers.cli import run
from mindformers.cli.flags import FLAGS, build_parser
from mindformers.errors import ConfigError
from tests.support.config_files import REPOSITORY, write

MODEL = "model: {model_config: {num_layers: 1}}\n"


def load(*arguments):
    return run.load(*build_parser().parse_known_args([str(each) for each in arguments]))


def refused(*arguments):
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    text = MODEL + f"run_mode: predict\noutput_dir: {tmp_path / 'output'}\n"
    return write(tmp_path, text)


def value_at(config, key):
    for part in key.split("."):
        config = config.network if part == "model_config" else getattr(config, part)
    return config


# One value per flag that differs from the default; those that are refused stand below.
GIVEN = {
    "mode": ("1", 1), "device_id": ("3", 3), "device_target": ("CPU", "CPU"),
    "run_mode": ("predict", "predict"), "do_eval": ("TRUE", True), "train_dataset_dir": ("d", "d"),
    "eval_dataset_dir": ("d", "d"), "predict_batch_size": ("2", 2), "auto_trans_ckpt": ("True", True),
    "transform_process_num": ("2", 2), "only_save_strategy": ("false", False),
    "allow_data_change": ("true", True),
    "resume_training": ("true", True), "remote_save_url": ("text", "text"), "seed": ("7", 7),
    "use_parallel": ("tRuE", True), "profile": ("False", False), "epochs": ("3", 3),
    "batch_size": ("4", 4), "gradient_accumulation_steps": ("5", 5), "sink_mode": ("False", False),
    "num_samples": ("6", 6), "output_dir": ("no_such_folder", "no_such_folder"),
    "quantization": ("int8", "int8"), "prompt_lookup": ("4", 4),
    "do_sample": ("True", True), "trust_remote_code": ("False", False),
}  # fmt: skip
SPECIAL = {
    "predict_data", "modal_type", "adapter_id", "load_checkpoint", "src_strategy_path_or_dir",
    "strategy_load_checkpoint", "assistant_model",
}  # fmt: skip


def test_every_flag_is_covered_here():
    assert set(GIVEN) | SPECIAL == {flag.name for flag in FLAGS}


@pytest.mark.parametrize("name", GIVEN)
def test_a_flag_sets_its_key(path, name):
    text, value = GIVEN[name]
    flag = next(flag for flag in FLAGS if flag.name == name)
    for spelling in (flag.name, *flag.aliases):
        assert value_at(load("--config", path, f"--{spelling}", text), flag.key) == value


def test_prompts_may_be_several(path):
    assert load("--config", path, "--predict_data", "a", "b=c", "--seed", "3").input_data == [
        "a",
        "b=c",
    ]


def test_resuming_takes_the_name_of_a_checkpoint(path):
    assert load("--config", path, "--resume_training", "glm4_rank_0-1_10").resume_training == (
        "glm4_rank_0-1_10"
    )


def test_weights_may_be_a_folder(path, tmp_path):
    assert load("--config", path, "--load_checkpoint", tmp_path).load_checkpoint == str(tmp_path)


@pytest.mark.parametrize(
    ("flag", "value", "reason"),
    [
        ("modal_type", "image", "input other than text is not implemented"),
        ("adapter_id", "/no/such", "adapter_id: /no/such does not exist"),
        ("trust_remote_code", "True", "running code of a model folder is not implemented"),
        ("remote_save_url", "obs://x", "copying results to an address is not implemented"),
        ("register_path", "x", "loading code from a folder is refused"),
        ("load_checkpoint", "/no/such", "/no/such does not exist"),
    ],
)
def test_a_flag_whose_wish_cannot_be_met_is_refused_by_name(path, flag, value, reason):
    text = refused("--config", path, f"--{flag}", value)
    assert f"command line: --{flag}" in text
    assert reason in text


def test_dotted_flags_and_options_reach_every_key(path):
    config = load("--config", path, "--model.model_config.seq_length", "64", "--optimizer.eps=1e-6",
                  "--options", "use_parallel=True", "optimizer.betas=0.8,0.9", "seed=9")  # fmt: skip
    assert config.model.network.seq_length == 64
    assert config.optimizer.eps == 1e-6
    assert config.optimizer.betas == [0.8, 0.9]
    assert config.use_parallel is True
    assert config.seed == 9


def test_a_dotted_flag_wins_over_an_option_and_an_option_over_a_flag(path):
    assert load("--config", path, "--seed", "1", "--options", "seed=2").seed == 2
    config = load("--config", path, "--options", "context.mode=0", "--context.mode", "1")
    assert config.context.mode == 1


def test_a_callback_is_changed_by_its_number(tmp_path, path):
    text = path.read_text() + "callbacks:\n- type: MFLossMonitor\n- {type: CheckpointMonitor}\n"
    path = write(tmp_path, text)
    config = load("--config", path, "--callbacks.1.save_checkpoint_steps", "50")
    assert config.checkpoint_monitor.save_checkpoint_steps == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "x"], "command line: argument --seed: found 'x'; allowed: a whole number; "
                          "--help lists the flags"),
        (["--use_parallel", "yes"], "command line: argument --use_parallel: found 'yes'; "
                                    "allowed: true or false; --help lists the flags"),
        (["--seed"], "command line: argument --seed: expected one argument; --help lists the flags"),
        (["--lod_checkpoint", "x"], "command line: --lod_checkpoint: unknown key 'lod_checkpoint'; "
                                    "did you mean 'load_checkpoint'"),
        (["--sed"], "command line: --sed: the value is missing; allowed: --sed value; "
                    "did you mean '--seed'"),
        (["stray"], "command line: unexpected argument 'stray'; allowed: --key value"),
        (["--options", "seed"], "command line: --options: found 'seed'; allowed: key=value"),
        (["--run_mode", "predict_with_train_model"],
         "run_mode: predict_with_train_model is not implemented; allowed: train, finetune, eval, "
         "predict or plan"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_clear_line(path, arguments, message):
    text = refused("--config", path, *arguments)
    assert text.startswith(message)
    assert "\n" not in text


def test_a_file_must_be_named_and_have_a_mode(tmp_path):
    assert refused().startswith("command line: --config is missing; add --config")
    assert refused("--config", write(tmp_path, MODEL)).startswith("run_mode: no run_mode is given")


def test_a_relative_file_is_found_here_first_and_then_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "configs/glm4/predict_glm4_tiny_cpu.yaml"
    assert run.find_config(name) == REPOSITORY / name
    (tmp_path / "configs" / "glm4").mkdir(parents=True)
    here = write(tmp_path / "configs" / "glm4", MODEL, "predict_glm4_tiny_cpu.yaml")
    assert (tmp_path / run.find_config(name)).resolve() == here
    assert str(run.find_config("no.yaml")) == "no.yaml"


@pytest.mark.parametrize(
    ("mode", "task"), [("train", "finetune"), ("finetune", "finetune"), ("predict", "predict")]
)
def test_a_mode_runs_its_task_with_the_settings(tmp_path, monkeypatch, mode, task):
    seen = []
    monkeypatch.setattr(run, f"_{task}", lambda config: seen.append(config) or 0)
    monkeypatch.setattr(run, "setup_console_logging", lambda: None)
    data = tmp_path / "data.mindrecord"
    data.touch()
    path = write(tmp_path, MODEL)
    code = run.main(["--config", str(path), "--run_mode", mode, "--device_target", "CPU", "--train_dataset", str(data),
                     "--output_dir", str(tmp_path / "output")])  # fmt: skip
    assert code == 0
    assert [config.run_mode for config in seen] == [mode]


def test_help_is_there_at_once_and_loads_no_mindspore():
    code = (
        "import sys; from mindformers.cli.run import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit('mindspore' in sys.modules or 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--train_dataset_dir" in done.stdout


def test_the_script_says_what_is_wrong_without_loading_mindspore(tmp_path):
    path = write(tmp_path, "sed: 1\n")
    script = REPOSITORY / "run_mindformer.py"
    done = subprocess.run([sys.executable, "-X", "importtime", script, "--config", path],
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: {path}:1: sed: unknown key 'sed'; did you mean 'seed'?"
    )
    assert "| mindspore" not in done.stderr


@pytest.mark.skipif(any(Path("/dev").glob("davinci*")), reason="this machine has an NPU")
def test_a_machine_without_npu_is_told_before_mindspore_is_loaded(tmp_path):
    code = (
        "import sys\nfrom mindformers.cli.run import main\nfrom mindformers.errors import DeviceError\n"
        "try:\n    main(sys.argv[1:])\nexcept DeviceError as error:\n"
        "    print('mindspore' in sys.modules, error)"
    )
    path = write(tmp_path, MODEL)
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", str(path), "--run_mode", "predict", "--predict_data", "hi",
         "--device_target", "Ascend", "--load_checkpoint", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("False no NPU found on this machine"), done.stdout

import io
import re
import subprocess
import sys

import pytest

from mindformers.cli import run
from mindformers.config.run_config import load_run_config
from mindformers.errors import ConfigError
from mindformers.guard import run_guarded
from mindformers.tasks.plan import plan
from mindformers.tasks.plan_report import as_text, show
from tests.support.config_files import CONFIGS, REPOSITORY

PUBLISHED = str(REPOSITORY / "configs/glm4/finetune_glm4_9b.yaml")
CHAT = str(REPOSITORY / "configs/glm4/predict_glm4_9b_chat.yaml")


def said(capsys, *arguments, config=PUBLISHED):
    assert run.main(["--config", str(config), "--run_mode", "plan", *arguments]) == 0
    return capsys.readouterr().out


def refused(*arguments, config=PUBLISHED):
    argv = ["--config", str(config), *arguments]
    assert run_guarded(run.main, argv) == 2
    with pytest.raises(ConfigError) as caught:
        run.main(argv)
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_published_file_has_a_plan_as_it_is(capsys, path):
    text = said(capsys, config=path)
    assert "memory of a process, GB" in text
    assert "fits:" in text


def test_the_published_finetuning_fits_eight_devices_of_64_gb(capsys):
    text = said(capsys, "--device_memory", "64GB")
    assert "plan: finetune on 8 devices (data 2 x pipeline 4)" in text
    assert "64 micro batches of 1 x 8192 tokens in each copy, 1,048,576 tokens" in text
    assert "fits: yes, 13.90 GB are left on the fullest process" in text
    rows = re.findall(r"^ +\d  +\d-\d .*yes$", text, re.M)
    assert len(rows) == 4
    assert "2,456,408,576" in rows[3]


def test_its_own_limit_is_kept_and_below_a_smaller_one_the_change_is_said(capsys):
    text = said(capsys)
    assert "may take 58.00 GB (context.max_device_memory)" in text
    assert "fits: yes, 7.90 GB are left on the fullest process" in text
    text = said(capsys, "--device_memory", "48GB")
    assert "fits: NO, 2.10 GB too much on the fullest process" in text
    assert "smallest change: recompute more layers: recompute: [6, 3, 4, 4]" in text


@pytest.mark.parametrize("devices", [1, 8, 64, 1024])
def test_devices_have_layouts_or_it_is_said_that_none_fits(capsys, devices):
    text = said(capsys, "--devices", str(devices))
    known = f"best layouts for {devices} devices" if devices > 1 else "layouts for 1 devices: none"
    assert known in text


def test_predicting_has_a_cache_and_no_gradients(capsys):
    text = said(capsys, config=CHAT)
    assert "plan: predict on 1 device (one process)" in text
    header = re.search(r"^stage .*$", text, re.M).group()
    assert "cache" in header
    assert "gradients" not in header
    assert "first token after" in text


def test_flags_change_the_plan_as_they_change_a_run(capsys):
    text = said(capsys, "--model.model_config.seq_length", "4096", "--batch_size", "2")
    assert "micro batches of 2 x 4096 tokens" in text


def test_a_plan_of_this_machine_divides_its_memory(capsys):
    config = REPOSITORY / "configs/glm4/finetune_glm4_tiny_cpu.yaml"
    text = said(capsys, config=config)
    assert "this machine's CPU" in text
    assert "fits: yes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device_memory", "64"], "found '64'; allowed: a number of GB, as 64GB"),
        (["--device_memory", "0GB"], "allowed: a number of GB"),
        (["--devices", "0"], "found '0'; allowed: 1 to 65536"),
        (["--devices", "many"], "allowed: a whole number"),
        (["--device", "atlas_80t_a2"], "did you mean 'atlas_800t_a2'"),
        (["--parallel_config.model_parallel", "3"], "does not divide 32 query heads"),
        (["--parallel_config.context_parallel", "3"], "does not divide seq_length 8192"),
        (["--parallel_config.micro_batch_num", "2"], "more than micro_batch_num 2"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, message):
    assert message in refused("--run_mode", "plan", *arguments)


def test_flags_of_a_plan_are_refused_without_it():
    text = refused("--devices", "8")
    assert text.startswith("command line: --devices: has an effect with --run_mode plan only")


def test_shared_answers_are_refused_as_by_a_run_and_shared_adapters_are_planned(capsys):
    shared = ["--use_parallel", "True", "--parallel_config.data_parallel", "2"]
    text = refused("--run_mode", "plan", *shared, config=CHAT)
    assert "answering is shared by data 2" in text
    adapters = REPOSITORY / "configs/glm4/lora_glm4_9b.yaml"
    tensor = ["--use_parallel", "True", "--parallel_config.model_parallel", "2"]
    assert "adapters of rank 8 on 2 devices (model 2)" in said(capsys, *tensor, config=adapters)


def test_a_plan_loads_nothing_heavy():
    heavy = ("mindspore", "torch", "rich", "matplotlib")
    code = (
        "import sys\nfrom mindformers.cli.run import main\n"
        f"main(['--config', {PUBLISHED!r}, '--run_mode', 'plan', '--devices', '8'])\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("[]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_the_same_figures_in_drawn_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = plan(load_run_config(PUBLISHED), devices=8)
    drawn = Terminal()
    show(found, drawn)
    figures = set(re.findall(r"\d[\d,.]*\d", as_text(found)))
    assert "┃" in drawn.getvalue()
    assert figures <= set(re.findall(r"\d[\d,.]*\d", drawn.getvalue()))


@pytest.mark.parametrize("page", ["plan.md", "plan_CN.md"])
def test_the_page_shows_what_is_printed(page):
    printed = as_text(plan(load_run_config(PUBLISHED), device_memory=64 * 2**30))
    assert printed.rstrip() in (REPOSITORY / "docs" / page).read_text(encoding="utf-8")

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mindformers.models.glm2.glm2_weights import layout_named, stored_tensors
from tests.support.glm_files import glm_arrays, tiny_config, write_hf_directory

ROOT = Path(__file__).resolve().parents[2]


def run_python(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, env=environment,
        timeout=120, check=False, **options,
    )  # fmt: skip


def test_a_step_survives_a_kill_at_every_file_operation(tmp_path):
    done = run_python(ROOT / "tests/faults/kill_step_save.py", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    points = {
        name: int(n) for name, n in (line.rsplit(" ", 1) for line in done.stdout.splitlines())
    }
    assert points.keys() == {"save", "replace", "purge", "save and purge", "clean"}
    assert points["save"] > 20
    assert points["replace"] > points["save"]


CONVERT = """
import resource, sys, threading, os, signal, time
from mindformers.cli import convert
{before}
code = convert.main(["--model", "glm4", "--input_path", sys.argv[1], "--output_path", sys.argv[2], *sys.argv[3:]])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def big_directory(folder: Path) -> Path:
    """A directory of 96 MB of bfloat16 in two shards, most of it in two tensors."""
    config = tiny_config(padded_vocab_size=24_000, hidden_size=1024)
    arrays = {
        name: np.zeros(stored.shape, ml_dtypes.bfloat16)
        for name, stored in (
            (s.name, s) for s in stored_tensors(config, layout_named("glm", config))
        )
    }
    return write_hf_directory(folder, config, arrays, shards=2)


def test_a_conversion_runs_within_half_the_memory_of_a_shard(tmp_path):
    source = big_directory(tmp_path / "hf")
    shard = max(p.stat().st_size for p in source.glob("*.safetensors"))
    limit = (
        "import numpy, ml_dtypes, mindformers.models.glm2.convert_weight, rich.progress\n"
        "from mindformers.checkpoint import tensor_file\n"
        "tensor_file.BLOCK_BYTES = 2**20\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {shard // 2},) * 2)"
    )
    for output in ("out", "out.ckpt"):
        done = run_python("-c", CONVERT.format(before=limit), source, tmp_path / output)
        assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("output", ["out", "out.ckpt", "out.safetensors"])
def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path, sent, code, output):
    source = big_directory(tmp_path / "hf")
    stop = (
        "from mindformers.checkpoint import tensor_io, ckpt_io, tensor_file\n"
        "tensor_file.BLOCK_BYTES = 2**20\n"
        "plain, count = tensor_file.TensorFile.read, [0]\n"
        "def read(*a):\n"
        "    count[0] += 1\n"
        f"    if count[0] == 20: os.kill(os.getpid(), {int(sent)})\n"
        "    return plain(*a)\n"
        "tensor_file.TensorFile.read = read\n"
        "from mindformers.guard import run_guarded\n"
        "sys.exit(run_guarded(convert.main, ['--model', 'glm4', '--input_path', sys.argv[1], "
        "'--output_path', sys.argv[2]]))"
    )
    done = run_python("-c", CONVERT.format(before=stop), source, tmp_path / output)
    assert done.returncode == code, done.stderr[-2000:]
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_a_killed_conversion_is_cleaned_up_by_the_next(tmp_path):
    source = write_hf_directory(tmp_path / "hf", tiny_config(), glm_arrays(tiny_config()))
    kill = (
        "from mindformers.checkpoint import saving\n"
        "saving._swap = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run_python("-c", CONVERT.format(before=kill), source, tmp_path / "out")
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the input and a hidden folder
    done = run_python("-c", CONVERT.format(before=""), source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "out"]


def test_paths_with_chinese_spaces_dots_and_links_work(tmp_path):
    config = tiny_config()
    real = tmp_path / "a b" / "权重"
    write_hf_directory(real, config, glm_arrays(config))
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / ".." / "输 出"
    done = run_python("-c", CONVERT.format(before=""), tmp_path / "link", target)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "输 出" / "model.safetensors").is_file()


def test_a_full_disk_stops_a_conversion_before_it_starts(tmp_path):
    source = write_hf_directory(tmp_path / "hf", tiny_config(), glm_arrays(tiny_config()))
    full = (
        "import shutil; from mindformers.checkpoint import atomic\n"
        "usage = shutil.disk_usage('/')\n"
        "atomic.shutil.disk_usage = lambda _: usage._replace(free=100)\n"
        "from mindformers.guard import run_guarded\n"
        "sys.exit(run_guarded(convert.main, ['--model', 'glm4', '--input_path', sys.argv[1], "
        "'--output_path', sys.argv[2]]))"
    )
    done = run_python("-c", CONVERT.format(before=full), source, tmp_path / "out")
    assert done.returncode == 2
    assert re.search(r"no space left \(\d+ bytes needed, 100 bytes free\)", done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]

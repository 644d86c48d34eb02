import logging
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from mindformers.errors import DeviceError
from mindformers.parallel import runtime
from mindformers.parallel.layout import Layout


@pytest.fixture
def releases(monkeypatch):
    """What importlib.metadata finds; a test changes it."""
    found = {"mindspore": runtime.TESTED_MINDSPORE, "numpy": "1.26.4"}

    def version(package):
        if package not in found:
            raise metadata.PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(metadata, "version", version)
    return found


@pytest.fixture
def warnings_seen(monkeypatch):
    """Messages of warnings; what was warned about earlier in this process is forgotten."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    monkeypatch.setattr(sys.modules["mindformers.logger"], "_seen_once", set())
    runtime.logger.addHandler(handler)
    yield seen
    runtime.logger.removeHandler(handler)


class FakeMindSpore(SimpleNamespace):
    """Records the calls that set MindSpore up."""

    __version__ = "2.10.0"

    def __init__(self):
        calls = []

        def record(name):
            return lambda *args, **kwargs: calls.append((name, *args, *sorted(kwargs.items())))

        super().__init__(
            calls=calls,
            **{
                name: record(name)
                for name in ("set_device", "set_context", "set_recursion_limit", "set_seed")
            },
            get_context={"device_target": "CPU", "device_id": 0}.get,
            runtime=SimpleNamespace(
                set_memory=record("set_memory"), launch_blocking=record("launch_blocking")
            ),
        )


@pytest.fixture
def mindspore(monkeypatch, releases):
    fake = FakeMindSpore()
    monkeypatch.setitem(sys.modules, "mindspore", fake)
    return fake


@pytest.fixture
def npu(monkeypatch, tmp_path):
    """A machine with one NPU."""
    (tmp_path / "davinci0").touch()
    monkeypatch.setattr(runtime, "Path", lambda name: tmp_path)


def test_the_tested_releases_pass_without_a_word(releases, warnings_seen):
    runtime.check_versions()
    assert warnings_seen == []


@pytest.mark.parametrize("release", [(3, 10, 0), (3, 11, 7), (3, 12, 9)])
def test_each_supported_python_passes(monkeypatch, releases, release):
    monkeypatch.setattr(runtime.sys, "version_info", release)
    runtime.check_versions()


@pytest.mark.parametrize("release", [(3, 9, 18), (3, 13, 0)])
def test_another_python_is_refused(monkeypatch, releases, release):
    text = ".".join(map(str, release))
    monkeypatch.setattr(runtime.sys, "version_info", release)
    monkeypatch.setattr(runtime.sys, "version", f"{text} (main) [GCC]")
    with pytest.raises(DeviceError) as caught:
        runtime.check_versions()
    assert str(caught.value) == (
        f"Python {text}; allowed: Python 3.10 to 3.12; make a virtual environment with one of those"
    )


def test_missing_mindspore_is_named_with_the_command_that_installs_it(releases):
    del releases["mindspore"]
    with pytest.raises(DeviceError) as caught:
        runtime.check_versions()
    assert str(caught.value) == (
        "MindSpore is not installed; allowed: mindspore 2.10.0; run: pip install mindspore==2.10.0"
    )
    assert caught.value.exit_code == 2


def test_another_mindspore_is_warned_about_once(releases, warnings_seen):
    releases["mindspore"] = "2.9.1"
    runtime.check_versions()
    runtime.check_versions()
    assert warnings_seen == ["MindSpore 2.9.1 is installed; this release was tested with 2.10.0"]


@pytest.mark.parametrize("release", ["2.0.0rc1", "2.2.6", "10.0"])
def test_numpy_2_and_later_is_refused(releases, release):
    releases["numpy"] = release
    with pytest.raises(DeviceError) as caught:
        runtime.check_versions()
    assert str(caught.value) == (
        f"NumPy {release} with MindSpore 2.10.0; allowed: numpy>=1.25,<2; "
        "run: pip install 'numpy>=1.25,<2'"
    )


def test_missing_numpy_is_named(releases):
    del releases["numpy"]
    with pytest.raises(DeviceError, match=r"^NumPy is not installed; allowed: numpy>=1\.25,<2; "):
        runtime.check_versions()


def test_a_wrong_installation_is_reported_before_mindspore_is_loaded(monkeypatch, releases):
    monkeypatch.setitem(sys.modules, "mindspore", None)  # importing it would be another error
    releases["numpy"] = "2.2.6"
    with pytest.raises(DeviceError, match=r"^NumPy 2\.2\.6"):
        runtime.start_runtime()


def test_mindspore_that_cannot_be_loaded_is_one_line(monkeypatch, releases):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    with pytest.raises(DeviceError) as caught:
        runtime.start_runtime()
    assert str(caught.value).startswith("MindSpore cannot be loaded: import of mindspore halted")
    assert str(caught.value).endswith("pip install --force-reinstall mindspore==2.10.0")


def test_a_share_without_a_launcher_is_refused_before_anything_else(mindspore, releases):
    releases.clear()
    with pytest.raises(DeviceError) as caught:
        runtime.start_runtime(layout=Layout(data=2))
    assert str(caught.value) == (
        "use_parallel is True, but this is a process on its own; allowed: processes started by a "
        'launcher; start with: bash scripts/msrun_launcher.sh "run_mindformer.py ..." NUMBER, '
        "or add --use_parallel False"
    )
    assert mindspore.calls == []


def test_a_whole_run_in_each_of_several_processes_is_refused(monkeypatch, releases):
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    with pytest.raises(DeviceError, match="4 processes were started, but use_parallel is False"):
        runtime.check_machine("CPU")


def test_the_rank_is_the_launchers(monkeypatch):
    assert (runtime.launched_processes(), runtime.launched_rank()) == (1, 0)
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    monkeypatch.setenv("RANK_ID", "3")
    assert (runtime.launched_processes(), runtime.launched_rank()) == (4, 3)


def test_ascend_without_an_npu_is_refused(monkeypatch, tmp_path, mindspore):
    monkeypatch.setattr(runtime, "Path", lambda name: tmp_path)
    with pytest.raises(DeviceError) as caught:
        runtime.start_runtime(device_target="Ascend")
    assert str(caught.value) == (
        "no NPU found on this machine (device_target Ascend); allowed: CPU here; "
        "add --device_target CPU"
    )
    assert mindspore.calls == []


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError])
def test_a_device_mindspore_refuses_is_its_first_line(mindspore, kind):
    def refuse(*args):
        raise kind("no such device\n----\nframes of C++")

    mindspore.set_device = refuse
    with pytest.raises(DeviceError) as caught:
        runtime.start_runtime(device_target="GPU")
    assert str(caught.value) == (
        "device_target GPU: no such device; allowed: CPU or Ascend; check the MindSpore installation"
    )
    assert isinstance(caught.value.__cause__, kind)


def test_an_error_without_a_text_is_reported_too(mindspore):
    def refuse(*args):
        raise RuntimeError

    mindspore.set_device = refuse
    with pytest.raises(DeviceError, match=r"^device_target GPU: RuntimeError; "):
        runtime.start_runtime(device_target="GPU")


def test_a_device_in_use_can_be_asked_for_but_not_changed():
    script = (
        "import mindspore as ms\n"
        "from mindformers.parallel.runtime import start_runtime\n"
        "print((ms.Tensor([1.0]) + 1).asnumpy())\n"  # from here on MindSpore refuses set_device
        "start_runtime(device_target='CPU', mode=1, seed=1)\n"
        "print((ms.Tensor([2.0]) + 1).asnumpy())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["[2.]", "[3.]"], done.stderr


@pytest.mark.parametrize(("device_id", "is_refused"), [(0, False), (1, True)])
def test_an_npu_in_use_is_the_one_that_may_be_asked_for(mindspore, npu, device_id, is_refused):
    def refuse(*args):
        raise RuntimeError("The runtime has been initialized")

    mindspore.set_device = refuse
    mindspore.get_context = {"device_target": "Ascend", "device_id": 0}.get
    if is_refused:
        with pytest.raises(DeviceError, match="has been initialized"):
            runtime.start_runtime(device_target="Ascend", device_id=device_id)
    else:
        runtime.start_runtime(device_target="Ascend", device_id=device_id)


def test_graph_mode_on_a_cpu_takes_no_device_number(mindspore):
    runtime.start_runtime(device_target="CPU", mode=runtime.GRAPH_MODE, device_id=3)
    assert mindspore.calls == [("set_device", "CPU", None), ("set_context", ("mode", 0))]


def test_pynative_mode_on_a_cpu_launches_blocking(mindspore):
    runtime.start_runtime(device_target="CPU", mode=runtime.PYNATIVE_MODE, seed=7)
    assert mindspore.calls[1:] == [
        ("set_context", ("mode", 1)),
        ("launch_blocking",),
        ("set_seed", 7),
    ]


def test_a_seed_of_0_is_set_and_none_leaves_the_generators_alone(mindspore):
    runtime.start_runtime(seed=0)
    assert mindspore.calls[-1] == ("set_seed", 0)
    mindspore.calls.clear()
    runtime.start_runtime(seed=None)
    assert "set_seed" not in [name for name, *_ in mindspore.calls]


def test_an_npu_gets_its_number_and_its_memory_limit(mindspore, npu):
    runtime.start_runtime(
        device_target="Ascend", device_id=3, mode=1, max_device_memory="58GB", save_graphs=False
    )
    assert mindspore.calls == [
        ("set_device", "Ascend", 3),
        ("set_context", ("mode", 1)),
        ("set_memory", ("max_size", "58GB")),
    ]


def test_a_memory_limit_means_nothing_on_a_cpu(mindspore):
    runtime.start_runtime(device_target="CPU", max_device_memory="58GB")
    assert "set_memory" not in [name for name, *_ in mindspore.calls]


@pytest.mark.parametrize(
    ("options", "folder"), [({}, "./graph"), ({"save_graphs_path": "/tmp/ir"}, "/tmp/ir")]
)
def test_graphs_are_saved_where_asked(mindspore, options, folder):
    runtime.start_runtime(save_graphs=True, max_call_depth=5000, **options)
    assert mindspore.calls[2:] == [
        ("set_recursion_limit", 5000),
        ("set_context", ("save_graphs", True), ("save_graphs_path", folder)),
    ]


@pytest.mark.parametrize(("mode", "text"), [(0, "graph mode"), (1, "PyNative mode")])
def test_the_log_says_what_was_started(mindspore, monkeypatch, mode, text):
    lines = []
    monkeypatch.setattr(runtime.logger, "info", lambda form, *args: lines.append(form % args))
    runtime.start_runtime(mode=mode)
    assert lines == [f"MindSpore 2.10.0 on CPU, {text}"]


def test_the_device_nobody_chose_is_what_mindspore_would_take(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    monkeypatch.setattr(runtime, "_has_npu", lambda: False)
    assert runtime.default_device() == "CPU"
    monkeypatch.setattr(runtime, "_has_npu", lambda: True)
    assert runtime.default_device() == "Ascend"
    loaded = SimpleNamespace(get_context={"device_target": "CPU"}.get)
    monkeypatch.setitem(sys.modules, "mindspore", loaded)
    assert runtime.default_device() == "CPU"


def test_the_module_and_its_check_load_no_mindspore():
    code = (
        "import sys; from mindformers.parallel.runtime import check_versions; check_versions();"
        "print([name for name in ('mindspore', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_reports_a_missing_mindspore_in_one_line(tmp_path):
    code = (
        "import sys\n"
        "from importlib import metadata\n"
        "real = metadata.version\n"
        "def version(name):\n"
        "    if name == 'mindspore':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
        "sys.modules['mindspore'] = None\n"
        "from mindformers.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["run", "--config", "configs/glm4/predict_glm4_tiny_cpu.yaml", "--run_mode"]
    command += ["predict", "--predict_data", "Hi", "--load_checkpoint", ""]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: MindSpore is not installed; ")
    assert "Traceback" not in done.stderr

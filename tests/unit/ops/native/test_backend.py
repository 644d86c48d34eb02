"""Which form of the operators is used: the settings, the environment, and that both give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers.errors import ConfigError, DeviceError
from mindformers.ops.native import library
from mindformers.tasks.build import choose_kernels
from tests.support.compare import MODEL_FP32, assert_close
from tests.support.config_files import bind, refused
from tests.support.generation import fresh_warnings
from tests.support.glm_files import tiny_config

needs_kernels = pytest.mark.skipif(library.kernels() is None, reason="there are no kernels here")
CPU = {"device_target": "CPU"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.BACKEND_VARIABLE, raising=False)
    monkeypatch.delenv("MINDFORMERS_THREADS", raising=False)


@needs_kernels
def test_the_settings_choose_the_form_and_the_threads() -> None:
    choose_kernels(bind(context=CPU, ops={"backend": "portable"}))
    assert library.is_native() is False
    choose_kernels(bind(context=CPU, ops={"backend": "native", "threads": 3}))
    assert library.is_native() is True
    assert library.required().mf_threads() == 3
    choose_kernels(bind(context=CPU))
    assert library.is_native() is True
    assert library.required().mf_threads() == library.wanted_threads()


@needs_kernels
def test_auto_leaves_the_choice_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.BACKEND_VARIABLE, "portable")
    monkeypatch.setenv("MINDFORMERS_THREADS", "5")
    choose_kernels(bind(context=CPU, ops={"backend": "auto", "threads": 0}))
    assert library.is_native() is False
    assert library.required().mf_threads() == 5
    choose_kernels(bind(context=CPU, ops={"backend": "native"}))
    assert library.is_native() is True


def test_an_npu_run_touches_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_opened", [None])
    choose_kernels(bind(context={"device_target": "Ascend"}, ops={"backend": "native"}))


def test_threads_without_kernels_to_use_them_are_mentioned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_warnings(monkeypatch)
    choose_kernels(bind(context=CPU, ops={"backend": "portable", "threads": 2}))
    assert "ops.threads has no effect with ops.backend portable" in caplog.text


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ({"backend": "fast"}, "ops.backend"),
        ({"threads": -1}, "ops.threads"),
        ({"threads": 1025}, "ops.threads"),
        ({"threads": "two"}, "ops.threads"),
        ({"thread": 2}, "threads"),
    ],
)
def test_a_wrong_setting_is_reported_by_its_key(ops: dict, message: str) -> None:
    assert message in refused(ops=ops)


def test_a_wrong_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.BACKEND_VARIABLE, "gpu")
    with pytest.raises(ConfigError) as caught:
        library.is_native()
    assert str(caught.value) == "MINDFORMERS_BACKEND: found 'gpu'; allowed: auto, native, portable"


def test_native_that_cannot_be_had_is_an_error_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_opened", [None])
    assert library.is_native() is False
    monkeypatch.setenv(library.BACKEND_VARIABLE, "native")
    with pytest.raises(
        DeviceError, match="MINDFORMERS_BACKEND: native, but the CPU kernels cannot"
    ):
        library.is_native()


@pytest.mark.parametrize("count", [-1, 1025, 1.5, "2", True, None])
def test_a_thread_count_that_is_none_is_refused(count: object) -> None:
    with pytest.raises(ConfigError, match="threads: found"):
        library.set_threads(count)  # type: ignore[arg-type]


@needs_kernels
def test_random_batches_give_the_portable_networks_logits(pynative: None) -> None:
    from mindformers.generation.native_runner import NativeRunner
    from mindformers.generation.runner import CachedRunner
    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration

    library.choose_backend("native")
    network = ChatGLM2ForConditionalGeneration(tiny_config(num_blocks=40, block_size=4))
    network.set_train(False)
    native = network.build_runner(True)
    assert isinstance(native, NativeRunner)
    portable = CachedRunner(network)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(st.integers(0, 47), min_size=1, max_size=20), min_size=1, max_size=4))
    def compare(prompts: list[list[int]]) -> None:
        assert_close(native.prefill(prompts), portable.prefill(prompts), MODEL_FP32)
        rows = np.arange(len(prompts))
        for _ in range(2):
            tokens = (rows * 7 % 48).astype(np.int32)
            assert_close(native.decode(tokens, rows), portable.decode(tokens, rows), MODEL_FP32)
            rows = rows[len(rows) // 2 :]
        native.release()
        portable.release()

    compare()


@needs_kernels
def test_weights_set_anew_while_text_is_generated_cannot_pull_memory_away(pynative: None) -> None:
    import mindspore as ms

    from mindformers.models.glm2.glm2 import ChatGLM2ForConditionalGeneration

    library.choose_backend("native")
    network = ChatGLM2ForConditionalGeneration(tiny_config(num_blocks=40, block_size=4))
    network.set_train(False)
    runner = network.build_runner(True)
    first = runner.prefill([[1, 2, 3]])
    before = runner.decode(np.array([4], np.int32), np.array([0]))
    runner.release()
    np.testing.assert_array_equal(runner.prefill([[1, 2, 3]]), first)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(np.zeros(parameter.shape, np.float32)))
    litter = [np.full(4096, np.nan, np.float32) for _ in range(200)]  # takes what was let go
    np.testing.assert_array_equal(runner.decode(np.array([4], np.int32), np.array([0])), before)
    assert len(litter) == 200
    runner.release()
    np.testing.assert_array_equal(runner.prefill([[1, 2, 3]]), np.zeros_like(first))

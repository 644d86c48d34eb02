"""A GLM with rounded weights: at load, from a converted directory, in the native and the portable form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.quantized import Scheme
from mindformers.checkpoint.quantized_files import Description
from mindformers.errors import CheckpointError, ConfigError
from mindformers.models.auto import AutoModel, open_in_files
from mindformers.models.glm2.convert_quantized import QuantizeOptions, convert_quantized
from mindformers.models.glm2.convert_reversed import convert_ms_to_pt
from mindformers.models.glm2.glm2_calibration import CalibrationWalk, rms_norm
from mindformers.models.glm2.glm2_in_files import GlmInFiles
from mindformers.ops.native.library import choose_backend
from tests.support.model_dir import write_model_dir

SIZES = {"hidden_size": 64, "ffn_hidden_size": 96, "kv_channels": 16}
ROUNDED_INPUTS = 2e-2  # of the largest logit: the native form rounds activations to int8 too
PROMPT = list(range(3, 40))
needs_kernels = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_dir(tmp_path_factory.mktemp("model") / "float", **SIZES)


@pytest.fixture(scope="module", params=["int8", "int4"])
def converted(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    target = tmp_path_factory.mktemp("converted") / request.param
    wanted = QuantizeOptions(request.param, symmetric=request.param == "int8", embedding="int8")
    return request.param, convert_quantized(model_dir, target, wanted)


def logits_of(model: object) -> np.ndarray:
    runner = model.build_runner(True)  # type: ignore[attr-defined]
    first = runner.prefill([PROMPT])
    return np.concatenate([first, runner.decode(np.array([7], np.int32), np.array([0]))])


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@needs_kernels
def test_a_directory_opens_with_rounded_weights_and_answers_nearly_the_same(
    model_dir: Path,
) -> None:
    exact = logits_of(open_in_files(model_dir))
    assert 0 < distance(logits_of(open_in_files(model_dir, quantization="int8")), exact) < 0.05
    assert 0 < distance(logits_of(open_in_files(model_dir, quantization="int4")), exact) < 0.5


@needs_kernels
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_portable_form_computes_with_the_same_rounded_weights(
    model_dir: Path, kind: str
) -> None:
    native = AutoModel.from_pretrained(model_dir, quantization=kind)
    assert isinstance(native, GlmInFiles)
    choose_backend("portable")
    portable = AutoModel.from_pretrained(model_dir, quantization=kind)
    assert not isinstance(portable, GlmInFiles)
    assert distance(logits_of(native), logits_of(portable)) < ROUNDED_INPUTS


@needs_kernels
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_norms_behind_attention_and_mlp_compute_with_rounded_weights_too(
    tmp_path: Path, kind: str
) -> None:
    norms = {"post_self_attn_layernorm": True, "post_mlp_layernorm": True, "add_qkv_bias": False}
    folder = write_model_dir(tmp_path / "model", **SIZES, **norms)
    exact = logits_of(open_in_files(folder))
    rows = [np.array(PROMPT, np.int32), np.array([9, 8, 7], np.int32)]
    options = QuantizeOptions(kind, rows=rows)
    converted = convert_quantized(folder, tmp_path / kind, options)
    native = logits_of(AutoModel.from_pretrained(converted))
    assert 0 < distance(native, exact) < (0.05 if kind == "int8" else 0.5)
    choose_backend("portable")
    # A norm behind a branch brings what the branch gives, rounding included, to the size of the stream.
    portable = logits_of(AutoModel.from_pretrained(converted))
    assert distance(native, portable) < 2 * ROUNDED_INPUTS


@needs_kernels
def test_a_converted_directory_answers_the_same_in_both_forms(
    converted: tuple[str, Path],
) -> None:
    native = AutoModel.from_pretrained(converted[1])
    assert isinstance(native, GlmInFiles)
    choose_backend("portable")
    portable = AutoModel.from_pretrained(converted[1])
    assert distance(logits_of(native), logits_of(portable)) < ROUNDED_INPUTS


@needs_kernels
def test_converting_gives_what_rounding_at_load_gives(model_dir: Path, tmp_path: Path) -> None:
    folder = convert_quantized(model_dir, tmp_path / "int4", QuantizeOptions("int4"))
    at_load = open_in_files(model_dir, quantization="int4")
    np.testing.assert_array_equal(logits_of(open_in_files(folder)), logits_of(at_load))


def test_the_header_says_what_is_rounded_and_how(converted: tuple[str, Path]) -> None:
    kind, folder = converted
    with open_weights(folder) as source:
        found = source.description
        assert found is not None
        bits, group = (8, 64) if kind == "int8" else (4, 32)
        # 96 columns have no groups of 64
        assert found.scheme == Scheme(bits, min(group, 32), symmetric=kind == "int8")
        assert found.excluded == ()
        assert source.quantized["transformer.output_layer.weight"].scheme.bits == 8
        assert source.quantized["transformer.embedding.embedding_weight"].scheme.bits == 8
        assert source.config()["quantization"] == kind


def test_converted_weights_are_a_fraction_in_size(
    model_dir: Path, converted: tuple[str, Path]
) -> None:
    before, after = (
        sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (model_dir, converted[1])
    )
    assert after < before * (0.35 if converted[0] == "int8" else 0.32)


def test_a_converted_directory_goes_back_to_hugging_face_in_float32(
    converted: tuple[str, Path], tmp_path: Path
) -> None:
    back = convert_ms_to_pt(converted[1], tmp_path / "hf")
    with open_weights(back) as source, open_weights(converted[1]) as rounded:
        np.testing.assert_array_equal(
            source.read("lm_head.weight"), rounded.read("transformer.output_layer.weight")
        )


@needs_kernels
def test_weights_of_another_width_than_asked_for_are_refused(
    converted: tuple[str, Path],
) -> None:
    other = "int4" if converted[0] == "int8" else "int8"
    with pytest.raises(ConfigError, match=f"the weights are {converted[0]} already, not {other}"):
        open_in_files(converted[1], quantization=other)


def test_quantized_weights_are_not_quantized_again(
    converted: tuple[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is quantized already"):
        convert_quantized(converted[1], tmp_path / "again", QuantizeOptions("int4"))


def test_a_group_that_does_not_fit_names_the_weight(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dense_4h_to_h\.weight: 96 columns in groups of 64"):
        convert_quantized(model_dir, tmp_path / "x", QuantizeOptions("int8", group=64))
    assert not (tmp_path / "x").exists()


def test_matrices_without_groups_are_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_model_dir(tmp_path / "odd", hidden_size=64, ffn_hidden_size=72)
    folder = convert_quantized(source, tmp_path / "int8", QuantizeOptions("int8"))
    assert "2 matrices are not rounded" in caplog.text
    with open_weights(folder) as weights:
        assert weights.description is not None
        odd = "transformer.encoder.layers.{}.mlp.dense_4h_to_h.weight"
        assert set(weights.description.excluded) == {
            *(odd.format(i) for i in range(2)),
            "transformer.embedding.embedding_weight",
        }


@needs_kernels
@pytest.mark.parametrize("extra_norms", [False, True])
def test_the_walk_over_layers_computes_what_the_network_computes(
    tmp_path: Path, extra_norms: bool
) -> None:
    norms = {"post_self_attn_layernorm": extra_norms, "post_mlp_layernorm": extra_norms}
    folder = write_model_dir(tmp_path / "model", **SIZES, **norms, add_qkv_bias=True)
    model = open_in_files(folder)
    with open_weights(folder) as source:
        names = [n for n, shape in source.shapes.items() if len(shape) == 2]
        walk = CalibrationWalk(
            model.config,
            source.read,
            source.read("transformer.embedding.embedding_weight"),
            [np.array([9, 8, 7], np.int32), np.array(PROMPT, np.int32)],
        )
        nothing = Description(Scheme(8, 32), excluded=tuple(names))
        for index in range(model.config.num_layers):
            assert walk.next_layer(index, nothing) == {}
        norm = source.read("transformer.encoder.final_layernorm.weight")
        last = rms_norm(walk.hidden[-1:], norm, model.config.layernorm_epsilon)
        logits = last @ source.read("transformer.output_layer.weight").T
    np.testing.assert_allclose(logits, model.build_runner(True).prefill([PROMPT]), atol=1e-4)

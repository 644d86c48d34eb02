from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mindformers.checkpoint.ckpt_io import CkptFile
from mindformers.checkpoint.export import ExportOptions
from mindformers.checkpoint.loading import open_weights
from mindformers.checkpoint.manifest import write_step_folder
from mindformers.checkpoint.tensor_io import SafeFile
from mindformers.errors import CheckpointError, ConfigError, MindFormersError
from mindformers.models.glm2.convert_reversed import convert_ms_to_pt
from mindformers.models.glm2.convert_weight import convert_pt_to_ms, convert_to_qkv_concat
from tests.support.glm_files import (
    Arrays,
    chatglm_arrays,
    glm_arrays,
    our_arrays,
    same_bytes,
    tiny_config,
    write_file,
    write_hf_directory,
)

CONFIG = tiny_config()


def read(path: Path) -> Arrays:
    with open_weights(path) as source:
        return {name: source.read(name) for name in source.tensors}


def write_yaml(path: Path, **changes) -> Path:
    fields = {**tiny_config().to_dict(), **changes}
    fields = {k: v for k, v in fields.items() if v is not None and v != []}
    content = {"model": {"model_config": {"type": "ChatGLM2Config", **fields}}}
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("layout", ["glm", "chatglm"])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("middle", ["ms", "ms.ckpt", "ms.safetensors"])
def test_there_and_back_gives_the_same_bytes(tmp_path, dtype, layout, concat, middle):
    arrays = glm_arrays(CONFIG, dtype)
    stored = arrays if layout == "glm" else chatglm_arrays(arrays)
    source = write_hf_directory(tmp_path / "hf", CONFIG, stored, layout, shards=3)
    yaml = write_yaml(tmp_path / "run.yaml", qkv_concat=concat, mlp_concat=concat)
    there = convert_pt_to_ms(source, tmp_path / middle, dtype, config=yaml)
    assert same_bytes(read(there), our_arrays(arrays, concat=concat))
    back = convert_ms_to_pt(there, tmp_path / "back", config=yaml, layout=layout)
    stored.pop("transformer.rotary_pos_emb.inv_freq", None)
    assert same_bytes(read(back), stored)


def test_forward_writes_float32_when_no_type_is_given(tmp_path):
    arrays = glm_arrays(CONFIG, "bf16")
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    found = read(convert_pt_to_ms(source, tmp_path / "a.safetensors"))
    expected = {n: a.astype(np.float32) for n, a in our_arrays(arrays).items()}
    assert same_bytes(found, expected)


def test_a_folder_carries_configuration_tokenizer_and_the_ids_that_end(tmp_path):
    source = write_hf_directory(tmp_path / "hf", CONFIG, glm_arrays(CONFIG))
    there = convert_pt_to_ms(source, tmp_path / "ms")
    back = convert_ms_to_pt(there, tmp_path / "back")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (back / name).read_bytes() == (source / name).read_bytes()
    generation = json.loads((back / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [44, 45, 46], "pad_token_id": 44, "top_p": 0.8}
    assert json.loads((back / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


def test_an_export_without_generation_settings_gets_the_end_ids_and_a_hint(tmp_path, caplog):
    source = write_file(tmp_path / "in" / "a.safetensors", our_arrays(glm_arrays(CONFIG)))
    yaml = write_yaml(tmp_path / "run.yaml")
    back = convert_ms_to_pt(source, tmp_path / "back", config=yaml)
    generation = json.loads((back / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [44, 45, 46], "pad_token_id": 44}
    assert "no tokenizer beside" in caplog.text


def test_the_dtype_of_an_export_is_in_its_config_json(tmp_path):
    source = write_hf_directory(tmp_path / "hf", CONFIG, glm_arrays(CONFIG, "bf16"))
    there = convert_pt_to_ms(source, tmp_path / "ms", "bf16")
    kept = convert_ms_to_pt(there, tmp_path / "kept")
    assert json.loads((kept / "config.json").read_text())["torch_dtype"] == "bfloat16"
    half = convert_ms_to_pt(there, tmp_path / "half", "fp16")
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "float16"
    assert {a.dtype.name for a in read(half).values()} == {"float16"}


def test_an_output_folder_can_hold_a_ckpt(tmp_path):
    source = write_hf_directory(tmp_path / "hf", CONFIG, glm_arrays(CONFIG))
    there = convert_pt_to_ms(source, tmp_path / "ms", options=ExportOptions(output_format="ckpt"))
    with CkptFile(there / "model.ckpt") as file:
        assert file.tensors.keys() == our_arrays(glm_arrays(CONFIG)).keys()


def test_training_state_is_not_exported(tmp_path):
    arrays = our_arrays(glm_arrays(CONFIG))
    extra = {f"adam_v.{n}": a for n, a in arrays.items()} | {"step_num": np.array(3)}
    source = write_file(tmp_path / "in" / "a.safetensors", arrays | extra)
    back = convert_ms_to_pt(source, tmp_path / "back", config=write_yaml(tmp_path / "run.yaml"))
    assert same_bytes(read(back), glm_arrays(CONFIG))


def test_a_step_of_a_training_run_is_exported_without_a_yaml(tmp_path):
    weights = "rank_0/CKP_rank_0-1_5.safetensors"
    arrays = glm_arrays(CONFIG)
    writers = {
        weights: lambda p: write_file(p, our_arrays(arrays)),
        "config.yaml": lambda p: write_yaml(p),
    }
    step = write_step_folder(tmp_path / "ckpt", "step_5", writers, {"step": 5, "weights": weights})
    back = convert_ms_to_pt(step, tmp_path / "back")
    assert same_bytes(read(back), arrays)
    assert json.loads((back / "config.json").read_text())["num_hidden_layers"] == 2


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_split_weights_of_one_file_are_fused(tmp_path, suffix):
    arrays = glm_arrays(CONFIG, "bf16")
    yaml = write_yaml(tmp_path / "run.yaml", qkv_concat=False, mlp_concat=False)
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    split = convert_pt_to_ms(source, tmp_path / f"split.{suffix}", "bf16", config=yaml)
    fused = convert_to_qkv_concat(split, tmp_path / f"fused.{suffix}")
    assert same_bytes(read(fused), our_arrays(arrays))


def test_each_rank_is_fused_by_itself(tmp_path):
    split = our_arrays(glm_arrays(CONFIG), concat=False)
    by_rank = [
        {n: np.split(a, 2)[rank] if ".w" in n or "dense_l" in n or "dense_r" in n else a
         for n, a in split.items()}
        for rank in range(2)
    ]  # fmt: skip
    for rank, arrays in enumerate(by_rank):
        write_file(tmp_path / "in" / f"rank_{rank}" / f"checkpoint_{rank}.safetensors", arrays)
    out = convert_to_qkv_concat(tmp_path / "in", tmp_path / "out")
    for rank, arrays in enumerate(by_rank):
        with SafeFile(out / f"rank_{rank}" / f"checkpoint_{rank}.safetensors") as file:
            layer = "transformer.encoder.layers.1."
            attention = layer + "self_attention."
            qkv = np.concatenate([arrays[f"{attention}w{x}.weight"] for x in "qkv"])
            assert (file.read(attention + "query_key_value.weight") == qkv).all()
            assert len(file.read(attention + "query_key_value.bias")) == 16  # half of 32 rows
            gate_up = [arrays[f"{layer}mlp.dense_{side}.weight"] for side in ("left", "right")]
            assert (file.read(layer + "mlp.dense_h_to_4h.weight") == np.concatenate(gate_up)).all()
            assert not [name for name in file.tensors if ".wq" in name or "dense_left" in name]


def test_fusing_a_folder_keeps_its_configuration_and_tokenizer(tmp_path):
    source = write_hf_directory(tmp_path / "hf", CONFIG, glm_arrays(CONFIG))
    yaml = write_yaml(tmp_path / "run.yaml", qkv_concat=False, mlp_concat=False)
    split = convert_pt_to_ms(source, tmp_path / "split", config=yaml)
    assert json.loads((split / "config.json").read_text())["qkv_concat"] is False
    fused = convert_to_qkv_concat(split, tmp_path / "fused")
    config = json.loads((fused / "config.json").read_text())
    assert config["qkv_concat"] is True
    assert config["mlp_concat"] is True
    assert (fused / "tokenizer.model").is_file()
    assert same_bytes(read(fused), our_arrays(glm_arrays(CONFIG)))


def hf(tmp_path: Path, **_) -> Path:
    return write_hf_directory(tmp_path / "hf", CONFIG, glm_arrays(CONFIG))


def ours(tmp_path: Path, concat: bool = True) -> Path:
    return write_file(
        tmp_path / "in" / "a.safetensors", our_arrays(glm_arrays(CONFIG), concat=concat)
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda t: convert_to_qkv_concat(hf(t), t / "o.ckpt"), "has Hugging Face names.*convert it first"),
        (lambda t: convert_ms_to_pt(hf(t), t / "o"), "has Hugging Face names .glm layout. already"),
        (
            lambda t: convert_pt_to_ms(ours(t), t / "o", config=write_yaml(t / "r.yaml")),
            "has MindFormers' names already.*--reversed",
        ),
        (lambda t: convert_to_qkv_concat(ours(t), t / "o.ckpt"), "nothing to fuse: no wq, wk, wv"),
        (lambda t: convert_ms_to_pt(ours(t), t / "o"), "config.json: not found; give the run's YAML"),
        (lambda t: convert_ms_to_pt(ours(t), t / "o.bin"), "pickle files are not written; allowed: a folder"),
        (lambda t: convert_ms_to_pt(ours(t), t / "o.ckpt"), "as .ckpt; allowed: safetensors"),
        (lambda t: convert_pt_to_ms(t / "nowhere", t / "o"), "nowhere: does not exist"),
        (lambda t: convert_pt_to_ms(hf(t), t / "o", "fp8"), "unknown weight type 'fp8'"),
        (
            lambda t: convert_pt_to_ms(hf(t), t / "o", config=write_yaml(t / "r.yaml", rope_ratio=500)),
            r"rope_ratio: 500\.0 in the run, 1\.0 with",
        ),
        (
            lambda t: convert_pt_to_ms(
                hf(t), t / "o.ckpt", options=ExportOptions(output_format="safetensors")
            ),
            "output format safetensors for a path with suffix .ckpt",
        ),
    ],
)  # fmt: skip
def test_a_wrong_input_is_a_clear_error_and_writes_nothing(tmp_path, run, message):
    with pytest.raises(MindFormersError, match=message):
        run(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("o", "."))]


def test_an_output_that_exists_is_kept_unless_forced(tmp_path):
    source = hf(tmp_path)
    out = convert_pt_to_ms(source, tmp_path / "out")
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="out: exists already; .*--force"):
        convert_pt_to_ms(source, tmp_path / "out", "bf16")
    assert (out / "model.safetensors").read_bytes() == before
    convert_pt_to_ms(source, tmp_path / "out", "bf16", options=ExportOptions(force=True))
    assert {a.dtype.name for a in read(out).values()} == {"bfloat16"}
    (out / "thesis.txt").write_text("x")
    with pytest.raises(CheckpointError, match="holds files that are no weights: thesis.txt"):
        convert_pt_to_ms(source, tmp_path / "out", options=ExportOptions(force=True))


def test_a_value_too_large_for_fp16_names_its_tensor_and_leaves_nothing(tmp_path):
    arrays = glm_arrays(CONFIG, "bf16")
    arrays["lm_head.weight"][0, 0] = ml_dtypes.bfloat16(1e6)
    source = write_hf_directory(tmp_path / "hf", CONFIG, arrays)
    with pytest.raises(CheckpointError, match="output_layer.weight: value 999424 does not fit"):
        convert_pt_to_ms(source, tmp_path / "out", "fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_an_interruption_leaves_nothing_and_a_second_run_works(tmp_path):
    source = hf(tmp_path)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    for name in ("out", "out.ckpt", "out.safetensors"):
        with pytest.raises(KeyboardInterrupt):
            convert_pt_to_ms(source, tmp_path / name, options=ExportOptions(progress=interrupt))
        assert [p.name for p in tmp_path.iterdir()] == ["hf"]
        convert_pt_to_ms(source, tmp_path / name)
        (tmp_path / name / "x").parent.rename(tmp_path.parent / f"{tmp_path.name}-{name}")


def test_progress_counts_every_byte(tmp_path):
    seen = []
    options = ExportOptions(start=lambda n: seen.append(-n), progress=seen.append)
    convert_pt_to_ms(hf(tmp_path), tmp_path / "out", options=options)
    assert sum(seen) == 0
    assert seen[0] < 0


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="layout 'mindformers'; allowed: glm or chatglm"):
        convert_ms_to_pt(ours(tmp_path), tmp_path / "o", layout="mindformers")

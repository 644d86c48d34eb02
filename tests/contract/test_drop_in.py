"""Scripts written for MindSpore Transformers: each documented usage, as its users write it."""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Model, Tensor

import mindformers
from mindformers.errors import ConfigError
from mindformers.upstream_paths import UPSTREAM_PATHS
from tests.support.mindrecords import write_numbered
from tests.support.model_dir import write_model_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mindformers.parallel.runtime import start_runtime

    start_runtime(device_target="CPU", mode=1)
    return write_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run_yaml(folder: Path, tmp_path: Path) -> Path:
    """A run's YAML over the tiny model, as a user edits one of configs/glm4."""
    from mindformers import AutoConfig

    data = write_numbered(tmp_path / "data.mindrecord", 8, seq_length=8)
    content = {
        "seed": 1,
        "output_dir": str(tmp_path / "output"),
        "load_checkpoint": str(folder),
        "context": {"mode": 1, "device_target": "CPU"},
        "model": {
            "model_config": {
                "type": "ChatGLM2Config",
                **AutoConfig.from_pretrained(folder).to_diff_dict(),
            },
            "arch": {"type": "ChatGLM2ForConditionalGeneration"},
        },
        "processor": {
            "type": "GLMProcessor",
            "tokenizer": {
                "type": "ChatGLM4Tokenizer",
                "vocab_file": str(folder / "tokenizer.model"),
            },
        },
        "train_dataset": {"data_loader": {"type": "MindDataset", "dataset_dir": str(data)}},
        "runner_config": {"epochs": 1, "batch_size": 4},
        "optimizer": {"type": "AdamW", "learning_rate": 1e-3},
        "callbacks": [{"type": "CheckpointMonitor", "save_checkpoint_steps": 2}],
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "from mindformers.core import CheckpointMonitor, MFLossMonitor",
        "from mindformers.core.callback import CheckpointMonitor, MFLossMonitor",
        "from mindformers.core.context import build_context, init_context",
        "from mindformers.core.loss import CrossEntropyLoss",
        "from mindformers.core.lr import CosineWithWarmUpLR, LinearWithWarmUpLR",
        "from mindformers.core.optim import AdamW",
        "from mindformers.core.parallel_config import build_parallel_config",
        "from mindformers.dataset import CausalLanguageModelDataset",
        "from mindformers.generation import GenerationConfig, TextStreamer, TextIteratorStreamer",
        "from mindformers.generation import LogitsProcessor, LogitsProcessorList",
        "from mindformers.generation.streamers import BaseStreamer",
        "from mindformers.models import ChatGLM2Config, ChatGLM2ForConditionalGeneration",
        "from mindformers.models import PretrainedConfig, PreTrainedModel, AutoConfig",
        "from mindformers.models.auto import AutoConfig, AutoModel, AutoTokenizer, AutoProcessor",
        "from mindformers.models.configuration_utils import PretrainedConfig",
        "from mindformers.models.glm2 import ChatGLM2Config, ChatGLM2ForConditionalGeneration",
        "from mindformers.models.glm2 import ChatGLM2Model, ChatGLM4Tokenizer, GLMProcessor",
        "from mindformers.models.glm2.convert_reversed import convert_ms_to_pt",
        "from mindformers.models.glm2.convert_weight import convert_pt_to_ms",
        "from mindformers.models.glm2.glm4_tokenizer import ChatGLM4Tokenizer",
        "from mindformers.models.modeling_utils import PreTrainedModel",
        "from mindformers.models.tokenization_utils import PreTrainedTokenizer",
        "from mindformers.pipeline import pipeline, TextGenerationPipeline",
        "from mindformers.tools import logger; logger.debug('x')",
        "from mindformers.tools.logger import logger; logger.debug('x')",
        "from mindformers.tools.register import MindFormerConfig, MindFormerModuleType",
        "from mindformers.tools.register import MindFormerRegister",
        "from mindformers.tools.register.config import MindFormerConfig",
        "from mindformers.trainer import Trainer, TrainingArguments",
        "from mindformers.trainer.utils import transform_and_load_checkpoint",
        "from mindformers.wrapper import MFTrainOneStepCell",
    ],
)
def test_the_documented_import_works(statement: str) -> None:
    exec(statement, {})


def test_an_old_path_gives_the_very_same_objects() -> None:
    for path, target in UPSTREAM_PATHS.items():
        module = importlib.import_module(path)
        assert target == "mindformers" or module is importlib.import_module(f"mindformers.{target}")
    from mindformers.core.optim import AdamW
    from mindformers.tools.register import MindFormerRegister

    assert AdamW is mindformers.AdamW
    assert MindFormerRegister is mindformers.MindFormerRegister
    with pytest.raises(ImportError, match="cannot import name 'Trainre'"):
        exec("from mindformers.trainer import Trainre", {})
    with pytest.raises(ImportError, match="cannot import name 'Trainer'"):
        exec("from mindformers.generation import Trainer", {})


def test_importing_the_path_of_pipeline_leaves_the_function_callable(folder: Path) -> None:
    importlib.import_module("mindformers.pipeline")
    for call in (importlib.import_module("mindformers").pipeline, mindformers.tasks.pipeline):
        assert call("text_generation", str(folder)).return_name == "text_generation"


def test_auto_classes_build_tokenizer_and_network(folder: Path) -> None:
    from mindformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(str(folder))
    config.use_past = True
    fresh = AutoModel.from_config(config, download_checkpoint=False)
    assert fresh.config.num_layers == 2
    network = AutoModelForCausalLM.from_pretrained(
        str(folder), config=config, trust_remote_code=True, revision="main", cache_dir=None
    )
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), use_fast=False, trust_remote_code=True, tokenizer_type="glm4_9b"
    )
    inputs = tokenizer("hello world")["input_ids"]
    outputs = network.generate(inputs, max_length=20, do_sample=False, top_k=1, top_p=1)
    assert isinstance(outputs, list)
    assert outputs[0].dtype == np.int32
    assert isinstance(tokenizer.decode(outputs), list)


def test_a_name_gives_the_configuration_of_the_published_yaml() -> None:
    from mindformers import AutoConfig, AutoModel, ChatGLM2Config

    published = {
        "glm4_9b": "glm4/predict_glm4_9b_chat.yaml",
        "glm2_6b": "glm2/predict_glm2_6b.yaml",
        "glm3_6b": "glm3/predict_glm3_6b.yaml",
    }
    assert AutoConfig.get_support_list() == list(published)
    for name, path in published.items():
        named = AutoConfig.from_pretrained(name).to_dict()
        written = AutoConfig.from_pretrained(ROOT / "configs" / path).to_dict()
        differing = {key for key in written if written[key] != named[key]}
        assert differing <= {"checkpoint_name_or_path", "auto_map"}, name
    assert ChatGLM2Config.from_pretrained("glm4_9b", seq_length=64).seq_length == 64
    with pytest.raises(ConfigError, match=r"glm4_9b: a name gives a configuration .* not files"):
        AutoModel.from_pretrained("glm4_9b")


def test_a_script_builds_the_network_from_the_yaml_and_loads_it(
    folder: Path, run_yaml: Path
) -> None:
    from mindformers.core.context import build_context
    from mindformers.core.parallel_config import build_parallel_config
    from mindformers.tools.register import MindFormerConfig
    from mindformers.trainer.utils import transform_and_load_checkpoint

    from mindformers import AutoTokenizer, ChatGLM2Config, ChatGLM2ForConditionalGeneration

    config = MindFormerConfig(str(run_yaml))
    build_context(config)
    build_parallel_config(config)
    config.model.model_config.parallel_config = config.parallel_config
    config.model.model_config.batch_size = 2
    network = ChatGLM2ForConditionalGeneration(ChatGLM2Config(**config.model.model_config))
    infer_data = Tensor(np.ones((2, 8), np.int32))
    inputs = network.prepare_inputs_for_predict_layout(infer_data.asnumpy())
    assert len(inputs) == 14
    assert inputs[1:] == (None,) * 13
    transform_and_load_checkpoint(config, Model(network), network, infer_data, do_predict=True)
    tokenizer = AutoTokenizer.from_pretrained(str(run_yaml))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], None, True)
    loaded = mindformers.AutoModel.from_pretrained(folder)
    expected = loaded.generate([ids], max_new_tokens=4)[0].tolist()
    assert network.generate([ids], max_new_tokens=4)[0].tolist() == expected


def test_calls_before_the_first_generation_are_harmless(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mindformers import AutoModel, ChatGLM2Config

    monkeypatch.setattr(logging.getLogger("mindformers"), "propagate", True)

    network = AutoModel.from_pretrained(folder)
    network.set_dynamic_inputs()
    network.add_flags_custom(is_first_iteration=True)
    assert network.load_checkpoint(ChatGLM2Config()) is None
    assert "no weights are loaded: checkpoint_name_or_path is empty" in caplog.text


def test_chat_takes_the_names_of_upstream(folder: Path) -> None:
    from mindformers import AutoModel, AutoTokenizer

    network, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    answer, history = network.chat(
        tokenizer=tokenizer,
        query="hello",
        history=[],
        system_role_name="system",
        user_role_name="user",
        assistant_role_name="assistant",
        instruction="be brief",
        max_length=64,
        max_new_tokens=6,
        min_length=0,
        min_new_tokens=None,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
    )
    assert [turn["role"] for turn in history] == ["system", "user", "assistant"]
    assert history[-1]["content"] == answer


def test_an_answer_is_read_from_another_thread(folder: Path) -> None:
    from mindformers import AutoModel, AutoTokenizer
    from mindformers.generation import TextIteratorStreamer

    network, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=False, timeout=30)
    ids = tokenizer("hello")["input_ids"]
    worker = threading.Thread(
        target=network.generate, args=([ids],), kwargs={"streamer": streamer, "max_new_tokens": 3}
    )
    worker.start()
    assert "hello" in "".join(streamer)
    worker.join()


def test_pipeline_takes_the_arguments_of_upstream(folder: Path) -> None:
    from mindformers.pipeline import pipeline

    from mindformers import AutoModel, AutoTokenizer

    network, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    run = pipeline(
        task="text_generation",
        model=network,
        tokenizer=tokenizer,
        image_processor=None,
        audio_processor=None,
        backend="ms",
    )
    outputs = run(["hello", "world"], max_length=12, do_sample=False, batch_size=2)
    assert [list(each) for each in outputs] == [["text_generation_text"]] * 2
    (bare,) = run("hello", max_new_tokens=1, add_special_tokens=False)
    assert bare["text_generation_text"][0].startswith("hello")
    with pytest.raises(ConfigError, match=r"pipeline\.backend: 'mslite' is not implemented"):
        pipeline("text_generation", network, tokenizer, backend="mslite")


def test_saving_takes_both_forms_and_loads_again(folder: Path, tmp_path: Path) -> None:
    from mindformers import AutoModel, AutoTokenizer, ChatGLM2Config

    network = AutoModel.from_pretrained(folder)
    network.save_pretrained(str(tmp_path / "a"), "mindspore_model")
    network.save_pretrained(str(tmp_path / "b"), save_json=True, max_shard_size="1MB")
    network.config.save_pretrained(str(tmp_path / "c"), save_name="mindspore_model", save_json=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(str(tmp_path / "d"), save_name="m", file_format="yaml")
    for name in "ab":
        assert AutoModel.from_pretrained(tmp_path / name).config == network.config
    assert ChatGLM2Config.from_json_file(tmp_path / "c" / "config.json") == network.config
    assert len(AutoTokenizer.from_pretrained(tmp_path / "d")) == len(tokenizer)
    with pytest.raises(ConfigError, match=r"save_pretrained\.push_to_hub: True is not implemented"):
        network.save_pretrained(tmp_path / "e", push_to_hub=True)


def test_trainer_trains_saves_and_predicts(folder: Path, run_yaml: Path, tmp_path: Path) -> None:
    from mindformers import AutoModel, Trainer
    from mindformers.training.callback import Callback

    class Counter(Callback):
        steps = 0

        def on_step_end(self, run, report) -> None:
            self.steps += 1

    counter = Counter()
    trainer = Trainer(
        args=str(run_yaml),
        task="text_generation",
        model_name="glm4_9b",
        tokenizer=str(folder),
        eval_dataset=None,
        data_collator=None,
        compute_metrics=None,
        pet_method="",
        save_config=True,
    )
    trainer.add_callback(counter)
    trainer.set_parallel_config(data_parallel=1, model_parallel=1)
    trainer.set_recompute_config(recompute=False)
    assert trainer.get_last_checkpoint() is None
    assert trainer.get_train_dataloader().num_rows == 8
    result = trainer.finetune(finetune_checkpoint=str(folder), auto_trans_ckpt=False)
    assert result.global_step == counter.steps == 2
    assert trainer.pop_callback(Counter) is counter
    assert trainer.pop_callback(Counter) is None
    last = trainer.get_last_checkpoint()
    assert last is not None
    saved = AutoModel.from_pretrained(trainer.save_model(tmp_path / "saved"))
    stepped = AutoModel.from_pretrained(folder)
    before = stepped.generate([[5, 6, 7]], max_new_tokens=1, output_logits=True,
                              return_dict_in_generate=True)["logits"]  # fmt: skip
    stepped.load_checkpoint(last)
    for name, weight in saved.weight_parameters().items():
        assert np.array_equal(weight.asnumpy(), stepped.weight_parameters()[name].asnumpy())
    after = stepped.generate([[5, 6, 7]], max_new_tokens=1, output_logits=True,
                             return_dict_in_generate=True)["logits"]  # fmt: skip
    assert not np.array_equal(np.asarray(before), np.asarray(after)), "training changed nothing"
    trainer.config.save_file = str(tmp_path / "text_generation_result.txt")
    answers = trainer.predict(input_data="hello", max_new_tokens=4, do_sample=False)
    assert list(answers[0]) == ["text_generation_text"]
    assert (tmp_path / "text_generation_result.txt").is_file()
    again = trainer.predict(predict_checkpoint=True, input_data="hello", max_new_tokens=4)
    assert again == answers


def test_trainer_loads_the_weights_it_is_given_into_a_network(
    folder: Path, run_yaml: Path, tmp_path: Path
) -> None:
    from mindformers import AutoModel, Trainer

    network = AutoModel.from_pretrained(folder, load_weights=False)
    config = mindformers.MindFormerConfig(str(run_yaml))
    config.save_file = str(tmp_path / "answers.txt")
    trainer = Trainer(config, "text_generation", network, tokenizer=folder)
    found = trainer.predict(predict_checkpoint=str(folder), input_data="hello", max_new_tokens=5)
    trainer = Trainer(config, "text_generation", str(folder), tokenizer=folder)
    assert trainer.predict(input_data="hello", max_new_tokens=5) == found


@pytest.mark.parametrize("given", ["settings", "path", "network"])
def test_pet_method_trains_adapters(given: str, folder: Path, run_yaml: Path) -> None:
    from mindformers import AutoModel, Trainer

    models = {"settings": None, "path": str(folder), "network": AutoModel.from_pretrained(folder)}
    trainer = Trainer(str(run_yaml), model=models[given], pet_method="lora")
    trainer.finetune(finetune_checkpoint=str(folder))
    names = {parameter.name.rpartition(".")[2] for parameter in trainer.model.trainable_params()}
    assert names == {"mindpet_delta_lora_a", "mindpet_delta_lora_b"}
    saved = trainer.model.save_pretrained(Path(trainer.config.output_dir) / "adapter")
    assert (saved / "adapter_model.safetensors").is_file()


def test_trainer_refuses_what_is_not_there_in_one_sentence(run_yaml: Path) -> None:
    from mindformers import Trainer

    trainer = Trainer(str(run_yaml))
    with pytest.raises(ConfigError, match=r"Trainer\.evaluate: evaluation is not implemented"):
        trainer.evaluate(eval_checkpoint=True)
    with pytest.raises(ConfigError, match=r"Trainer\.pet_method: 'ptuning2' is not implemented"):
        Trainer(str(run_yaml), pet_method="ptuning2")
    with pytest.raises(ConfigError, match="Module is no callback|Callback is no callback"):
        trainer.add_callback(ms.train.Callback())
    with pytest.raises(ConfigError, match=r"Trainer\.train\.do_evl.*did you mean 'do_eval'"):
        trainer.train(do_evl=True)
    with pytest.raises(ConfigError, match="no committed step in"):
        trainer.train(train_checkpoint=True)
    with pytest.raises(ConfigError, match="there is no network to save yet"):
        trainer.save_model()
    with pytest.raises(ConfigError, match=r"do_eval.*evaluation while training"):
        trainer.train(do_eval=True)


def test_flat_arguments_train_a_network(folder: Path, tmp_path: Path) -> None:
    from mindformers import AutoModel, Trainer, TrainingArguments

    data = write_numbered(tmp_path / "data.mindrecord", 8, seq_length=8)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "output"),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        warmup_steps=1,
        save_steps=4,
        use_cpu=True,
        mode=1,
        logging_steps=1,
    )
    network = AutoModel.from_pretrained(folder)
    trainer = Trainer(arguments, "text_generation", network, train_dataset=str(data))
    assert trainer.train().global_step == 4
    assert Path(trainer.get_last_checkpoint() or "").parent == tmp_path / "output" / "checkpoint"


def test_the_training_step_is_called_with_tensors(folder: Path) -> None:
    from mindformers.core.optim import AdamW
    from mindformers.wrapper import MFTrainOneStepCell

    from mindformers import AutoModel

    network = AutoModel.from_pretrained(folder)
    optimizer = AdamW(network.trainable_params(), learning_rate=1e-2, weight_decay=0.0)
    step = MFTrainOneStepCell(network, optimizer, use_clip_grad=True, max_grad_norm=1.0)
    step.set_train(True)
    ids = Tensor(np.arange(1, 9, dtype=np.int32)[None])
    first, overflow, scale, lr, norm = step(ids, ids)
    assert (first.shape, norm.shape) == ((1,), (1,))
    assert (bool(overflow), float(scale)) == (False, 1.0)
    assert float(lr) == pytest.approx(1e-2)
    losses = [float(step(ids, ids)[0][0]) for _ in range(4)]
    assert losses[-1] < float(first[0])


def test_a_class_of_ones_own_is_registered_and_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from mindformers.tools.register import MindFormerModuleType, MindFormerRegister

    monkeypatch.setattr(MindFormerRegister, "registry", dict(MindFormerRegister.registry))

    @MindFormerRegister.register(MindFormerModuleType.TOOLS, alias="own", search_names="own")
    class Own:
        def __init__(self, size: int):
            self.size = size

    section = {"type": "own", "size": 3}
    assert MindFormerRegister.get_instance_type_from_cfg(section, "tools") is Own
    assert MindFormerRegister.get_instance_from_cfg(section, "tools").size == 3
    with pytest.raises(ConfigError, match="legacy=False: the second set of classes"):
        MindFormerRegister.register("tools", legacy=False)(Own)


def test_the_helpers_set_up_one_process(run_yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mindformers import init_context, run_check
    from mindformers.errors import DeviceError

    assert init_context(False, {"device_target": "CPU", "mode": 1}, {"parallel_mode": 1}) == (0, 1)
    with pytest.raises(DeviceError, match="use_parallel is True"):
        init_context(True, {"device_target": "CPU", "mode": 1})
    run_check()
    assert capsys.readouterr().out.endswith("run_check: all is well\n")

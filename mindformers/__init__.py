"""GLM-4 on MindSpore. Names resolve on first use; importing the package loads no MindSpore."""

from __future__ import annotations

import importlib
from typing import Any

from mindformers.upstream_paths import install as _install_upstream_paths
from mindformers.version import __version__

_CONFIG = "mindformers.config.mindformer_config"
_GLM2 = "mindformers.models.glm2"
_NAMES = {
    "MindFormerConfig": _CONFIG,
    "MindFormerRegister": "mindformers.registry",
    "MindFormerModuleType": "mindformers.registry",
    "logger": "mindformers.logger",
    "AutoConfig": "mindformers.models.auto",
    "AutoModel": "mindformers.models.auto",
    "AutoModelForCausalLM": "mindformers.models.auto",
    "AutoTokenizer": "mindformers.models.auto",
    "AutoProcessor": "mindformers.models.auto",
    "PretrainedConfig": "mindformers.models.base_config",
    "PreTrainedModel": "mindformers.models.base_model",
    "ChatGLM2Config": f"{_GLM2}.glm2_config",
    "ChatGLM2Model": f"{_GLM2}.glm2",
    "ChatGLM2ForConditionalGeneration": f"{_GLM2}.glm2",
    "ChatGLM2WithPtuning2": f"{_GLM2}.glm2_ptuning2",
    "ChatGLM2Tokenizer": f"{_GLM2}.glm2_tokenizer",
    "ChatGLM3Tokenizer": f"{_GLM2}.glm3_tokenizer",
    "ChatGLM4Tokenizer": f"{_GLM2}.glm4_tokenizer",
    "GLMProcessor": f"{_GLM2}.glm_processor",
    "PreTrainedTokenizer": "mindformers.tokenizer.base",
    "count_parameters": f"{_GLM2}.glm2_weights",
    "GenerationConfig": "mindformers.generation.config",
    "LogitsProcessor": "mindformers.generation.logits",
    "LogitsProcessorList": "mindformers.generation.logits",
    "BaseStreamer": "mindformers.generation.streamer",
    "TextStreamer": "mindformers.generation.streamer",
    "TextIteratorStreamer": "mindformers.generation.streamer",
    "pipeline": "mindformers.tasks.pipeline",
    "TextGenerationPipeline": "mindformers.tasks.pipeline",
    "Trainer": "mindformers.tasks.trainer",
    "TrainingArguments": "mindformers.tasks.training_args",
    "build_context": "mindformers.tasks.context",
    "init_context": "mindformers.tasks.context",
    "build_parallel_config": "mindformers.tasks.context",
    "run_check": "mindformers.tools.run_check",
    "CausalLanguageModelDataset": "mindformers.dataset.causal_lm",
    "KeyWordGenDataset": "mindformers.dataset.causal_lm",
    "MultiTurnDataset": "mindformers.dataset.causal_lm",
    "AdamW": "mindformers.training.optimizer",
    "Muon": "mindformers.training.optimizer",
    "MFTrainOneStepCell": "mindformers.training.train_step",
    "MFLossMonitor": "mindformers.training.callbacks",
    "CheckpointMonitor": "mindformers.training.callbacks",
    "EarlyStopping": "mindformers.training.callbacks",
    "EvalCallBack": "mindformers.training.callbacks",
    "PerplexityMetric": "mindformers.evaluation.metrics",
    "ADGENMetric": "mindformers.evaluation.metrics",
    "EmF1Metric": "mindformers.evaluation.metrics",
    "ProfileMonitor": "mindformers.training.callbacks",
    "SummaryMonitor": "mindformers.training.callbacks",
    "TrainingStateMonitor": "mindformers.training.callbacks",
    "CrossEntropyLoss": "mindformers.modules.loss",
    "LoraConfig": "mindformers.pet.pet_config",
    "Ptuning2Config": "mindformers.pet.pet_config",
    "get_pet_model": "mindformers.pet.lora",
    "merge_adapter": "mindformers.pet.merge",
    "unmerge_adapter": "mindformers.pet.merge",
    "remove_adapter": "mindformers.pet.merge",
    "AdapterSet": "mindformers.pet.adapter_set",
    "save_adapter": "mindformers.pet.adapter_files",
    "load_adapter": "mindformers.pet.adapter_files",
    **dict.fromkeys(
        (
            "ConstantWarmUpLR",
            "LinearWithWarmUpLR",
            "CosineWithWarmUpLR",
            "CosineWithRestartsAndWarmUpLR",
            "PolynomialWithWarmUpLR",
            "CosineAnnealingLR",
            "CosineAnnealingWarmRestarts",
            "WarmUpStableDecayLR",
            "ConstantWithCoolDownLR",
        ),
        "mindformers.training.lr_schedule",
    ),
}

__all__ = ["__version__", *_NAMES]
_install_upstream_paths()


def __getattr__(name: str) -> Any:
    module = _NAMES.get(name)
    if module is None:
        raise AttributeError(f"module 'mindformers' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

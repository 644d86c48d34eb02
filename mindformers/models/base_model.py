"""``PreTrainedModel``: what every network can do besides its forward pass."""

from __future__ import annotations

from mindspore import nn

from mindformers.models.base_config import PretrainedConfig


class PreTrainedModel(nn.Cell):
    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config = config

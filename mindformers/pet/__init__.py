"""LoRA: adapters of low rank beside frozen weights. Public names are loaded on first use."""

from mindformers.upstream_paths import public_names

__getattr__ = public_names(__name__)

"""The module paths of MindSpore Transformers that scripts import from, each an alias of a module of ours.

One table instead of a file per path. An alias is the very same module under a second name, loaded when
it is imported; a path that stands for several modules gives the names of the package's root.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOT = "mindformers"
_SEVERAL = ROOT
_PATHS = {
    "core": _SEVERAL,
    "core.callback": "training.callbacks",
    "core.context": "tasks.context",
    "core.loss": "modules.loss",
    "core.metric": _SEVERAL,
    "core.metric.metric": "evaluation.metrics",
    "core.lr": "training.lr_schedule",
    "core.optim": "training.optimizer",
    "core.parallel_config": "tasks.context",
    "dataset.causal_language_model_dataset": "dataset.causal_lm",
    "dataset.keyword_gen_dataset": "dataset.causal_lm",
    "dataset.multi_turn_dataset": "dataset.causal_lm",
    "generation.generation_config": "generation.config",
    "generation.logits_process": "generation.logits",
    "generation.streamers": "generation.streamer",
    "models.configuration_utils": "models.base_config",
    "models.modeling_utils": "models.base_model",
    "models.tokenization_utils": "tokenizer.base",
    "pipeline": "tasks.pipeline",
    "tools.logger": "logger",
    "tools.register": _SEVERAL,
    "tools.register.config": "config.mindformer_config",
    "tools.register.register": "registry",
    "trainer": _SEVERAL,
    "trainer.trainer": "tasks.trainer",
    "trainer.training_args": "tasks.training_args",
    "trainer.utils": "tasks.context",
    "wrapper": "training.train_step",
}
UPSTREAM_PATHS = {f"{ROOT}.{path}": target for path, target in _PATHS.items()}
# ``mindformers.pipeline`` is a function; importing the path of the same name must not take it away.
_CALLABLE = f"{ROOT}.pipeline"


class _CallableModule(ModuleType):
    """A module that may be called as the function it is named after."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _UpstreamFinder(MetaPathFinder, Loader):
    """Finds the paths of the table; files come first, as this stands last among the finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load one of the paths, or None for any other name."""
        if fullname not in UPSTREAM_PATHS:
            return None
        return ModuleSpec(fullname, self, is_package=UPSTREAM_PATHS[fullname] == _SEVERAL)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of ours in the place of ``module``, or give it the names of the root."""
        name = module.__name__
        target = UPSTREAM_PATHS[name]
        if target == _SEVERAL:
            module.__dict__["__getattr__"] = public_names(name)
            return
        ours = importlib.import_module(f"{ROOT}.{target}")
        if name == _CALLABLE:
            ours.__class__ = _CallableModule
        sys.modules[name] = ours


def public_names(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package: the root's names that upstream exports there too.

    Args:
        package: ``__name__`` of the package. A package of ours gives the names defined beneath it, a
            path of the table any name.
    """

    def find(name: str) -> Any:
        root = sys.modules[ROOT]
        home = root.__dict__["_NAMES"].get(name)
        if home and (package in UPSTREAM_PATHS or home.startswith(f"{package}.")):
            return getattr(root, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def install() -> None:
    """Make the paths importable; a second call changes nothing."""
    if not any(isinstance(finder, _UpstreamFinder) for finder in sys.meta_path):
        sys.meta_path.append(_UpstreamFinder())

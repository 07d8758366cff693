"""What SGLang needs to serve on any processor; Python reads this file at its start.

Its kernels for processors want AVX-512 and are not published, and without them it runs PyTorch's. It imports them all
the same, and packages for pictures and sounds whose published builds want another PyTorch: names that hold nothing do.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ABSENT = ("sgl_kernel", "torchvision", "soundfile")


class Nothing(type):
    """A class with any attribute; each is such a class too."""

    def __getattr__(cls, name: str) -> Any:
        return nothing(name)


def nothing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Nothing(name, (), {})


class Empty(MetaPathFinder, Loader):
    """Finds modules of `ABSENT` and of what is in them; asked whether there are any, says no."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if absent(name) else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = nothing


def absent(name: str) -> bool:
    return name.split(".")[0] in ABSENT


_find_spec = importlib.util.find_spec


def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
    return None if absent(name) else _find_spec(name, package)


importlib.util.find_spec = find_spec
sys.meta_path.append(Empty())

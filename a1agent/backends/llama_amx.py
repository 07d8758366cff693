"""Whether the AMX code of the llama.cpp at hand works. Older compilers left most of the tile configuration out of it.

GCC before 11.5, 12.4 and 13.3 believes that `_tile_loadconfig` reads 8 of its 64 bytes (GCC bug 114098), and drops what
sets the others: on a processor with AMX llama.cpp then crashes at the first quantized model, or multiplies wrongly.
Clang before 16 names the instructions by other macros than llama.cpp asks for, which leaves AMX out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["compiled_well", "works"]

_FIXED = {11: 5, 12: 4, 13: 3}
"""The first release of each series of GCC, the minor number, that has the repair; older series never got it."""
_GCC = re.compile(rb"GCC: \([^)]*\) (\d+)\.(\d+)")
_CLANG = b"clang version"


def works(api: Any) -> bool:
    """Whether llama.cpp may use AMX, or does not know how to. It reads the library: ask once."""
    if not sys.platform.startswith("linux") or b"AMX_INT8 = 1" not in api.llama_print_system_info():
        return True
    folder = Path(api._lib._name).parent
    return compiled_well(file.read_bytes() for file in sorted(folder.glob("libggml-cpu*.so")))


def compiled_well(libraries: Iterable[bytes]) -> bool:
    """Whether the compilers that wrote their names into the libraries know AMX.

    One without a name counts as well compiled: what strips names too is llvm-strip, which comes with clang.
    """
    files = list(libraries)
    return bool(files) and all(map(_compiled_well, files))


def _compiled_well(library: bytes) -> bool:
    if _CLANG in library:  # the names of older GCCs beside it are those of the C library's parts
        return True
    versions = [(int(major), int(minor)) for major, minor in _GCC.findall(library)]
    if not versions:
        return True
    major, minor = max(versions)
    return major > max(_FIXED) or minor >= _FIXED.get(major, sys.maxsize)

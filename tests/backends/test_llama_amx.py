"""Which builds of llama.cpp may use AMX. That quantized models run at all: `TestQuantized` in test_llama_cpp."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from a1agent.backends import llama_amx, llama_cpp

WITH_AMX = b"CPU : AVX512_VNNI = 1 | AMX_INT8 = 1 | "


def library(*idents: bytes) -> bytes:
    """A library as far as the names of compilers in it go."""
    return b"\x7fELF" + b"\x00".join((b"", *idents, b""))


async def load_and_close(path: Path) -> None:
    backend = await asyncio.to_thread(llama_cpp.load, str(path))
    await backend.aclose()


@pytest.mark.parametrize(
    ("idents", "well"),
    [
        ([b"GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"], False),
        ([b"GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0"], False),
        ([b"GCC: (GNU) 13.2.0"], False),
        ([b"GCC: (GNU) 11.5.0"], True),
        ([b"GCC: (GNU) 12.4.0"], True),
        ([b"GCC: (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0"], True),
        ([b"GCC: (GNU) 15.1.0"], True),
        # The C library's parts name the compiler that built them.
        ([b"GCC: (GNU) 8.5.0 20210514 (Red Hat 8.5.0-26)", b"GCC: (GNU) 14.2.1 20250110 (Red Hat 14.2.1-7)"], True),
        ([b"GCC: (GNU) 8.5.0 20210514 (Red Hat 8.5.0-26)", b"GCC: (GNU) 11.2.1 20220127 (Red Hat 11.2.1-9)"], False),
        ([b"GCC: (Debian 12.2.0-14) 12.2.0", b"Debian clang version 14.0.6"], True),
        ([], True),  # llvm-strip leaves no name
    ],
)
def test_the_compiler_decides(idents: list[bytes], well: bool) -> None:
    assert llama_amx.compiled_well([library(*idents)]) is well


def test_one_badly_compiled_library_is_enough() -> None:
    good, bad = library(b"GCC: (GNU) 14.2.0"), library(b"GCC: (GNU) 12.2.0")
    assert llama_amx.compiled_well([good, good])
    assert not llama_amx.compiled_well([good, bad])
    assert not llama_amx.compiled_well([])


@pytest.mark.skipif("sys.platform != 'linux'")
@pytest.mark.parametrize(
    ("ident", "features", "works"),
    [
        (b"GCC: (GNU) 12.2.0", WITH_AMX, False),
        (b"GCC: (GNU) 14.2.0", WITH_AMX, True),
        (b"GCC: (GNU) 12.2.0", b"CPU : AVX512_VNNI = 1 | ", True),
    ],
)
def test_libraries_are_found_beside_llama_cpp(tmp_path: Path, ident: bytes, features: bytes, works: bool) -> None:
    (tmp_path / "libggml-cpu.so").write_bytes(library(ident))
    loaded = SimpleNamespace(_name=str(tmp_path / "libllama.so"))
    assert llama_amx.works(SimpleNamespace(_lib=loaded, llama_print_system_info=lambda: features)) is works


@pytest.mark.anyio
async def test_a_build_that_must_do_without_says_so_once(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    llama_cpp._may_repack.cache_clear()
    monkeypatch.setattr(llama_amx, "works", lambda _: False)
    try:
        with caplog.at_level(logging.WARNING):
            await load_and_close(models / "bpe.gguf")  # floats: nothing is laid out anew
            assert not caplog.records
            await load_and_close(models / "quantized.gguf")
            await load_and_close(models / "quantized.gguf")
    finally:
        llama_cpp._may_repack.cache_clear()
    assert ["AMX" in record.message for record in caplog.records] == [True]

"""GGUF models in process, through llama-cpp-python's low-level functions.

    llama-cpp:model.gguf?n_ctx=8192        a file
    llama-cpp:ORG/REPO:FILE.gguf           a file of the model hub, through its client's cache

`n_ctx` bounds one sequence, `kv_tokens` all of them together. With `kv=shared` a prompt that chains share counts once;
with `kv=apart` each has a copy, and reads through no cells but its own.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from a1agent.backends import hub, llama_amx
from a1agent.backends._llama_api import first_error, forget_errors, llama_api
from a1agent.backends.base import ModelInfo
from a1agent.backends.batching.worker import Engine
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.gguf_info import GGUFInfo, read_gguf
from a1agent.backends.llama_check import check_header
from a1agent.backends.llama_options import (
    AT_ONCE,
    OPTIONS,
    LlamaOptions,
    asks_for_gpu,
    context_of,
    memory_of,
    outputs_of,
    physical_cores,
    room_of,
)
from a1agent.backends.prompted import PromptedBackend
from a1agent.errors import ModelLoadError

__all__ = ["OPTIONS", "LlamaCppBackend", "bytes_ahead", "estimate_memory", "load"]

_log = logging.getLogger(__name__)
_TINY = 8 * 2**20
"""Bytes. Smaller models are done before a second thread has woken up, and wait for it on a busy machine."""


class LlamaCppBackend(PromptedBackend):
    """A GGUF model in llama.cpp."""


def load(path: str, **options: Any) -> LlamaCppBackend:
    """A backend for a GGUF file or hub name; takes as long as reading the file does. `OPTIONS` lists the options.

    Raises `InvalidOption`, `MissingExtra`, `ModelNotFound`, `ModelLoadError`.
    """
    checked = LlamaOptions.of(options)
    file = _locate(path, checked)
    header = read_gguf(file)
    check_header(header)
    api = llama_api(checked.verbose)
    with ExitStack() as held:  # the runner frees them once there is one that is used
        model = _load_model(api, header, checked)
        held.callback(api.llama_model_free, model)
        backend = _assemble(api, model, header, checked, held)
        held.pop_all()
    return backend


def estimate_memory(path: str, **options: Any) -> int:
    """Bytes that the model would take (weights, KV cache, buffers), read from the file's header without loading it."""
    checked = LlamaOptions.of(options)
    has_gpu = checked.n_gpu_layers != 0 and _has_gpu_memory()
    return memory_of(read_gguf(_locate(path, checked)), checked, has_gpu=has_gpu)


def bytes_ahead(path: str, **options: Any) -> int:
    """Bytes of main memory that a model takes at least whose file the hub's cache has not yet; 0 for others."""
    checked = LlamaOptions.of(options)
    to_fetch = hub.is_gguf(path) and not os.path.exists(os.path.expanduser(path))
    if not to_fetch or (checked.n_gpu_layers != 0 and _has_gpu_memory()):
        return 0
    return hub.bytes_ahead(path, checked.revision, "llama-cpp")


def _has_gpu_memory() -> bool:
    """Whether layers on a GPU lie elsewhere than in main memory, which those of Macs share with the processor."""
    return sys.platform != "darwin" and bool(llama_api().llama_supports_gpu_offload())


def _load_model(api: Any, header: GGUFInfo, options: LlamaOptions) -> Any:
    params = api.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts &= not header.quantized or _may_repack(api)
    forget_errors()
    model = api.llama_model_load_from_file(os.fsencode(header.path), params)
    if not model:
        reason = first_error() or "llama.cpp gave no reason"
        hint = "the file may be cut short, or too new"
        if options.n_gpu_layers:
            hint += "; or it does not fit the GPU: lower n_gpu_layers"
        raise ModelLoadError(f"{header.path.name} does not load: {reason}", hint)
    if not api.llama_model_has_decoder(model) or api.llama_model_has_encoder(model):
        api.llama_model_free(model)
        raise ModelLoadError(f"{header.path.name} is not a decoder-only model", "choose a model that generates text")
    return model


@cache
def _may_repack(api: Any) -> bool:
    """Whether llama.cpp may lay quantized weights out anew for what the processor can; tells once why not."""
    sound = llama_amx.works(api)
    if not sound:
        _log.warning(
            "llama.cpp was built by a compiler that gets AMX wrong: quantized models would crash, so they go without, "
            "more slowly. Built by clang 16, GCC 14 or later ones it uses AMX: CC=clang-16 CXX=clang++-16 pip install "
            "--force-reinstall --no-cache-dir --no-deps --no-binary llama-cpp-python llama-cpp-python"
        )
    return sound


def _assemble(api: Any, model: Any, header: GGUFInfo, options: LlamaOptions, held: ExitStack) -> LlamaCppBackend:
    from a1agent.backends.llama_runner import LlamaRunner, can_rewind
    from a1agent.backends.llama_vocab import LlamaVocabulary

    vocabulary = LlamaVocabulary(api, model, header.tokenizer_fingerprint())
    name = str(header.metadata.get("general.name") or header.path.stem)
    sources: list[bytes | None] = [api.llama_model_chat_template(model, kind) for kind in (None, b"tool_use")]
    plain, tool_use = (source.decode() if source else None for source in sources)
    template = ChatTemplate(plain, vocabulary.control, vocabulary.template_variables, name, tool_use)
    template.set(options)
    settled = _settled(options, header)
    room = room_of(header, options, can_rewind(api, model))
    runner = LlamaRunner(api, model, vocabulary, settled, room, outputs_of(vocabulary.size, options))
    held.callback(runner.free_context)
    context = min(context_of(header, options), runner.cells)
    info = ModelInfo(
        name=name,
        fingerprint=options.keyed(header.fingerprint()),
        tokenizer_fingerprint=vocabulary.fingerprint,
        context_length=context,
        can_rewind=runner.can_rewind,
        processor=runner.device,
        at_once=min(runner.lanes, options.at_once or (AT_ONCE if runner.device == "cpu" else runner.lanes)),
        scores_as_it_writes=True,
        can_constrain=True,
        channels=vocabulary.channels,
    )
    return LlamaCppBackend(Engine(runner, options.keep_tokens), info, vocabulary, template)


def _settled(options: LlamaOptions, header: GGUFInfo) -> LlamaOptions:
    """The options with the number of threads, and -1 for as many layers on the GPU as there are."""
    threads = options.n_threads or (1 if header.size < _TINY else physical_cores())
    return replace(
        options, n_threads=threads, n_gpu_layers=-1 if asks_for_gpu(header, options) else options.n_gpu_layers
    )


def _locate(path: str, options: LlamaOptions) -> Path:
    """The file of a path or hub name. Raises `ModelNotFound`, `MissingExtra`."""
    file = Path(os.path.expanduser(path))
    at_hub = not file.exists() and (hub.is_gguf(path) or hub.is_repository(path))
    return hub.find_gguf(path, options.revision, "llama-cpp") if at_hub else file

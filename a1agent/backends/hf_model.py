"""Loads a model with transformers, and finds out how it can be batched."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import math
import traceback
import warnings
from collections.abc import Generator
from typing import Any

import torch
import transformers as _transformers

from a1agent.backends.batching.runner import Rows
from a1agent.backends.gguf_info import GGUFInfo
from a1agent.backends.hf_files import ModelFiles, locate, reason_of, rope_kinds
from a1agent.backends.torch_cuda import can_use_varlen
from a1agent.backends.torch_lanes import LaneModel
from a1agent.backends.torch_linear import pack, unpack
from a1agent.backends.torch_packed import LayerKind, PackedModel, Unpackable, probe
from a1agent.backends.torch_runner import CachedModel
from a1agent.backends.transformers_options import TransformersOptions, is_lengthened, memory_of
from a1agent.errors import ModelLoadError, NotEnoughMemory

__all__ = ["batched", "complete", "enough_memory", "load_model", "place"]

transformers: Any = _transformers
_log = logging.getLogger(__name__)
_ATTENTION_ONLY = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_SPARSE = frozenset(
    {"indexed_attention", "compressed_sparse_attention", "heavily_compressed_attention", "minimax_m3_sparse"}
)
_DEVICES = ("cpu", "cuda")
_FINE = 1e-3  # nats between two ways of rounding in single precision
_COARSE = 0.25  # the same in half precision, where logits are small
_ROUNDINGS = 8  # what they may differ by where logits are large, in units of their precision
_CHECKED = ((0, (5, 7, 11, 13, 6, 17, 8, 12, 9)), (1, (8, 6)), (2, (9, 4, 3, 10, 12)))
# Lane, first and last position. Lone tokens run apart from others, and by themselves: where graphs replay them.
_PIECES = (
    ((0, 0, 4),),
    ((0, 4, 5), (2, 0, 3)),
    ((2, 3, 4), (0, 5, 7)),
    ((0, 7, 8), (1, 0, 1), (2, 4, 5)),
    ((1, 1, 2),),
    ((0, 8, 9),),
)
_LIKELIEST = 5
_BY_LLAMA = "use llama-cpp: for the file"


def place(options: TransformersOptions) -> torch.device:
    """Where the model goes. Raises `ModelLoadError` when there is no such device."""
    try:
        if options.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = reason_of(error)
        raise ModelLoadError(f"device={options.device} cannot be used: {reason}", "use device=cpu or auto") from error
    if device.type not in _DEVICES:
        raise ModelLoadError(f"device={options.device} cannot be used: its memory is not known", "use cpu or cuda")
    return device


def load_model(files: ModelFiles, options: TransformersOptions, device: torch.device) -> Any:
    """The model, on its device, attention as it is by default: some models cannot change theirs later.

    Raises `ModelLoadError`, `NotEnoughMemory`.
    """
    config = _config(files, options)
    dtype = options.dtype if options.dtype != "auto" else "float32" if device.type == "cpu" else "auto"
    where: Any = options.device_map or (None if device.type == "cpu" else {"": device})
    with _explained(files, options), _quietly():
        model, report = _library(config).from_pretrained(
            **_source(files),
            **({} if files.gguf else {"config": config}),
            dtype=dtype,
            device_map=where,
            attn_implementation=None,  # whatever the files ask for
            use_safetensors=True,
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_weights(report, files)
    if files.gguf is not None:
        _check_taken_up(model, files.gguf, files.name)
    if options.adapter:
        model = _adapted(model, options)
    return model.eval()


def _check_weights(report: Any, files: ModelFiles) -> None:
    """Raises `ModelLoadError` where weights were drawn at random: those not in the files, or not of the right shape."""
    hint = "download all files of the checkpoint again" if files.gguf is None else _BY_LLAMA
    for kind, what in (("missing_keys", "lacks {} weights"), ("mismatched_keys", "has {} weights of another shape")):
        found = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        if found:
            raise ModelLoadError(f"{files.name} {what.format(len(found))}, among them {found[0]}", hint)


def _check_taken_up(model: Any, info: GGUFInfo, name: str) -> None:
    """Raises `ModelLoadError` where the library left out something of a GGUF file, which it does without a word.

    That is tensors that it has no place for, as Llama 3.1's frequencies, and how positions are scaled.
    """
    config = model.config.get_text_config()
    kept = model.state_dict().keys()
    buffers = [buffer for key, buffer in model.named_buffers() if key in kept]
    taken = sum(each.numel() for each in (*model.parameters(), *buffers))
    tied = [tensor for tensor in info.tensors if tensor.name == "output.weight" and config.tie_word_embeddings]
    left = info.parameters - taken - sum(math.prod(tensor.shape) for tensor in tied)
    if left:
        raise ModelLoadError(f"transformers leaves {left} of the weights of {name} out", _BY_LLAMA)
    factor = info.get("rope.scaling.factor") or info.get("rope.scale_linear") or 1
    if factor != 1 and info.get("rope.scaling.type") != "none" and not _scales(config):
        raise ModelLoadError(f"transformers does not scale the positions of {name} as its file says", _BY_LLAMA)


def _scales(config: Any) -> bool:
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return any(kind.get("rope_type", "default") != "default" for kind in rope_kinds(rope))


def complete(files: ModelFiles) -> ModelFiles:
    """The files, their shape with what the library takes where the configuration is silent."""
    try:
        with _quietly():
            kind = transformers.CONFIG_MAPPING[files.config["model_type"]]
            return files.completed(kind.from_dict(copy.deepcopy(files.config)).get_text_config().to_dict())
    except Exception:  # of a kind that is refused later, or brings code of its own
        return files


def batched(model: Any, name: str, options: TransformersOptions, lanes: int, length: int) -> CachedModel:
    """The model with slots where its packed forward equals its plain one, else with a cache for each lane.

    Raises `ModelLoadError` when neither does what the model does alone, or slots were asked for and do not work.
    """
    with _quietly():
        model.set_attn_implementation("eager")
        expected = [_plain(model, ids) for _, ids in _CHECKED]
    if any(bool(table.isnan().any()) for table in expected):
        what = f"what {name} says in {str(model.dtype).rpartition('.')[2]} are no numbers"
        raise ModelLoadError(what, "use dtype=bfloat16 or float32; if it is so there, the weights are damaged")
    tolerance = _tolerance(model, expected)
    _lay_out(model, name, expected, tolerance)
    if options.cache != "lanes":
        try:
            kinds = probe(model)
            flash = can_use_varlen([kind.shape for kind in kinds], [kind.traits for kind in kinds])
            flash = flash and _does_flash(model, name, kinds, expected, tolerance)
            if not flash:
                _try(PackedModel(model, kinds, 3, 16), expected, tolerance)
            return PackedModel(model, kinds, lanes, length, flash=flash)
        except Unpackable as error:
            if options.cache == "slots":
                raise ModelLoadError(f"{name} cannot run packed: {error}", "leave cache at auto") from error
            _log.warning(
                "%s runs one sequence at a time (%s): n chains cost n forwards a token, and each copies its cache",
                name,
                error,
            )
    return _in_lanes(model, name, expected, tolerance)


def _tolerance(model: Any, expected: list[torch.Tensor]) -> float:
    """Nats by which log-probabilities may differ: in half precision, by more where the logits are large.

    The type is that of the weights: some models hand their logits over in single precision.
    """
    if model.dtype == torch.float32 and not getattr(model, "is_quantized", False):
        return _FINE
    largest = max(table.float().amax(-1).abs().max().item() for table in expected)
    precision = max(torch.finfo(model.dtype).eps, torch.finfo(torch.bfloat16).eps)
    return max(_COARSE, _ROUNDINGS * precision * largest)


def _lay_out(model: Any, name: str, expected: list[torch.Tensor], tolerance: float) -> None:
    """Lays out the weights of linear layers for a processor, unless the model then fails or says something else."""
    if not pack(model):
        return
    try:
        error = max(
            (_plain(model, ids).float().log_softmax(-1) - table.float().log_softmax(-1)).abs().max().item()
            for (_, ids), table in zip(_CHECKED, expected, strict=True)
        )
        reason = "" if error < tolerance else f"its log-probabilities would be off by {error:.2g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:
        reason = repr(failure)
    if reason:
        unpack(model)
        _log.warning("%s runs with its weights as they are, more slowly: %s", name, reason)


def _does_flash(model: Any, name: str, kinds: list[LayerKind], expected: list[torch.Tensor], tolerance: float) -> bool:
    candidate = PackedModel(model, kinds, 3, 16, flash=True)
    try:
        _try(candidate, expected, tolerance)
    except Unpackable as error:
        _log.warning("%s runs without the flash kernel and CUDA graphs, more slowly: %s", name, error)
        return False
    finally:
        candidate.free()  # its graphs hold memory, and know it
    return True


def _try(candidate: PackedModel, expected: list[torch.Tensor], tolerance: float) -> None:
    """As `_check`, whatever goes wrong is a reason not to. Raises `Unpackable`."""
    try:
        _check(candidate, expected, tolerance)
    except (Unpackable, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Unpackable(f"a packed forward fails: {error!r}") from error


def _in_lanes(model: Any, name: str, expected: list[torch.Tensor], tolerance: float) -> LaneModel:
    reason = ""
    for attention in ("sdpa", "eager"):
        try:
            with _quietly():
                model.set_attn_implementation(attention)
            _check(LaneModel(model), expected, tolerance)
            return LaneModel(model)
        except Exception as error:
            reason = reason_of(error)
    raise ModelLoadError(f"{name} does not keep a cache that can be used: {reason}", "use llama-cpp: or another model")


def _plain(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits of a text by the model alone, without any cache [tokens, vocabulary]."""
    tokens = torch.tensor([ids], device=model.device)
    return model(input_ids=tokens, use_cache=False).logits[0].cpu()


def _check(candidate: CachedModel, expected: list[torch.Tensor], tolerance: float) -> None:
    """Compares short texts, run in pieces and together, with the model alone. Raises `Unpackable`."""
    texts = dict(_CHECKED)
    tables = {lane: table.float().log_softmax(-1) for (lane, _), table in zip(_CHECKED, expected, strict=True)}
    for pieces in _PIECES:
        rows = Rows()
        for lane, start, stop in pieces:
            rows.tokens.extend(texts[lane][start:stop])
            rows.positions.extend(range(start, stop))
            rows.lanes.extend([lane] * (stop - start))
            rows.wanted.extend([1] * (stop - start))
        found = candidate.forward(rows).cpu().float().log_softmax(-1)
        wanted = torch.cat([tables[lane][start:stop] for lane, start, stop in pieces])
        likely = wanted.topk(min(_LIKELIEST, wanted.shape[1]), -1)
        error = (found.gather(1, likely.indices) - likely.values).abs().max().item()
        if not error < tolerance:
            raise Unpackable(f"its log-probabilities would be off by {error:.2g}")


def _config(files: ModelFiles, options: TransformersOptions) -> Any:
    """The configuration, of a kind of model that can be served. Raises `ModelLoadError`."""
    hint = "update transformers, or choose another model"
    if "auto_map" in files.config and not options.trust_remote_code:
        hint = "it brings code of its own: read it, then add trust_remote_code=true"
    try:
        with _quietly():
            config = transformers.AutoConfig.from_pretrained(
                **_source(files), trust_remote_code=options.trust_remote_code, local_files_only=True
            )
    except Exception as error:
        reason = reason_of(error)
        raise ModelLoadError(f"transformers does not know the model {files.name}: {reason}", hint) from error
    _check_kind(config, files.name)
    if is_lengthened(files.shape, options):
        _lengthen(config.get_text_config().rope_parameters)
    return config


def _lengthen(rope: dict[str, Any]) -> None:
    """Has the rotary frequencies of long texts stand for short ones too, in all kinds of layers that have both."""
    for kind in rope_kinds(rope):
        if "long_factor" in kind:
            kind["short_factor"] = kind["long_factor"]


def _check_kind(config: Any, name: str) -> None:
    """Raises `ModelLoadError` for a model that is not a decoder, or keeps more than keys and values of its tokens."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    library = _library(config)
    stateful = getattr(library._model_mapping.get(type(config), None), "_is_stateful", False)
    if (stateful and not kinds) or not kinds <= _ATTENTION_ONLY:
        sparse = kinds and kinds <= _ATTENTION_ONLY | _SPARSE
        what = f"{name} {'has sparse attention' if sparse else 'is a recurrent or hybrid model'}"
        hint = "choose a model with full or sliding attention only, or use llama-cpp:"
        raise ModelLoadError(f"{what}, which cannot take a step back here", hint)
    both_ways = getattr(config.get_text_config(), "use_bidirectional_attention", False) is True
    if both_ways or getattr(config, "is_encoder_decoder", False):
        raise ModelLoadError(f"{name} is not a decoder-only model", "choose a model that generates text")


def _library(config: Any) -> Any:
    """What reads a checkpoint. A vision-language model is read whole, and only ever given text."""
    libraries = (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText)
    return next((each for each in libraries if config.__class__ in each._model_mapping), libraries[0])


def _source(files: ModelFiles) -> dict[str, str]:
    if files.gguf is None:
        return {"pretrained_model_name_or_path": str(files.path)}
    return {"pretrained_model_name_or_path": str(files.path.parent), "gguf_file": files.path.name}


def _adapted(model: Any, options: TransformersOptions) -> Any:
    try:
        peft: Any = importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise ModelLoadError("adapter= needs the package peft, which is not installed", "pip install peft") from error
    folder = locate(options.adapter)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelLoadError(f"{options.adapter} has no adapter_model.safetensors", "name the folder of an adapter")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")  # those would leave the model as it is
            return peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:
        what = f"the adapter {options.adapter} does not fit: {reason_of(error)}"
        raise ModelLoadError(what, "use one of this model, of a kind that can be merged into its weights") from error


@contextlib.contextmanager
def _explained(files: ModelFiles, options: TransformersOptions) -> Generator[None]:
    """Errors of loading in our words."""
    try:
        with enough_memory(files, options):
            yield
    except NotEnoughMemory:
        raise
    except ImportError as error:
        raise ModelLoadError(f"{files.name} needs a package: {error}", "install it") from error
    except Exception as error:
        what = f"{files.name} does not load: {reason_of(error)}"
        raise ModelLoadError(what, "the files may be damaged, or too new") from error


@contextlib.contextmanager
def enough_memory(files: ModelFiles, options: TransformersOptions) -> Generator[None]:
    """Says how much a model needs where there turns out to be less. Raises `NotEnoughMemory`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in ("allocate memory", "not enough memory")):
            raise
        traceback.clear_frames(error.__traceback__)  # else who keeps the error keeps the half of a model
        need = memory_of(files.shape, options)
        what = f"{files.name} and its cache need about {need / 2**30:.1f} GiB, which {options.device} has not free"
        raise NotEnoughMemory(what, "use a smaller or quantized model, dtype=bfloat16, or less kv_tokens") from error


@contextlib.contextmanager
def _quietly() -> Generator[None]:
    """No progress bars and no advice for people who train."""
    library: Any = transformers.utils.logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of GGUF files has no switch
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()

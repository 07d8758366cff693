"""Runs a GGUF model through llama.cpp's C functions: one `llama_decode` a forward, logits read in place by numpy."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from a1agent.backends._llama_api import first_error, forget_errors, last_error
from a1agent.backends.base import Sampling
from a1agent.backends.batching.runner import END, NoCells, Rows
from a1agent.backends.batching.sampling import Draw, LogSumExp, can_draw
from a1agent.backends.llama_grammar import Constrained, grammar_of
from a1agent.backends.llama_options import KV_TYPES, LlamaOptions, Room, physical_cores, uses_flash
from a1agent.backends.llama_vocab import LlamaVocabulary
from a1agent.errors import BackendError, ModelLoadError

__all__ = ["LlamaRunner", "can_rewind"]

_FLASH = {"auto": -1, "off": 0, "on": 1}


def can_rewind(api: Any, model: Any) -> bool:
    """Whether the model forgets tokens one by one; recurrent and hybrid ones keep a state they cannot take back."""
    return not (api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model))


class LlamaRunner:
    """A model and its context. `copies`: each lane has cells of its own (`Room.apart`)."""

    def __init__(
        self, api: Any, model: Any, vocabulary: LlamaVocabulary, options: LlamaOptions, room: Room, outputs: int
    ) -> None:
        self._api = api
        self._model = model
        self._vocabulary = vocabulary
        self._vocab_size = vocabulary.size
        self._end_ids = np.fromiter(sorted(vocabulary.end_ids), np.intp)
        self.can_rewind = can_rewind(api, model)
        self.lanes, self.copies = room.lanes, room.apart
        self.device = "gpu" if options.n_gpu_layers < 0 and api.llama_supports_gpu_offload() else "cpu"
        self.share = 1.0 if self.device == "gpu" else min(1.0, options.n_threads / physical_cores())
        self.batch = min(options.n_batch, room.cells)
        self.outputs = min(outputs, self.batch)
        self._context = self._make_context(options, room)
        self.cells = int(api.llama_n_ctx(self._context))
        self._memory = api.llama_get_memory(self._context)
        self._window = int(api.llama_model_n_swa(model))
        self._moved = [_buffer(0), _buffer(0)]
        self.swap = self._swap if room.apart and not self._window else None
        self._fill_batch_struct()
        self._logits: npt.NDArray[np.float32] = np.empty((0, self._vocab_size), np.float32)
        self._output_rows: list[int] = []
        self._scratch = np.empty(self._vocab_size, np.float32)
        self._log_sum_exp = LogSumExp(self._vocab_size, options.n_threads)

    def forward(self, rows: Rows) -> None:
        """Runs the model. Raises `NoCells` when the cache is full, `BackendError` when the model fails."""
        count = len(rows)
        self._tokens[:count] = rows.tokens
        self._positions[:count] = rows.positions
        self._lane_ids[:count] = rows.lanes
        self._wanted[:count] = rows.wanted
        self._batch.n_tokens = count
        status = self._api.llama_decode(self._context, self._batch)
        if status == 1:
            raise NoCells("the KV cache is full")
        if status != 0:
            raise BackendError(f"llama_decode failed with {status} {last_error()}".strip(), "see verbose=true")
        self._output_rows = [row for row, wanted in enumerate(rows.wanted) if wanted]
        if self._output_rows:
            self._view_logits(len(self._output_rows))

    def copy(self, source: int, target: int, length: int) -> None:
        """Gives lane `target` the first `length` cells of lane `source`: the same ones, or copies."""
        if self.copies:
            self._copy_cells(source, target, length)
            return
        stop = length if self.can_rewind else -1
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, stop)

    def remove(self, lane: int, start: int) -> None:
        """Drops the cells of a lane from position `start` on."""
        self._api.llama_memory_seq_rm(self._memory, lane, start, -1)

    def holds(self, lane: int, length: int) -> bool:
        """Models with sliding windows let go of what left the window, which a rewound lane may need again."""
        if not self._window or not length:
            return True
        first = int(self._api.llama_memory_seq_pos_min(self._memory, lane))
        return 0 <= first <= max(0, length - self._window)

    def sampler(self, sampling: Sampling) -> Any:
        """None is greedy; llama.cpp's own samplers where the vocabulary must be sorted, else a faster draw."""
        grammar = None if sampling.schema is None else grammar_of(sampling.schema)
        if grammar is not None:
            return Constrained(self._api, self._vocabulary.handle, grammar, sampling, self._end_ids)
        if sampling.temperature <= 0:
            return None
        return Draw(sampling, self._vocab_size) if can_draw(sampling) else _Sampler(self._api, sampling)

    def sample(self, picks: list[tuple[int, Any]]) -> list[int]:
        """One token for each pair of a wanted row's index and a sampler."""
        return [self._pick(output, sampler) for output, sampler in picks]

    def log_probabilities(self, targets: list[int]) -> list[float]:
        """Log-probability of one target for each wanted row, in order; `END` is any token that ends the turn."""
        ids = np.asarray(targets, np.intp)
        total = self._log_sum_exp(self._logits[: len(ids)])
        result = self._logits[np.arange(len(ids)), ids] - total
        for row in np.flatnonzero(ids == END):
            result[row] = self._end_logit(self._logits[row]) - total[row]
        return result.tolist()

    def free(self) -> None:
        """Frees the context and the model."""
        self._vocabulary.close()
        self.free_context()
        self._api.llama_model_free(self._model)

    def free_context(self) -> None:
        """Frees the context: the KV cache and the buffers of a forward."""
        self._log_sum_exp.close()
        self._logits = np.empty((0, self._vocab_size), np.float32)
        self._api.llama_free(self._context)

    def _copy_cells(self, source: int, target: int, length: int) -> None:
        """Through a buffer, which moves the cells in use; llama.cpp's own copy moves all that a lane may ever hold.

        A buffer lacks what left the source's window, which a shorter copy still looks at.
        """
        if self._window:
            self._api.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            self.remove(target, length)
            return
        size = self._save(source, 0)
        self._restore(target, 0, size)
        self.remove(target, length)

    def _swap(self, first: int, second: int) -> None:
        """llama.cpp runs lanes together only where none is left out between them."""
        sizes = self._save(first, 0), self._save(second, 1)
        self._restore(second, 0, sizes[0])
        self._restore(first, 1, sizes[1])

    def _save(self, lane: int, buffer: int) -> int:
        """Bytes of a lane's cells, which are in a buffer now."""
        size = int(self._api.llama_state_seq_get_size(self._context, lane))
        if size > len(self._moved[buffer]):
            self._moved[buffer] = _buffer(size)
        if self._api.llama_state_seq_get_data(self._context, self._moved[buffer], size, lane) != size:
            raise BackendError("llama.cpp refused to read the cells of a sequence", "use kv=shared")
        return size

    def _restore(self, lane: int, buffer: int, size: int) -> None:
        self.remove(lane, 0)  # a state without cells would leave the lane as it is
        if self._api.llama_state_seq_set_data(self._context, self._moved[buffer], size, lane) != size:
            raise BackendError("llama.cpp refused the copy of a sequence", "use kv=shared")

    def _pick(self, output: int, sampler: Any) -> int:
        if sampler is None:
            return int(self._logits[output].argmax())
        if isinstance(sampler, Draw | Constrained):
            return sampler(self._logits[output], self._scratch)
        return self._api.llama_sampler_sample(sampler.chain, self._context, self._output_rows[output])

    def _end_logit(self, row: npt.NDArray[np.float32]) -> float:
        return float(np.logaddexp.reduce(row[self._end_ids])) if len(self._end_ids) else -np.inf

    def _make_context(self, options: LlamaOptions, room: Room) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx = room.cells
        params.n_batch = params.n_ubatch = self.batch
        params.n_seq_max = self.lanes  # llama.cpp refuses sequence ids beyond it, and reserves a row of logits for each
        params.n_outputs_max = max(self.outputs, params.n_seq_max)
        params.n_threads = params.n_threads_batch = options.n_threads
        params.flash_attn_type = _FLASH[options.flash_attn] if uses_flash(options, room) else _FLASH["off"]
        params.type_k, params.type_v = KV_TYPES[options.type_k][0], KV_TYPES[options.type_v][0]
        params.kv_unified = not room.apart
        params.swa_full = params.no_perf = True
        forget_errors()
        context = self._api.llama_init_from_model(self._model, params)
        if not context:
            hint = "lower n_ctx or kv_tokens, or leave type_k, type_v and flash_attn at their defaults"
            raise ModelLoadError(f"llama.cpp refused the context: {first_error() or 'not enough memory?'}", hint)
        return context

    def _fill_batch_struct(self) -> None:
        """One batch for the model's whole life; a forward writes into its arrays through numpy."""
        n = self.batch
        self._tokens, self._positions, self._lane_ids = (np.zeros(n, np.int32) for _ in range(3))
        self._wanted = np.zeros(n, np.int8)
        self._counts = np.ones(n, np.int32)
        item = self._lane_ids.itemsize
        self._lane_pointers = (self._lane_ids.ctypes.data + np.arange(n) * item).astype(np.uintp)
        self._batch = self._api.llama_batch(
            0,
            _pointer(self._tokens, ctypes.c_int32),
            None,
            _pointer(self._positions, ctypes.c_int32),
            _pointer(self._counts, ctypes.c_int32),
            _pointer(self._lane_pointers, ctypes.POINTER(ctypes.c_int32)),
            _pointer(self._wanted, ctypes.c_int8),
        )

    def _view_logits(self, count: int) -> None:
        pointer = self._api.llama_get_logits(self._context)
        self._logits = np.ctypeslib.as_array(pointer, (count, self._vocab_size))


class _Sampler:
    """A llama.cpp sampler chain, freed with this object."""

    def __init__(self, api: Any, sampling: Sampling) -> None:
        self._free = api.llama_sampler_free
        self.chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for link in _links(api, sampling):
            api.llama_sampler_chain_add(self.chain, link)

    def __del__(self) -> None:
        self._free(self.chain)


def _links(api: Any, sampling: Sampling) -> list[Any]:
    links: list[Any] = []
    if sampling.top_k > 0:
        links.append(api.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(api.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(api.llama_sampler_init_min_p(sampling.min_p, 1))
    links.append(api.llama_sampler_init_temp(sampling.temperature))
    links.append(api.llama_sampler_init_dist(sampling.seed % 0xFFFFFFFF))  # the largest would mean "any seed"
    return links


def _buffer(size: int) -> Any:
    return (ctypes.c_uint8 * size)()


def _pointer(values: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(values.ctypes.data, cast("Any", ctypes.POINTER(kind)))

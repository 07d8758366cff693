"""What can be known of the GPU's code without a GPU.

Its attention over a reference of the kernel, its graphs over a recorder that replays operations as a graph does (on the
same memory, without running any Python again), and its devices over tensors that have a device but no values.
"""

import gc
import logging
import math
import weakref
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("torch.nn.attention.varlen")

import torch
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from a1agent.backends import hf_model, torch_cuda, torch_sampling, transformers
from a1agent.backends.base import Sampling
from a1agent.backends.batching.runner import END, Rows
from a1agent.backends.hf_files import ModelShape
from a1agent.backends.torch_cuda import can_use_varlen
from a1agent.backends.torch_lanes import LaneModel
from a1agent.backends.torch_packed import PackedModel, probe, spread
from a1agent.backends.torch_runner import TorchRunner
from a1agent.backends.torch_sampling import Sampler, draw, log_probabilities
from a1agent.backends.torch_slots import _Block
from a1agent.backends.transformers import Companion
from a1agent.backends.transformers_options import TransformersOptions, buffers_of, outputs_of
from a1agent.errors import BackendError
from tests.backends.test_torch_models import ARCHITECTURES, Compared, model_of

# Models whose attention the kernel can do, and whose forward never waits for a value: gemma3n's asks for one.
FLASH = [kind for kind in ARCHITECTURES if kind not in ("gemma2", "gpt_oss", "deepseek_v3", "gemma3n_text")]


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
) -> torch.Tensor:
    """What the flash kernel computes, and what it demands of its arguments."""
    assert all(each.is_contiguous() for each in (query, key, value, cu_seq_q, cu_seq_k, seqused_k))
    assert {each.dtype for each in (cu_seq_q, cu_seq_k, seqused_k)} == {torch.int32}
    assert type(max_q) is type(max_k) is int
    assert enable_gqa == (query.shape[1] != key.shape[1])
    if max_q == 1 and window_size[0] < 0:  # any border would cost the kernel its way of reading keys once a group
        assert window_size == (-1, -1)
    return _kernel(query, key, value, cu_seq_q, cu_seq_k, seqused_k, max_q, max_k, scale, *window_size)


@torch.library.custom_op("a1agent_tests::kernel", mutates_args={})
def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    places: torch.Tensor,
    lengths: torch.Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    left: int,
    right: int,
) -> torch.Tensor:
    found = torch.empty_like(query)
    for i, (first, last) in enumerate(zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)):
        place, length, count = int(places[i]), int(lengths[i]), last - first
        assert count <= max_q
        assert count <= length <= max_k
        ours = [
            part[place : place + length].repeat_interleave(query.shape[1] // key.shape[1], 1) for part in (key, value)
        ]
        own, at = torch.arange(length - count, length)[:, None], torch.arange(length)
        seen = torch.ones(count, length, dtype=torch.bool)
        if right >= 0:
            seen &= at <= own + right
        if left >= 0:
            seen &= at >= own - left
        scores = torch.einsum("qhd,khd->hqk", query[first:last], ours[0]) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        found[first:last] = torch.einsum("hqk,khd->qhd", weights, ours[1])
    return found


class Place:
    """Where a tensor is: as a graph knows it, which keeps no memory that was there before it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._memory = weakref.ref(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._extents = tensor.storage_offset(), tensor.shape, tensor.stride()

    def tensor(self) -> torch.Tensor:
        memory = self._memory()
        assert memory is not None, "a graph reads memory that was given back"
        return torch.empty(0, dtype=self._dtype).set_(memory, *self._extents)


class Tape(TorchDispatchMode):
    """Records operations. Those that would make the host wait for the device fail, as they do in a capture."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self._pool: list[torch.UntypedStorage] = []  # made by the operations themselves

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.WAITING:
            raise RuntimeError(f"operation {func} not permitted when stream is capturing")
        given = {each.untyped_storage().data_ptr() for each in tensors_in((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        made = [each.untyped_storage() for each in tensors_in(found)]
        self._pool.extend(each for each in made if each.data_ptr() not in given)
        self.operations.append((func, *tree_map_only(torch.Tensor, Place, (args, kwargs or {}, found))))
        return found

    def replay(self) -> None:
        for func, *places in self.operations:
            args, kwargs, before = tree_map_only(Place, Place.tensor, places)
            now = func(*args, **kwargs)
            for old, new in zip(tensors_in(before), tensors_in(now), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors_in(found: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]


class Stream:
    """Everything is done at once."""

    def __init__(self, device: Any = None) -> None:
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


def capture(graph: Tape, *, pool: Any, stream: Stream, capture_error_mode: str) -> AbstractContextManager[Any]:
    assert pool == "pool"
    assert stream.waited  # what fills the buffers comes first
    assert capture_error_mode == "thread_local"  # models on other devices go on meanwhile
    return graph


class Seen(TorchDispatchMode):
    """Keeps the names of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that looks like a GPU to the code of one."""
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    present = Stream()
    for name, stand_in in {
        "CUDAGraph": Tape,
        "graph": capture,
        "Stream": Stream,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "current_stream": lambda *_: present,
        "graph_pool_handle": lambda: "pool",
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(_Block, "_reserve", token_major)


def token_major(self: _Block, extents: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The order in which a GPU keeps keys and values."""
    layers, lanes, heads, length, width = extents
    return torch.zeros(layers, lanes, length, heads, width, dtype=dtype).transpose(2, 3)


def flash(model: Any) -> PackedModel:
    return PackedModel(model, probe(model), 8, 64, flash=True)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("kind", FLASH)
def test_the_gpu_s_way_through_the_cache_gives_what_the_model_alone_gives(kind: str) -> None:
    texts = Compared(model_of(kind, **ARCHITECTURES[kind]), flash)
    texts.run((1, 0, 12, False))
    texts.run((5, 0, 3, True), (0, 0, 10, True))
    texts.run((0, 10, 11, True), (1, 12, 13, True), (2, 0, 5, False), (5, 3, 9, True))
    texts.run((5, 9, 10, True), (0, 11, 12, True), (2, 5, 6, True), (1, 13, 14, True))
    texts.run((2, 6, 7, False), (5, 10, 11, True), (1, 14, 15, True))
    texts.fork(1, 7, 10)
    texts.run((7, 10, 14, True), (5, 11, 12, True), (0, 12, 13, True))
    texts.run((2, 7, 8, True), (0, 13, 14, True), (7, 14, 15, True), (1, 15, 16, True))
    texts.run((0, 14, 15, True))
    graphs: Any = texts.cached._graphs  # type: ignore[union-attr]
    assert sorted(graphs._graphs) == [1, 4]


@pytest.mark.usefixtures("gpu")
def test_a_replay_runs_no_python_again(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Compared(model_of("llama"), flash)
    texts.run((1, 0, 12, False), (0, 0, 5, False))
    texts.run((1, 12, 13, True), (0, 5, 6, True))
    monkeypatch.setattr(torch_cuda.VarlenAttention, "__call__", None)
    texts.run((1, 13, 14, True), (0, 6, 7, True))
    with pytest.raises(TypeError):
        texts.run((1, 14, 16, True))


@pytest.mark.usefixtures("gpu")
def test_rows_that_fill_a_batch_up_touch_no_lane_in_use() -> None:
    texts = Compared(model_of("llama"), flash)
    for lane in (0, 1, 2):
        texts.run((lane, 0, 5, False))
    cache = texts.cached._cache  # type: ignore[union-attr]
    before = [keys.clone() for keys in cache.keys]
    texts.run((0, 5, 6, True), (1, 5, 6, True), (2, 5, 6, True))
    for keys, was in zip(cache.keys, before, strict=True):
        changed = {(lane, at) for lane, _, at, _ in (keys != was).nonzero().tolist()}
        assert changed - {(8, 0)} == {(0, 5), (1, 5), (2, 5)}


@pytest.mark.usefixtures("gpu")
def test_graphs_of_all_batch_sizes_leave_their_logits_in_one_place() -> None:
    texts = Compared(model_of("llama"), flash)
    for lane in (0, 1, 2):
        texts.run((lane, 0, 5, False))
    texts.run((0, 5, 6, True))
    texts.run((0, 6, 7, True), (1, 5, 6, True))
    texts.run((0, 7, 8, True), (1, 6, 7, False), (2, 5, 6, True))
    texts.run((0, 8, 9, False), (1, 7, 8, False))
    graphs: Any = texts.cached._graphs  # type: ignore[union-attr]
    assert sorted(graphs._graphs) == [1, 2, 4]
    assert len({each._logits.data_ptr() for each in graphs._graphs.values()}) == 1


@pytest.mark.usefixtures("gpu")
def test_around_a_replay_the_device_is_asked_for_nothing_but_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Compared(model_of("llama"), flash)
    texts.run((1, 0, 12, False), (0, 0, 5, False))
    texts.run((1, 12, 13, True), (0, 5, 6, True))
    monkeypatch.setattr(Tape, "replay", lambda _: None)
    monkeypatch.setattr(torch_cuda._Graph, "_fill", lambda *_: None)
    with Seen() as seen, torch.inference_mode():
        texts.cached.forward(Rows([3, 4], [13, 6], [1, 0], [1, 1]))
    assert set(seen.operations) <= {"slice"}


@pytest.mark.usefixtures("gpu")
def test_a_capture_that_fails_costs_the_graphs_and_no_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Tape, "WAITING", ("index_put_",))
    texts = Compared(model_of("llama"), flash)
    texts.run((1, 0, 12, False), (0, 0, 5, False))
    for at in (0, 1, 2):
        texts.run((1, 12 + at, 13 + at, True), (0, 5 + at, 6 + at, True))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without CUDA graphs" in caplog.text


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("right", "used"), [(True, True), (False, False)])
def test_a_kernel_that_is_wrong_is_not_used_and_slots_still_are(
    right: bool, used: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hf_model, "can_use_varlen", lambda *_: True)
    if not right:
        monkeypatch.setattr(varlen, "varlen_attn", lambda *args, **more: kernel(*args, **more) * 1.1)
    model = model_of("llama")
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        found = hf_model.batched(model, "tiny", TransformersOptions(), 4, 64)
    assert isinstance(found, PackedModel)
    assert (found._graphs is not None) == used
    assert ("without the flash kernel" in caplog.text) != used


@pytest.mark.usefixtures("gpu")
def test_what_tries_the_kernel_out_while_a_model_loads_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_model, "can_use_varlen", lambda *_: True)
    model = model_of("llama")
    gc.collect()
    gc.disable()  # on a GPU what waits for it holds memory
    try:
        with torch.inference_mode():
            hf_model.batched(model, "tiny", TransformersOptions(), 4, 64)
        assert not [each for each in gc.get_objects() if type(each) is torch_cuda._Graph]
    finally:
        gc.enable()


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, but for copies, and the numbers that ride along anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor) and each.dim()]
        devices = {each.device.type for each in tensors}
        if len(devices) > 1 and func.overloadpacket.__name__ not in ("copy_", "_to_copy"):
            raise AssertionError(f"{func} on {devices}")
        return func(*args, **(kwargs or {}))


def test_tensors_of_several_devices_are_noticed() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="meta"):
        torch.zeros(3, device="meta")[torch.tensor([1])]


@pytest.mark.parametrize("kernels", [True, False], ids=["flash", "scaled dot products"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "gemma2"])
def test_every_tensor_of_a_forward_is_where_it_belongs(kind: str, kernels: bool) -> None:
    """On a device that knows shapes and types only: asking for values fails too."""
    if kernels and kind not in FLASH:
        pytest.skip("the kernel has no soft cap")
    with torch.inference_mode(), OneDevice():
        with torch.device("meta"):
            model = model_of(kind, **ARCHITECTURES[kind]).to(torch.bfloat16)
        kinds = probe(model)
        assert {(each.shape.device.type, each.shape.dtype) for each in kinds} == {("meta", torch.bfloat16)}
        packed = PackedModel(model, kinds, 8, 64)
        packed._flash = kernels
        for rows in (
            Rows([1, 2, 3, 4], [0, 1, 2, 5], [1, 1, 1, 0], [0, 0, 1, 1]),
            Rows([1, 2], [4, 5], [3, 0], [1, 1]),
            Rows([1, 2, 3], [4, 5, 6], [3, 3, 3], [1, 1, 1]),
        ):
            logits = packed.forward(rows)
            assert (logits.device.type, logits.shape[0]) == ("meta", sum(rows.wanted))
        packed.copy(1, 2, 3)


class Sent(TorchDispatchMode):
    """Counts what goes to a device, which the host must not wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("to", "_to_copy") and found.is_meta and not args[0].is_meta:
            assert kwargs["non_blocking"]
            self.count += 1
        return found


@pytest.mark.parametrize("kernels", [True, False], ids=["flash", "scaled dot products"])
def test_a_forward_sends_what_it_needs_once_and_waits_for_none_of_it(kernels: bool) -> None:
    with torch.inference_mode(), torch.device("meta"):
        model = model_of("llama", num_hidden_layers=4).to(torch.bfloat16)
        packed = PackedModel(model, probe(model), 8, 64)
        packed._flash = kernels
    with torch.inference_mode(), Sent() as sent:
        packed.forward(Rows([1, 2, 3, 4, 5], [4, 5, 2, 5, 6], [0, 3, 5, 6, 6], [1, 1, 1, 0, 1]))
    assert sent.count == 8


def test_drawing_tokens_and_reading_log_probabilities_waits_for_results_only(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.empty(3, 1000, device="meta")
    monkeypatch.setattr(torch_sampling, "_listed", lambda values: values)
    samplers = [Sampler(Sampling(seed=seed, min_p=0.1)) for seed in range(2)]
    with Sent() as sent:
        draw(logits, [*samplers, None])
        draw(logits[:2], samplers)
        log_probabilities(logits, [3, END, 5], torch.empty(1, dtype=torch.long, device="meta"))
    assert sent.count == 4 + 3 + 2


def spread_out(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model on two devices, the first of them without values, with the hooks that accelerate puts there."""
    hooks: Any = pytest.importorskip("accelerate.hooks")
    operations: Any = pytest.importorskip("accelerate.utils.operations")
    theirs = operations.send_to_device

    def send(tensor: Any, device: Any, non_blocking: bool = False, skip_keys: Any = None) -> Any:
        """What comes from a device without values is zero."""
        if isinstance(tensor, torch.Tensor) and tensor.is_meta and str(device) == "cpu":
            return torch.zeros_like(tensor, device=device)
        return theirs(tensor, device, non_blocking, skip_keys)

    for place in (hooks, operations):
        monkeypatch.setattr(place, "send_to_device", send)
    model = model_of("llama")
    parts = {"meta": ["model.embed_tokens", "model.layers.0"], "cpu": ["model.layers.1", "model.norm", "lm_head"]}
    where = {part: device for device, own in parts.items() for part in own}
    hooks.attach_align_device_hook_on_blocks(
        model,
        execution_device={**where, "model.rotary_emb": "meta", "": "meta"},
        offload=dict.fromkeys([*where, "model.rotary_emb"], False),
        skip_keys=model._skip_keys_device_placement,
    )
    model.hf_device_map = {part: list(parts).index(device) for part, device in where.items()}
    return model


class Indexed(TorchDispatchMode):
    """Refuses what a GPU refuses: numbers of rows on another GPU than the rows."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "index":
            rows, numbers = args
            assert {each.device for each in numbers if each is not None} <= {rows.device, torch.device("cpu")}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lanes", [False, True])
def test_a_model_on_two_devices_reads_the_rows_wanted_where_they_are(
    lanes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        model = spread_out(monkeypatch)
        cached = LaneModel(model) if lanes else PackedModel(model, probe(model), 4, 16)
        with Indexed():
            logits = cached.forward(Rows([1, 2, 3, 4], [0, 1, 0, 0], [1, 1, 0, 2], [0, 1, 1, 1]))
    assert logits.shape == (3, 120)


# Memory


class Filled:
    """A model whose every forward makes a large tensor, and fails where `full` says so."""

    def __init__(self) -> None:
        self.full = False
        self.made: list[weakref.ref[torch.Tensor]] = []

    def forward(self, rows: Rows) -> torch.Tensor:
        assert not [made for made in self.made if made() is not None]  # nothing of the forwards before
        large = torch.zeros(1, 8)
        self.made.append(weakref.ref(large))
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return large


def test_neither_the_last_logits_nor_an_error_keep_memory_that_the_next_forward_needs() -> None:
    words: Any = SimpleNamespace(size=8, end_ids=frozenset({1}))
    model: Any = Filled()
    runner = TorchRunner(model, words, torch.device("cpu"), cells=64, lanes=4, batch=8, outputs=8)
    rows = Rows([1], [0], [0], [1])
    runner.forward(rows)
    runner.forward(rows)
    model.full = True
    with pytest.raises(BackendError, match="out of memory") as caught:
        runner.forward(rows)
    model.full = False
    runner.forward(rows)
    assert runner.log_probabilities([2]) == [pytest.approx(-math.log(8))]
    assert caught.value.hint


class Crowded:
    """Logits of which no row can be copied for want of memory."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return 2

    def index_select(self, *_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    __getitem__ = index_select


def test_memory_that_runs_out_while_a_token_is_drawn_is_told_as_in_a_forward() -> None:
    words: Any = SimpleNamespace(size=8, end_ids=frozenset({1}))
    model: Any = Filled()
    runner: Any = TorchRunner(model, words, torch.device("cpu"), cells=64, lanes=4, batch=8, outputs=8)
    runner._logits = Crowded()
    with pytest.raises(BackendError, match="out of memory"):
        runner.sample([(1, None)])


SHAPE = ModelShape(
    parameters=8 << 30,
    stored_bytes=16 << 30,
    quantized=False,
    cell_values=65536,
    vocabulary=128256,
    width=4096,
    inner=14336,
    context=131072,
)
BUFFERS = buffers_of(SHAPE, 4096, "gpu", 2)


def lanes_with(
    free: dict[int, int], shares: dict[int, float], monkeypatch: pytest.MonkeyPatch, *later: Companion
) -> int:
    """How many sequences of 8192 tokens fit on GPUs with so many GiB free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index] << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    files: Any = SimpleNamespace(shape=SHAPE)
    devices = {torch.device("cuda", index): share for index, share in shares.items()}
    lanes, cells = transformers._room(files, TransformersOptions(), 8192, devices, 2, 4096, later)
    assert cells == lanes * 8192
    return lanes


@pytest.mark.parametrize("free", [4, 8, 24, 80, 140])
def test_what_a_forward_takes_is_left_free_beside_the_cache(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = lanes_with({0: free}, {0: 1.0}, monkeypatch)
    taken = (lanes + 1) * 8192 * 65536 * 2  # and a lane for rows that fill a batch up
    assert lanes == 1 or taken + BUFFERS <= free << 30
    assert BUFFERS > 2 << 30  # more than a share of a small device


def test_what_captured_steps_keep_for_themselves_is_left_free_too() -> None:
    logits = outputs_of(SHAPE.vocabulary, 4096, "gpu", 2) + 2 * 256
    assert (4096 + 256) * (6 * SHAPE.width + 3 * SHAPE.inner) * 2 + logits * SHAPE.vocabulary * 2 < BUFFERS


def test_a_cache_leaves_room_for_the_other_model_of_a_pair_and_as_many_of_its_lanes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, fixed, lane, here = 8192 * 65536 * 2, 30 << 30, 3 << 30, torch.device("cuda", 0)
    lanes = lanes_with({0: 70}, {0: 1.0}, monkeypatch, Companion(fixed, lane, here))
    assert lanes > 4
    assert lanes * (own + lane) + fixed + BUFFERS <= 70 << 30
    alone = lanes_with({0: 70}, {0: 1.0}, monkeypatch)
    assert lanes_with({0: 70}, {0: 1.0}, monkeypatch, Companion(fixed, lane, torch.device("cuda", 1))) == alone
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert lanes < lanes_with({0: 70}, {0: 1.0}, monkeypatch, Companion(fixed, lane, None)) < alone


@pytest.mark.parametrize(
    ("options", "weights", "tokens"),
    [
        ({}, SHAPE.stored_bytes, 0),
        ({"dtype": "float16"}, 2 * SHAPE.parameters, 0),
        ({"dtype": "float32"}, 4 * SHAPE.parameters, 0),
        ({"kv_tokens": 1000}, SHAPE.stored_bytes, 1000),
        ({"device_map": "balanced"}, SHAPE.stored_bytes, 0),
    ],
)
def test_what_a_model_will_take_of_a_gpu_is_read_from_its_files(
    options: dict[str, Any], weights: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = torch.device("cuda")
    monkeypatch.setattr(transformers, "locate", lambda *_: None)
    monkeypatch.setattr(transformers, "_read", lambda _: SimpleNamespace(shape=SHAPE))
    monkeypatch.setattr(hf_model, "place", lambda _: place)
    width = 4 if options.get("dtype") == "float32" else 2
    found = transformers._companion("large", options)
    assert found.fixed == weights + buffers_of(SHAPE, 4096, "gpu", width) + tokens * SHAPE.cell_values * width
    assert found.lane == (0 if tokens else 8192 * SHAPE.cell_values * width)
    assert found.device == (None if "device_map" in options else place)


def test_a_model_on_two_gpus_has_room_for_twice_as_many_and_the_fuller_one_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = lanes_with({0: 24}, {0: 1.0}, monkeypatch)
    assert lanes_with({0: 24, 1: 24}, {0: 0.5, 1: 0.5}, monkeypatch) == pytest.approx(2 * alone, abs=2)
    assert lanes_with({0: 24, 1: 8}, {0: 0.5, 1: 0.5}, monkeypatch) < alone


@pytest.mark.parametrize(
    ("placed", "shares"),
    [
        (None, {"cpu": 1.0}),
        ({"": torch.device("cpu")}, {"cpu": 1.0}),
        (
            {"embed": 0, "layers.0": 0, "layers.1": 1, "layers.2": 1, "layers.3": torch.device("cuda", 1), "norm": 1},
            {"cuda:0": 0.25, "cuda:1": 0.75},
        ),
        (
            {"embed": 0, "layers.0": 0, "layers.1": "cpu", "layers.2": "disk", "layers.3": 0},
            {"cuda:0": 0.5, "cpu": 0.5},
        ),
    ],
)
def test_where_layers_run_is_read_from_where_they_were_put(placed: Any, shares: dict[str, float]) -> None:
    model = SimpleNamespace(device="cpu", hf_device_map=placed)
    assert {str(device): share for device, share in spread(model).items()} == shares


def test_the_kernel_is_called_by_the_names_that_the_library_gives_its_arguments() -> None:
    import inspect

    theirs, ours = (list(inspect.signature(each).parameters) for each in (varlen.varlen_attn, kernel))
    assert ours[:7] == theirs[:7]
    assert set(ours) <= set(theirs)


def test_models_that_the_kernel_cannot_do_do_not_get_it() -> None:
    with torch.inference_mode():
        kinds = probe(model_of("llama"))
    assert not can_use_varlen([kind.shape for kind in kinds], [kind.traits for kind in kinds])  # on a processor

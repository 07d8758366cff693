"""The math worker judges in a process of its own, survives what that process does not, and leaves none behind."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from a1agent.engine import math_worker
from a1agent.engine.equivalence import Equivalence
from a1agent.engine.math_worker import MathWorker, refusal

LIMIT_S = 90.0

PARSER = "latex2sympy2_extended/latex2sympy2.py"
STUB = """
import os, time
from sympy import Symbol

class NormalizationConfig:
    def __init__(self, **options): ...

class ConversionConfig(NormalizationConfig): ...

def normalize_latex(text, config):
    return text

def latex2sympy(text, **options):
    if text == "hang":
        while True: time.sleep(60)
    if text == "hold the lock":
        return 9 ** (9 ** 9)
    if text == "die":
        os._exit(3)
    if text == "bomb":
        blocks = []
        while True: blocks.append(bytearray(1 << 24))
    if text == "unreadable":
        raise RuntimeError(text)
    if text == "print":
        print("noise")
    if text == "secret":
        return Symbol(os.environ.get("SOME_API_KEY", "none"))
    return Symbol(text)
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A parser of LaTeX that misbehaves on request, in place of the real one."""
    folder = tmp_path / "stub"
    (folder / "latex2sympy2_extended").mkdir(parents=True)
    (folder / "latex2sympy2_extended" / "__init__.py").touch()
    (folder / PARSER).write_text(STUB, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return folder


@pytest.fixture
async def worker(stub: Path) -> AsyncIterator[MathWorker]:
    worker = MathWorker(deadline_s=1.0, memory_bytes=512 << 20)
    yield worker
    await worker.aclose()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    if sys.platform == "win32":  # where signal 0 is Ctrl-C
        windows = ctypes.WinDLL("kernel32")
        windows.OpenProcess.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(windows.OpenProcess(0x100000, False, pid))  # SYNCHRONIZE
        waited = windows.WaitForSingleObject(handle, 0) if handle else 0
        windows.CloseHandle(handle)
        return waited == 0x102  # WAIT_TIMEOUT
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)  # polls another process: nothing to await


@pytest.mark.anyio
async def test_no_process_starts_before_the_first_pair(worker: MathWorker) -> None:
    assert worker.pid is None
    assert await worker.equal("a", "a") is True
    assert worker.pid is not None


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["hang", "hold the lock"])
async def test_hanging_pair_is_killed_at_its_deadline_and_the_next_one_works(worker: MathWorker, text: str) -> None:
    assert await worker.equal("a", "a") is True
    hung = worker.pid
    assert hung is not None
    started = time.monotonic()
    async with asyncio.timeout(LIMIT_S):
        assert await worker.equal(text, "a") is None
        assert time.monotonic() - started < 10
        assert not alive(hung)
        assert await worker.equal("b", "b") is True
    assert worker.pid != hung


@pytest.mark.anyio
async def test_crash_and_error_cost_one_pair_only(worker: MathWorker) -> None:
    assert await worker.equal("die", "a") is None
    assert await worker.equal("unreadable", "a") is False
    assert await worker.equal("print", "print") is True
    assert await worker.equal("a", "b") is False


@pytest.mark.anyio
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not limit a process's memory")
async def test_memory_bomb_is_stopped_before_its_deadline(stub: Path) -> None:
    worker = MathWorker(deadline_s=LIMIT_S, memory_bytes=512 << 20)
    try:
        async with asyncio.timeout(LIMIT_S / 2):
            assert await worker.equal("bomb", "a") is None
            assert await worker.equal("a", "a") is True
    finally:
        await worker.aclose()


@pytest.mark.anyio
async def test_event_loop_runs_on_while_a_pair_hangs(worker: MathWorker) -> None:
    pair = asyncio.create_task(worker.equal("hang", "a"))
    turns = 0
    while not pair.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert turns > 20
    assert pair.result() is None


@pytest.mark.anyio
async def test_pairs_asked_at_once_are_answered_in_turn(worker: MathWorker) -> None:
    answers = await asyncio.gather(*(worker.equal(str(n % 3), "1") for n in range(12)))
    assert answers == [n % 3 == 1 for n in range(12)]


@pytest.mark.anyio
async def test_closing_ends_the_process_in_the_middle_of_a_pair(stub: Path) -> None:
    worker = MathWorker(deadline_s=LIMIT_S)
    assert await worker.equal("a", "a") is True
    pid = worker.pid
    assert pid is not None
    pairs = [asyncio.create_task(worker.equal("hang", "a")) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S / 2):
        await worker.aclose()
        assert await asyncio.gather(*pairs, return_exceptions=True) == [None] * 3
    assert not alive(pid)
    assert worker.pid is None
    await worker.aclose()
    assert await worker.equal("a", "a") is True  # it starts anew
    await worker.aclose()


@pytest.mark.anyio
async def test_cancelled_pair_leaves_the_worker_usable(worker: MathWorker) -> None:
    assert await worker.equal("a", "a") is True
    pair = asyncio.create_task(worker.equal("hang", "a"))
    await asyncio.sleep(0)
    pair.cancel()
    await asyncio.gather(pair, return_exceptions=True)
    assert await worker.equal("b", "b") is True


def test_one_worker_serves_successive_event_loops(stub: Path) -> None:
    worker = MathWorker(deadline_s=5.0)
    pids: set[int | None] = set()
    for _ in range(3):
        assert asyncio.run(worker.equal("a", "a")) is True
        pids.add(worker.pid)
    assert len(pids) == 1
    asyncio.run(worker.aclose())
    assert not alive(pids.pop() or 0)


@pytest.mark.anyio
async def test_worker_sees_no_keys(worker: MathWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sesame")
    assert await worker.equal("secret", "none") is True


@pytest.mark.parametrize("busy", ["nothing", "hang", "hold the lock"])
def test_worker_dies_with_its_parent(stub: Path, busy: str) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, importlib.util, sys
        spec = importlib.util.spec_from_file_location("math_worker", {math_worker.__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        async def main():
            worker = module.MathWorker(deadline_s=2.0)
            await worker.equal("a", "a")
            print(worker.pid, flush=True)
            if {busy!r} != "nothing":
                await worker.equal({busy!r}, "a")
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid))


def test_forgotten_worker_is_ended_with_the_program(stub: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, importlib.util
        spec = importlib.util.spec_from_file_location("math_worker", {math_worker.__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        worker = module.MathWorker()
        print(asyncio.run(worker.equal("a", "a")), worker.pid)
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    verdict, pid = done.stdout.split()
    assert (verdict, done.stderr) == ("True", "")
    wait_until(lambda: not alive(int(pid)))


@pytest.mark.anyio
async def test_without_math_verify_nothing_is_judged_and_no_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_worker, "_is_installed", lambda: False)
    worker = MathWorker()
    equivalence = Equivalence(worker)
    assert await worker.equal("x+1", "1+x") is None
    assert worker.pid is None
    assert await equivalence.same("x+1", "1+x") is False
    assert await equivalence.same("x+1", "$x + 1$") is True
    await equivalence.aclose()


@pytest.mark.anyio
async def test_worker_that_cannot_start_is_not_tried_again(stub: Path) -> None:
    (stub / PARSER).write_text("raise ImportError('broken')", encoding="utf-8")
    worker = MathWorker()
    assert await worker.equal("a", "b") is None
    (stub / PARSER).write_text(STUB, encoding="utf-8")
    assert await worker.equal("a", "a") is None
    await worker.aclose()
    assert await worker.equal("a", "a") is True
    await worker.aclose()


GIANTS = [
    "9**9**9**9",
    "9^{9^{9^{9}}}",
    "9^9^9",
    "(9^{9})^{9^9}",
    "2^{1000000}",
    "2^{-99999}",
    "2^{999\\cdot 999}",
    "2^\\frac{100000}{1}",
    "e^{100000x}",
    "2^{10^{3}}",
    "\\left(3\\right)^{ 9 9 9 9 9 }",
    "1e99999",
    "99999!",
    "(10^3)!",
    "x" * 1001,
]


@pytest.mark.parametrize("text", GIANTS)
def test_what_would_grow_without_bound_is_refused(text: str) -> None:
    assert refusal(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "x^2",
            "e^{-x^2}",
            "2^{10}",
            "2^{n+1}",
            "2^{\\frac{1}{2}}",
            "10^{-3}",
            "90^\\circ",
            "A^T",
            "x^{2}y^{12}",
            "20!",
        ),
        *("(n-1)!", "2^{.5}", "2^{0.5}", "x^\\frac12", "e^{2\\pi i}", "(x^2)^3", "\\sqrt[3]{12345678}", "1.5e3", "x^{"),
    ],
)
def test_ordinary_powers_are_not_refused(text: str) -> None:
    assert refusal(text) is None


@pytest.mark.anyio
async def test_giants_start_no_process(worker: MathWorker) -> None:
    assert [await worker.equal(text, "1") for text in GIANTS] == [False] * len(GIANTS)
    assert worker.pid is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("\\sqrt{8}", "2\\sqrt2", True),
        ("x = 5", "$5$", True),
        ("\\frac{\\pi}{2}", "0.5\\pi", True),
        ("(5, \\infty)", "x > 5", True),
        ("3*x-1*y+13=0", "3x+4y+14=0", False),
        ("x+1", "x+2", False),
        ("3x+1", "3", False),
        ("f'(2)+1", "f(2)+1", False),
        ("2y'+1", "1+2y'", True),
        ("2\\text{ hours }30\\text{ minutes}", "2\\text{ hours }45\\text{ minutes}", False),
        ("\\sqrt{20}\\text{ cm}", "2\\sqrt{5}", True),
        ("__import__('os').abort()", "1", False),
        ("9^{9^{9^{9}}}", "9^{9^{9}}", False),
    ],
)
async def test_real_math_verify_judges_algebra(a: str, b: str, same: bool) -> None:
    pytest.importorskip("latex2sympy2_extended")
    equivalence = Equivalence(MathWorker(deadline_s=30.0))
    try:
        async with asyncio.timeout(LIMIT_S):
            assert await equivalence.same(a, b) is same
            assert await equivalence.same(b, a) is same
    finally:
        await equivalence.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        "open('{}','w')",
        "__import__('os').system('touch {}')",
        "\\operatorname{{open('{}','w')}}",
        "x_{{open('{}','w')}}",
        "f(eval(\"open('{}','w')\"))",
    ],
)
async def test_an_answer_is_never_run_as_code(text: str, tmp_path: Path) -> None:
    pytest.importorskip("latex2sympy2_extended")
    judge = MathWorker(deadline_s=60.0)
    try:
        assert not await judge.equal(text.format(tmp_path / "made"), "x+1")
        assert os.listdir(tmp_path) == []
    finally:
        await judge.aclose()


def test_program_answers_json_lines(stub: Path) -> None:
    arguments = [sys.executable, "-P", math_worker.PROGRAM, "5", str(1 << 30)]
    done = subprocess.run(arguments, input="", capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0
    assert all(json.loads(line) == {"ready": True} for line in done.stdout.splitlines())

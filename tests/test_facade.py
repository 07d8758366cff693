"""Calls and streams without an event loop: left behind by garbage collection and forks, and asked for at the end."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from a1agent import facade

FORKING = """
import os, warnings
from a1agent import A1

warnings.simplefilter("ignore")  # that threads stay behind is the point
with A1("scripted:sums?jitter=1000", "scripted:sums", calibration=None) as a1:
    stream = a1.stream("1 + 2 + 3")
    next(stream)
    child = os.fork()
    stream.close()
    if child == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

OUTLIVING = """
import concurrent.futures, threading
from a1agent import A1

def main_thread_has_ended():
    try:
        concurrent.futures.ThreadPoolExecutor(1).submit(int).result()
    except RuntimeError:
        return True

def ask():
    while not main_thread_has_ended():
        pass
    with A1("scripted:sums", "scripted:sums", calibration=None) as a1:
        print(a1.solve("1 + 2 + 3").answer, list(a1.stream("2 + 3"))[-1].result.answer)

threading.Thread(target=ask).start()
"""


def test_a_stream_collected_on_the_loop_s_own_thread_ends_without_being_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(facade, "_loop", None)  # one that other tests do not need
    closed = threading.Event()

    async def items() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        finally:
            closed.set()

    streams = [facade.iterate(items())]
    next(streams[0])

    async def collect() -> None:
        streams.clear()

    threading.Thread(target=lambda: facade.run(collect()), daemon=True).start()
    assert closed.wait(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_wait_for_its_parent_s_stream() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr


def test_a_thread_that_outlives_the_main_thread_may_ask() -> None:
    done = subprocess.run([sys.executable, "-c", OUTLIVING], capture_output=True, text=True, timeout=60)
    assert done.stdout == "6 5\n", done.stderr

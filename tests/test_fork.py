"""An agent and the processes that are forked from its own, as worker pools do on Linux."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, warnings
from a1agent import A1, BackendClosed

warnings.simplefilter("ignore")  # that threads stay behind is the point
OPTIONS = {"calibration": None, "seed": 1, "chains": 1}
SUM = "What is 47 * 28 + 783?"

def ask(agent):
    try:
        with agent as a1:
            return repr(a1.solve(SUM).text)
    except BackendClosed as error:
        return f"{error.what}. {error.hint}"

def child(used, unused, answers):
    answers.put([ask(A1(DRAFT, TARGET, **OPTIONS)), ask(unused), ask(used)])

DRAFT, TARGET = "PAIR".split()
used, unused = A1(DRAFT, TARGET, **OPTIONS), A1(DRAFT, TARGET, **OPTIONS)
before = repr(used.solve(SUM).text)
fork = multiprocessing.get_context("fork")
answers = fork.SimpleQueue()
process = fork.Process(target=child, args=(used, unused, answers))
process.start()
print(*answers.get(), sep="\\n")
process.join()
print(before, process.exitcode, sep="\\n")
print(repr(used.solve(SUM).text))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("pair", ["scripted:sums scripted:sums", "embedded:draft embedded:target"])
def test_a_forked_process_loads_models_of_its_own_and_refuses_those_of_its_parent(pair: str) -> None:
    if pair.startswith("embedded"):
        pytest.importorskip("llama_cpp")
    code = PROGRAM.replace("PAIR", pair)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    new, unused, used, before, exit_code, after = done.stdout.splitlines()
    assert new == unused == before == after  # one chain and one seed give one text
    assert "stayed in its parent" in used and '"spawn"' in used
    assert exit_code == "0"

"""Runs every benchmark and writes BENCHMARKS.md: commands, machine, date, versions, figures and plots.

    python tests/benchmarks/run_all.py [--only NAME ...] [--missing]

What a benchmark printed is kept in tests/benchmarks/results/NAME.md as soon as it is done, and the page is put together
from these files: a run that was cut short goes on with `--missing`, and a figure can be taken anew without the others.
Answers of `a1 bench` wait in `runs/` until its report is made; with `--missing` a run goes on with them.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from a1agent.bench.machine import describe

ROOT = Path(__file__).parents[2]
RESULTS = Path("tests/benchmarks/results")


@dataclass(frozen=True, slots=True)
class Section:
    """A benchmark that prints its figures: what they are, the command, and captions of the plots it draws, by name."""

    title: str
    script: str
    plots: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def command(self) -> list[str]:
        """What is run, from the project's root."""
        return [self.script, *(("--plots", RESULTS.as_posix()) if self.plots else ())]


# Runs of `a1 bench` on the embedded pair, by name: what they are, and their flags.
RUNS = {
    "accuracy": (
        "Accuracy on 500 held-out problems",
        ["--limit", "500", "--seed", "7", "--modes", "draft,target,a1,a1-random"],
    ),
    "rollback": (
        "Rejected steps of which the target keeps the beginning",
        [
            *("--limit", "500", "--seed", "7", "--modes", "target,a1"),
            *("--rates", "0.1,0.2,0.3,0.5", "--takeover", "rollback"),
        ],
    ),
    "chains": (
        "More and fewer chains, a barrier, and screening",
        [
            *("--limit", "100", "--seed", "7", "--modes", "target,a1,a1-sync", "--rates", "0.3"),
            *("--more-chains", "2,4,16", "--scored", "0.25,0.5,0.75"),
        ],
    ),
}

SECTIONS = {
    "efficiency": Section("Efficiency", "tests/benchmarks/bench_efficiency.py"),
    "scheduling": Section("Waiting for company on a shared device", "tests/benchmarks/bench_scheduling.py"),
    "simulated": Section(
        "Against the target alone, no barrier, looking ahead, screening: simulated servers",
        "tests/benchmarks/bench_simulated.py",
        {
            "simulated_speedup": "Speed-up over the target alone by rate; dashed: ceiling, one model after the other.",
            "simulated_barrier": "Seconds a question with and without the barrier, and their ratio, by chains.",
        },
    ),
    "overhead": Section(
        "What A1 itself costs",
        "tests/benchmarks/bench_overhead.py",
        {"overhead": "CPU seconds of A1 itself, and memory a chain, from 1 to 10,000 chains."},
    ),
    "coverage": Section("Marginal and conditional coverage", "tests/benchmarks/bench_coverage.py"),
    "early-stop": Section("Votes that stop early", "tests/benchmarks/bench_early_stop.py"),
    "server": Section("The server", "tests/benchmarks/bench_server.py"),
    "wire": Section("Tokens on the wire", "tests/benchmarks/bench_wire.py"),
    "langchain": Section("Batches in LangChain", "integrations/langchain/tests/benchmarks/bench_batch.py"),
    "conformal": Section("Decisions", "tests/benchmarks/bench_conformal.py"),
    "llama-cpp": Section("The llama.cpp backend against llama.cpp", "tests/benchmarks/bench_llama_cpp.py"),
    "transformers": Section("The transformers backend", "tests/benchmarks/bench_transformers.py"),
}


def printed(name: str) -> str:
    """Title, command, what it printed, and its plots; tables stay tables."""
    section = SECTIONS[name]
    print(f"python {' '.join(section.command)}", flush=True)
    run = [sys.executable, *section.command]
    done = subprocess.run(run, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    text = done.stdout.strip()
    shown = text if "|---" in text or "| ---" in text else "\n".join(f"    {line}" for line in text.splitlines())
    plots = [f"![{plot}]({RESULTS.as_posix()}/{plot}.png)\n\n{caption}" for plot, caption in section.plots.items()]
    return "\n\n".join((f"## {section.title}", made(), f"    python {' '.join(section.command)}", shown, *plots))


def made() -> str:
    """When, and on what."""
    facts = "; ".join(f"{name} {value}" for name, value in describe().items())
    return f"Measured {datetime.now(UTC):%Y-%m-%d}; {facts}."


def report(name: str, resume: bool) -> str:
    """What `a1 bench` reports, its headings one level lower, its plots kept beside the page."""
    title, flags = RUNS[name]
    out = folder_of(name)
    going_on = resume and (out / "run.json").exists()
    if not going_on:
        shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "a1agent", "bench", *flags, "--out", str(out)]
    subprocess.run([*command, *(["--resume"] if going_on else [])], cwd=ROOT, check=True)
    text = (out / "report.md").read_text(encoding="utf-8").replace(str(out), "bench")
    for plot in (*out.glob("*.png"), *out.glob("*.svg")):
        shutil.copy(plot, ROOT / RESULTS / f"{name}_{plot.name}")
    _, *lines = [f"#{line}" if line.startswith("#") else line for line in text.splitlines()]
    return "\n".join((f"## {title}", *lines)).replace("](", f"]({RESULTS.as_posix()}/{name}_")


def folder_of(name: str) -> Path:
    """Where a run of `a1 bench` keeps its answers until they are on the page."""
    return ROOT / "runs" / name


def page() -> str:
    """What has been measured so far, in order."""
    files = [ROOT / RESULTS / f"{name}.md" for name in (*RUNS, *SECTIONS)]
    parts = [file.read_text(encoding="utf-8").strip() for file in files if file.exists()]
    opening = "# Benchmarks\n\nMade by `make bench` (`tests/benchmarks/run_all.py`). Nothing here is typed by hand."
    return "\n\n".join((opening, *parts)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*RUNS, *SECTIONS], help="these benchmarks only")
    parser.add_argument("--missing", action="store_true", help="only what an earlier run has left out")
    options = parser.parse_args()
    (ROOT / RESULTS).mkdir(parents=True, exist_ok=True)
    for name in options.only or (*RUNS, *SECTIONS):
        file = ROOT / RESULTS / f"{name}.md"
        if not (options.missing and file.exists()):
            text = report(name, options.missing) if name in RUNS else printed(name)
            file.write_text(text + "\n", encoding="utf-8")
            (ROOT / "BENCHMARKS.md").write_text(page(), encoding="utf-8")
            shutil.rmtree(folder_of(name), ignore_errors=True)


if __name__ == "__main__":
    main()

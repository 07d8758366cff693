"""The folder of a run: what it is, and every finished answer, each on disk at once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from a1agent.bench.timeline import Phase, Span
from a1agent.errors import A1Error, UsageError
from a1agent.stats import RejectionStats

__all__ = ["BareRates", "Ledger", "Record"]

T = TypeVar("T", bound=BaseModel)

MANIFEST, RESULTS, RATES = "run.json", "results.jsonl", "rates.jsonl"


class Record(BaseModel):
    """One question, answered in one way.

    `answer` by the vote asked for, `majority` by plain majority over the same chains. `prompt_s`: until both models
    held the prompt. `energy_j`: joules of processors and GPUs, where the machine tells. `error`: why there is none.
    """

    model_config = ConfigDict(frozen=True)

    problem: int
    way: str
    expected: str
    answer: str | None = None
    majority: str | None = None
    right: bool = False
    majority_right: bool = False
    any_right: bool = False
    chains_right: float = 0.0
    wall_s: float
    prompt_s: float = 0.0
    spans: dict[Phase, Span] = {}
    stats: RejectionStats | None = None
    energy_j: float | None = None
    error: str | None = None


class BareRates(BaseModel):
    """Tokens per second of each model with nothing but the model at work, at the batch that had occurred until then.

    `problem`: how far the run was. `alone`: the target writing as it does alone; None: not measured.
    """

    model_config = ConfigDict(frozen=True)

    problem: int
    chains: int
    draft: float
    score: float
    takeover: float | None
    alone: float | None
    batches: dict[str, int]


class Ledger:
    """The records of a run in its folder.

    A line that was cut short when a run was killed is dropped. Raises `UsageError` when the folder is not this run's.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(identity))
        self._claim(resume)
        for name in (RESULTS, RATES):
            _drop_torn_line(folder / name)
        self.records = list(_read(folder / RESULTS, Record))
        self.rates = list(_read(folder / RATES, BareRates))
        self.done = {(record.problem, record.way) for record in self.records}
        self.resumed = bool(self.done)

    def add(self, record: Record) -> None:
        """Writes a record. Raises `A1Error` when the disk takes no more; what was written before stays readable."""
        self._append(RESULTS, record)
        self.records.append(record)
        self.done.add((record.problem, record.way))

    def add_rates(self, rates: BareRates) -> None:
        """Writes rates measured during the run."""
        self._append(RATES, rates)
        self.rates.append(rates)

    def _append(self, name: str, line: BaseModel) -> None:
        path = self.folder / name
        before = path.stat().st_size if path.exists() else 0
        data = (line.model_dump_json() + "\n").encode()
        try:
            with path.open("ab", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError("the disk took a part of a line only")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(path, before)
            raise A1Error(
                f"{path} cannot be written: {error}",
                f"{len(self.records)} answers are safe in it; make room and go on with --resume",
            ) from error

    def _claim(self, resume: bool) -> None:
        path = self.folder / MANIFEST
        if path.exists():
            if _holds_lines(self.folder / RESULTS):
                self._compare(_manifest(path), resume)
                return
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UsageError(f"{self.folder} holds something else", "give an empty or a new folder with --out")
        elif resume:
            raise UsageError(f"there is no run in {self.folder} to resume", "leave --resume out to begin one")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._identity, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # half of it would be taken for a damaged run
            raise UsageError(f"{self.folder} cannot be written: {error}", "give another folder with --out") from None

    def _compare(self, found: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UsageError(
                f"{self.folder} holds a run already", "go on with it (--resume), or give another folder with --out"
            )
        for key, value in self._identity.items():
            if found.get(key) != value:
                raise UsageError(
                    f"{self.folder} holds another run: its {key} is {found.get(key)!r}, not {value!r}",
                    "resume with the same flags, or begin anew with another --out",
                )


def _holds_lines(path: Path) -> bool:
    """A run that failed before its first answer left none: another may begin in its folder."""
    return path.exists() and path.stat().st_size > 0


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error}", "begin anew with another --out") from None


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _read(path: Path, kind: type[T]) -> Iterator[T]:
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")[:-1]  # other line ends may stand in a JSON text
    for number, line in enumerate(lines, start=1):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            what = f"line {number} of {path} is damaged: {error.errors()[0]['msg']}"
            raise UsageError(what, "remove the line; its question is asked again") from None

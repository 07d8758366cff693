"""`a1 models`: what can be loaded here and what each kind needs."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from a1agent.backends.registry import SCHEMES, Address, Scheme
from a1agent.cli.console import console, one_line, print_table
from a1agent.cli.local_models import LocalModel, find_local_models
from a1agent.errors import A1Error

__all__ = ["models"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A model that is there: its address, bytes on disk, and estimated bytes in memory (None: cannot be told)."""

    name: str
    keeper: str
    address: str
    size: int
    memory: int | None
    problem: str | None


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """List the models that can be loaded here.

    Kinds of addresses and what they need, the embedded pair, and what other programs keep here: GGUF files and
    checkpoints in the hub's cache (HF_HUB_CACHE, HF_HOME), models of Ollama (OLLAMA_MODELS), GGUF files of LM Studio.
    """
    found = [*_embedded(), *(_weigh(model) for model in find_local_models())]
    kinds = [_kind(scheme) for scheme in SCHEMES.values()]
    if as_json:
        typer.echo(json.dumps({"schemes": kinds, "models": [asdict(model) for model in found]}))
        return 0
    _print(console(), kinds, found)
    return 0


def _kind(scheme: Scheme) -> dict[str, Any]:
    ready = scheme.package is None or importlib.util.find_spec(scheme.package) is not None
    return {
        "scheme": scheme.name,
        "summary": scheme.summary,
        "example": scheme.example,
        "can_be_target": scheme.can_score,
        "available": ready,
        "install": None if ready else f"pip install 'a1agent[{scheme.extra}]'",
    }


def _embedded() -> list[_Found]:
    from a1agent import embedded

    files = {name: embedded.path(name) for name in ("draft", "target")}
    return [
        _weigh(LocalModel(name=name, keeper="a1agent", path=p, size=p.stat().st_size, address=f"embedded:{name}"))
        for name, p in files.items()
        if p.is_file()
    ]


def _weigh(model: LocalModel) -> _Found:
    """What a model would take, by its file: by its name a hub might be asked."""
    memory, problem = None, None
    try:
        memory = Address("hf" if model.address.startswith("hf:") else "llama-cpp", str(model.path)).memory() or None
    except (A1Error, OSError, ValueError) as error:
        problem = error.what if isinstance(error, A1Error) else str(error)
    return _Found(
        name=model.name,
        keeper=model.keeper,
        address=model.address,
        size=model.size,
        memory=memory,
        problem=problem,
    )


def _print(out: Console, kinds: list[dict[str, Any]], found: list[_Found]) -> None:
    out.print(Text("kinds of model addresses", "bold"))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for kind in kinds:
        role = "" if kind["can_be_target"] else " (draft only)"
        table.add_row(f"  {kind['scheme'] + ':':<12}", f"{kind['summary']}{role}")
        state = Text("ready", "green") if kind["available"] else Text(f"needs {kind['install']}", "yellow")
        table.add_row("", Text.assemble(state, (f", for example {kind['example']}", "dim")))
    print_table(out, table)
    out.print()
    out.print(Text("models found here", "bold"))
    for model in found:
        memory = model.problem or (f"about {_bytes(model.memory)} of memory" if model.memory else "memory unknown")
        out.print(Text.assemble("  ", (model.address, "cyan")), soft_wrap=True)
        about = f"{model.keeper}, {one_line(model.name)}: {_bytes(model.size)} on disk, {one_line(memory)}"
        row = Table.grid()
        row.add_row(" " * 6, Text(about, "dim"))
        print_table(out, row)
    if not found:
        out.print("  none")


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"

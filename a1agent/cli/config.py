"""`a1 config`: the effective settings and where each came from."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from a1agent.cli.console import console, one_line, print_table, warn
from a1agent.cli.settings import config_path, read_settings

__all__ = ["config"]


def config(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> int:
    """Print the settings in effect, and where each came from."""
    settings = read_settings()
    for remark in settings.remarks:
        warn(remark)
    if as_json:
        found = {name: {"value": v.value, "source": v.source} for name, v in settings.values.items()}
        typer.echo(json.dumps({"file": str(config_path()), "settings": found}))
        return 0
    path = config_path()
    out = console()
    out.print(f"file (TOML): {path}{'' if path.exists() else ' (not there)'}; A1_CONFIG names another", soft_wrap=True)
    out.print("variables: A1_ and the name in capitals, for example A1_REJECTION_RATE", soft_wrap=True)
    out.print()
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name, value in settings.values.items():
        changed = "" if value.source == "default" else "bold"
        table.add_row(name, Text(_shown(value.value), changed), Text(value.source, changed))
    print_table(out, table)
    return 0


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    return one_line(", ".join(map(repr, value)) if isinstance(value, tuple) else str(value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

"""Flags made from the settings, so that every option of a call is a flag of the commands that make calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from a1agent.cli.console import warn
from a1agent.cli.settings import SETTINGS, Setting, Settings, read_settings

__all__ = ["with_settings"]

_Command = Callable[..., int]

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "FLOAT", str: "TEXT"}


def with_settings(command: _Command) -> _Command:
    """The command with a flag a setting; its parameter `settings` receives the effective ones."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
    made = [_parameter(setting) for setting in SETTINGS.values()]

    def run(**given: Any) -> int:
        flags = {name: given.pop(name) for name in SETTINGS}
        settings: Settings = read_settings(flags)
        for remark in settings.remarks:
            warn(remark)
        return command(settings=settings, **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *made)]
    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]  typer reads it
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(setting: Setting) -> inspect.Parameter:
    kind: Any = list[str] if setting.base is tuple else str if setting.optional else setting.base
    option: Any = typer.Option(
        setting.flag,
        help=setting.help if setting.default in (None, ()) else f"{setting.help}  [default: {setting.default}]",
        show_default=False,  # typer puts in brackets what is no default of its own
        metavar=f"{_METAVARS[setting.base]}|none" if setting.optional else None,
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )

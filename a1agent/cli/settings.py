"""Defaults from the configuration file and `A1_*` variables: flag before variable before file before default."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from platformdirs import user_config_path

from a1agent.backends.options import kind_name
from a1agent.config import Options
from a1agent.errors import InvalidOption, UsageError, nearest, unreadable

__all__ = ["SETTINGS", "Setting", "Settings", "Value", "config_path", "read_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing that can be set: its Python type, its default, and what it means."""

    name: str
    kind: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "A1_" + self.name.upper()

    @property
    def optional(self) -> bool:
        """Whether it may be none."""
        return NoneType in get_args(self.kind)

    @property
    def base(self) -> Any:
        """The type without None: int, float, str, a Literal, or tuple."""
        if get_origin(self.kind) is UnionType:
            return next(kind for kind in get_args(self.kind) if kind is not NoneType)
        return tuple if get_origin(self.kind) is tuple else self.kind


def _settings() -> dict[str, Setting]:
    own = (
        Setting(name="draft", kind=str, default="embedded:draft", help="address of the model that drafts"),
        Setting(
            name="target",
            kind=str,
            default="embedded:target",
            help="address of the model that judges and takes over; same: the draft itself",
        ),
        Setting(
            name="calibration",
            kind=str,
            default="default",
            help="where calibration is kept: default (the user's data folder), none (memory only), or a path",
        ),
    )
    kinds = get_type_hints(Options)
    fields = (
        Setting(name=f.name, kind=kinds[f.name], default=f.default, help=f.metadata["help"])
        for f in dataclasses.fields(Options)
    )
    return {setting.name: setting for setting in (*own, *fields)}


SETTINGS = _settings()
_OTHER_VARIABLES = frozenset({"A1_CONFIG", "A1_API_KEYS"})


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it came from."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its value. `remarks`: variables that look as if they were meant to set one, and do not."""

    values: Mapping[str, Value]
    remarks: tuple[str, ...] = ()

    @property
    def options(self) -> Options:
        """The options of a call. Raises `InvalidOption`."""
        return Options.of(**{name: self.values[name].value for name in Options.__dataclass_fields__})

    @property
    def calibration(self) -> str | None:
        """Where calibration is kept, as `A1` takes it."""
        where: str = self.values["calibration"].value
        if where.lower() in ("none", "off"):
            return None
        return where if where == "default" else str(Path(os.path.expanduser(where)))

    @property
    def store(self) -> Path | None:
        """The file in which calibration is kept; None where it is not."""
        from a1agent.conformal.store import default_store_path

        where = self.calibration
        return default_store_path() if where == "default" else Path(where) if where else None

    def model(self, which: Literal["draft", "target"]) -> str:
        """The address of a model."""
        return self.values[which].value


def config_path() -> Path:
    """Where the configuration file is looked for; `A1_CONFIG` moves it."""
    if given := os.environ.get("A1_CONFIG"):
        return Path(os.path.expanduser(given))
    try:
        return user_config_path("a1agent", appauthor=False) / "config.toml"
    except RuntimeError:  # a user without a home
        return Path("~", "a1agent", "config.toml")


def read_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """The effective settings; `flags` that are None were not given.

    Raises `UsageError` for a file that cannot be read and `InvalidOption` for an unknown key or an impossible value.
    """
    values = {name: Value(setting.default, "default") for name, setting in SETTINGS.items()}
    values |= _from_file(config_path())
    values |= _from_environment()
    for name, value in (flags or {}).items():
        if value is not None and value != []:
            values[name] = Value(_of_flag(SETTINGS[name], value), "flag")
    for name, value in values.items():
        _check(SETTINGS[name], value)
    return Settings(values, tuple(_misspelled()))


def _misspelled() -> Iterator[str]:
    """Of unknown variables, those that are like a known one: others may hold keys that addresses name."""
    known = {setting.variable for setting in SETTINGS.values()} | _OTHER_VARIABLES
    for name in sorted(os.environ):
        if name.startswith("A1_") and name not in known:
            names = {each.removeprefix("A1_") for each in known}
            close = difflib.get_close_matches(name.removeprefix("A1_"), names, n=1, cutoff=0.7)
            if close:
                yield f"the variable {name} sets nothing: did you mean A1_{close[0]}?"


def _from_file(path: Path) -> dict[str, Value]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        if os.environ.get("A1_CONFIG"):
            raise UsageError(f"there is no configuration file {path}", "A1_CONFIG names it") from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the configuration file {unreadable(path, error)}", "it is TOML, UTF-8") from None
    found: dict[str, Value] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            raise InvalidOption(f"unknown key {key!r} in {path}", nearest(name, SETTINGS))
        found[name] = Value(_of_toml(SETTINGS[name], value, str(path)), str(path))
    return found


def _of_toml(setting: Setting, value: Any, source: str) -> Any:
    base = setting.base
    if base is tuple:
        texts: object = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in cast("list[Any]", texts)):
            return (*cast("list[str]", texts),)
    elif isinstance(value, bool):
        pass
    elif base is float and isinstance(value, int):
        return float(value)
    elif isinstance(value, base if isinstance(base, type) else str):
        return value
    raise InvalidOption(f"{setting.name} is {value!r} in {source}", f"it is {_kind_name(setting)}")


def _from_environment() -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, setting in SETTINGS.items():
        text = os.environ.get(setting.variable)
        if text:
            found[name] = Value(_of_text(setting, text, setting.variable), setting.variable)
    return found


def _of_flag(setting: Setting, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(cast("list[str]", value))
    return _of_text(setting, value, setting.flag) if isinstance(value, str) else value


def _of_text(setting: Setting, text: str, source: str) -> Any:
    if setting.optional and text.lower() == "none":
        return None
    base = setting.base
    if base is tuple:
        return (text,)
    if base not in (int, float):
        return text
    try:
        return base(text)
    except ValueError:
        raise InvalidOption(f"{source} is {text!r}", f"it is {_kind_name(setting)}") from None


def _kind_name(setting: Setting) -> str:
    return "a text or a list of texts" if setting.base is tuple else kind_name(setting.base)


def _check(setting: Setting, value: Value) -> None:
    """Raises `InvalidOption` that says where an impossible value was set."""
    if value.source == "default" or setting.name not in Options.__dataclass_fields__:
        return
    try:
        # Conditional coverage is impossible with some calibrators only, and checked with them.
        Options.of(**{setting.name: value.value})
    except InvalidOption as error:
        if "coverage is conditional" in error.what:
            return
        source = setting.flag if value.source == "flag" else value.source
        raise InvalidOption(f"{error.what} ({source})", error.hint) from None

"""The options of a call: frozen, keyword-only; an unknown or impossible value is an error that says what to do."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from a1agent.errors import InvalidOption, nearest

__all__ = [
    "AnswerKind",
    "BaselineName",
    "CalibratorName",
    "Coverage",
    "EarlyStop",
    "Lookahead",
    "Options",
    "ScoreName",
    "StartMode",
    "TakeoverMode",
    "VoteMethod",
    "help_of",
]

Coverage = Literal["marginal", "conditional"]
CalibratorName = Literal["static", "online", "adaptive"]
TakeoverMode = Literal["rewrite", "rollback", "continue", "resample"]
BaselineName = Literal["none", "random", "ranking"]
Lookahead = Literal["auto", "on", "off"]
VoteMethod = Literal["auto", "majority", "weighted", "shortest", "temporal", "best"]
EarlyStop = Literal["exact", "beta", "off"]
StartMode = Literal["all", "needed"]
ScoreName = Literal["mean_nll", "worst_nll"]
AnswerKind = Literal["auto", "boxed", "choice", "json", "text"]

_MOST_CHAINS = 10_000


def _option(default: Any, text: str) -> Any:  # any type: each field names its own
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a question is reasoned about. `replace` gives changed copies; every value is checked.

    Raises `InvalidOption` (a `ValueError`) for values out of range.
    """

    chains: int = _option(8, "parallel attempts at the question (N)")
    turns: int = _option(15, "rounds a chain may take before it must state its answer, in one more")
    rejection_rate: float = _option(0.3, "share of verified steps that the target takes over, 0 to 1; it is kept")
    verify_rate: float = _option(
        1.0,
        "share of drafted steps that the target scores, the strangest to the draft itself; the rest are accepted "
        "unscored, and rejection_rate is a share of the scored ones",
    )
    coverage: Coverage = _option(
        "marginal",
        "marginal: the rate holds over all steps; conditional: in each question too, to 0.15 from 16 verified steps on",
    )
    calibrator: CalibratorName = _option("adaptive", "adaptive keeps the rate; online grows; static is a fixed set")
    baseline: BaselineName = _option(
        "none",
        "what to measure A1 against. random: as many takeovers, on steps left to chance; "
        "ranking: the strangest steps of each turn, for which all chains wait",
    )
    lookahead: Lookahead = _option(
        "auto",
        "whether a chain drafts its next step while the last is verified; auto: where draft and target do not share a "
        "processor",
    )
    takeover: TakeoverMode = _option(
        "rewrite",
        "rewrite: the target replaces a rejected step (right for most models); "
        "rollback: it keeps the beginning that it would have written too and writes on from the first token that it "
        "would not (fewer tokens by the target for the same share of steps); "
        "continue: it writes after it (the paper's way, for targets that correct themselves, as thinking models do); "
        "resample: the draft writes the step anew, and the target only judges (for target=same)",
    )
    attempts: int = _option(3, "most attempts at a step, for takeover=resample; the best stands if all are rejected")
    vote: VoteMethod = _option(
        "auto",
        "how answers are voted; auto: weighted by each chain's strangest step, or best when no chain states an answer",
    )
    answer: AnswerKind = _option("auto", "what counts as an answer in a chain's text")
    step_tokens: int = _option(512, "most tokens of a drafted step")
    min_step_tokens: int | None = _option(
        None, "a blank line ends a step once it has this many tokens (default: 0 for the embedded pair, otherwise 256)"
    )
    takeover_tokens: int | None = _option(
        None, "most tokens the target writes in a takeover (default: step_tokens, with what it keeps)"
    )
    answer_tokens: int = _option(64, "most tokens for the answer of a chain that ran out of turns or tokens")
    max_tokens: int | None = _option(None, "most tokens of a chain (default: what the models' context holds)")
    timeout_s: float | None = _option(None, "seconds until the best answer so far is returned (default: no limit)")
    early_stop: EarlyStop = _option(
        "exact",
        "cancel chains once the majority exact: cannot change; beta: will not, at stop_probability; off: never "
        "(vote=auto: only while the majority also weighs most; other votes wait for every chain)",
    )
    stop_probability: float = _option(0.95, "for early_stop=beta: how sure it must be that the majority stays")
    start: StartMode = _option(
        "all",
        "all: every chain begins at once; needed: only as many as can close the vote if they agree, further ones where "
        "they do not (fewer tokens for the same vote; a contested question takes longer)",
    )
    score: ScoreName = _option("mean_nll", "what makes a step strange: mean_nll, or worst_nll over its worst tokens")
    temperature: float = _option(0.8, "of both models' sampling; 0 is greedy")
    top_k: int = _option(0, "sample among this many likeliest tokens; 0: all")
    top_p: float = _option(1.0, "sample among the likeliest tokens that hold this probability together")
    min_p: float = _option(0.0, "sample among tokens at least this likely, relative to the likeliest")
    stop: tuple[str, ...] = _option((), "texts that end a chain's message")
    seed: int | None = _option(
        None,
        "samples the same again (default: a fresh one). From the same calibration one chain, or calibrator=static, "
        "repeats a call; otherwise decisions follow the order in which the chains' scores come in",
    )

    def __post_init__(self) -> None:
        for check in (self._check_counts, self._check_shares, self._check_choices):
            check()
        object.__setattr__(self, "stop", _texts_of(self.stop))

    @classmethod
    def of(cls, **values: Any) -> Options:
        """Options from keyword values. Raises `InvalidOption` for an unknown key, naming the nearest known one."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> Options:
        """A copy with some values changed. Raises `InvalidOption`."""
        known = {f.name for f in dataclasses.fields(self)}
        for key in values:
            if key not in known:
                raise InvalidOption(f"unknown option {key!r}", nearest(key, known))
        return dataclasses.replace(self, **values)

    def _check_counts(self) -> None:
        for name in ("chains", "turns", "attempts", "step_tokens", "answer_tokens"):
            _at_least(name, getattr(self, name), 1)
        if self.chains > _MOST_CHAINS:
            raise InvalidOption(f"chains is {self.chains}", f"use {_MOST_CHAINS} or less: each takes memory")
        for name in ("takeover_tokens", "max_tokens"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("min_step_tokens", "top_k", "seed"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 0)

    def _check_shares(self) -> None:
        for name in ("rejection_rate", "verify_rate", "top_p", "min_p", "stop_probability"):
            value = getattr(self, name)
            if not _is_number(value):
                raise InvalidOption(f"{name} is {_typed(value)}", "it is a number, a share between 0 and 1")
            if not 0 <= value <= 1:
                raise InvalidOption(f"{name} is {value!r}", "it is a share between 0 and 1")
        if self.verify_rate < 1 and self.baseline == "ranking":
            raise InvalidOption("verify_rate is below 1 and the baseline a ranking", "a ranking ranks every step")
        if self.top_p == 0:
            raise InvalidOption("top_p is 0", "no token is left then; use a share above 0, or temperature=0 for greedy")
        if not _is_number(self.temperature) or self.temperature < 0:
            raise InvalidOption(f"temperature is {_typed(self.temperature)}", "use a number, 0 (greedy) or more")
        if self.timeout_s is not None and (not _is_number(self.timeout_s) or self.timeout_s <= 0):
            raise InvalidOption(f"timeout_s is {_typed(self.timeout_s)}", "use a number of seconds above 0, or None")

    def _check_choices(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise InvalidOption(f"{name} is {value!r}", f"use one of: {', '.join(known)}")
        if self.coverage == "conditional" and self.calibrator != "adaptive":
            raise InvalidOption(
                f"coverage is conditional and the calibrator {self.calibrator}",
                "only the adaptive calibrator has a level per question",
            )
        if self.lookahead == "on" and self.baseline == "ranking":
            what = "lookahead is 'on' and the baseline a ranking"
            raise InvalidOption(what, "its chains wait for each other after every step: leave lookahead out")


_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(Options).items() if get_origin(kind) is Literal}


def help_of(name: str) -> str:
    """The help text of an option."""
    return next(f.metadata["help"] for f in dataclasses.fields(Options) if f.name == name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _typed(value: object) -> str:
    """A value as an error shows it; of what is no number it says what it is."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(value) if known else f"{value!r}, a {type(value).__name__}"


def _texts_of(value: object) -> tuple[str, ...]:
    """One text, or several. Raises `InvalidOption` for what is none, and for an empty one: it is found everywhere."""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise InvalidOption(f"stop is {_typed(value)}", "it is a text or a list of texts")
    for text in cast("list[object]", texts):
        if not isinstance(text, str) or not text:
            raise InvalidOption(f"stop holds {_typed(text)}", "each is a text of one character or more")
    return tuple(cast("list[str]", texts))


def _at_least(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidOption(f"{name} is {_typed(value)}", "it is a whole number")
    if value < least:
        raise InvalidOption(f"{name} is {value}", f"use {least} or more")

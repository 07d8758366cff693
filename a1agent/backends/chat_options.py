"""What chat templates are told beside the conversation: options that models of every kind share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

__all__ = ["CHAT_CHOICES", "CHAT_OPTIONS", "ChatOptions"]

CHAT_OPTIONS: dict[str, tuple[type, str]] = {
    "thinking": (str, "whether a model that may think first does: auto (as its chat template has it), on or off"),
    "reasoning_effort": (str, "how hard it thinks, for chat templates that ask: low, medium, high, or what they name"),
}
CHAT_CHOICES = {"thinking": ("auto", "on", "off")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How prompts are made; `CHAT_OPTIONS` says what each means."""

    thinking: str = "auto"
    reasoning_effort: str = ""

    @property
    def template_variables(self) -> dict[str, dict[str, Any]]:
        """By option that was given: the variables of templates that it may set, the families' names for one thing."""
        thinks = self.thinking == "on"
        thinking = {"enable_thinking": thinks, "thinking": thinks, "reasoning": thinks}
        effort = {"reasoning_effort": self.reasoning_effort}
        return {
            **({} if self.thinking == "auto" else {"thinking": thinking}),
            **({"reasoning_effort": effort} if self.reasoning_effort else {}),
        }

    @property
    def all_variables(self) -> dict[str, Any]:
        """All of them, for a template that is not at hand."""
        return {name: value for variables in self.template_variables.values() for name, value in variables.items()}

    def keyed(self, fingerprint: str) -> str:
        """A model's fingerprint with what changes all it writes: scores are compared among calls that have it alike."""
        if not self.template_variables:
            return fingerprint
        told = f"{fingerprint} {self.thinking} {self.reasoning_effort}"
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

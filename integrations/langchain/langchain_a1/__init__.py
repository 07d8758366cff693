"""A1 for LangChain: two models that reason together, as a chat model, a tool and a middleware.

>>> from langchain_a1 import ChatA1
>>> ChatA1(chains=8, rejection_rate=0.3).invoke("What is 47 * 28 + 783?")   # the models that ship with a1agent
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_a1.chat_models import ChatA1
from langchain_a1.tools import A1Tool

if TYPE_CHECKING:
    from langchain_a1.middleware import A1Middleware

__all__ = ["A1Middleware", "A1Tool", "ChatA1"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The middleware needs `langchain`, which a chat model does without."""
    if name == "A1Middleware":
        try:
            from langchain_a1.middleware import A1Middleware
        except ModuleNotFoundError as error:
            raise ImportError("A1Middleware needs langchain: pip install 'langchain-a1[middleware]'") from error
        return A1Middleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

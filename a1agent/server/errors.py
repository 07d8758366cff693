"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}` and an HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a1agent.errors import (
    A1Error,
    BackendClosed,
    CannotRewind,
    ContextOverflow,
    InvalidAnswer,
    InvalidQuestion,
    MissingExtra,
    ModelError,
    SolveError,
    TimedOut,
    UsageError,
)

__all__ = ["CHAT_NAMES", "CLIENT_CLOSED", "ApiError", "api_error_of", "client_gone"]

CHAT_NAMES: Mapping[str, str] = {name: name for name in ("messages", "tools", "tool_choice", "response_format")}
"""What chat completions call the parts of a question."""

CLIENT_CLOSED = 499
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error: `status` is HTTP's, `param` the field at fault, `code` what programs look at."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """What OpenAI calls the type of an error."""
        return _KINDS.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What the status asks for beside the body."""
        headers = self._headers | ({} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)})
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers


def client_gone() -> ApiError:
    """The client left before its answer; nobody reads this, the log counts it."""
    return ApiError(CLIENT_CLOSED, "the client went away", code="client_closed")


def api_error_of(error: BaseException, names: Mapping[str, str] = CHAT_NAMES) -> ApiError:
    """What a failed call means to the client: its own mistake (400), more than the models can (422), ours (500), or
    one that passes (503).

    `names`: what the client's API calls the parts of a question. The error itself is kept as the cause.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SolveError) and error.causes:
        cause = api_error_of(error.causes[0], names)
        if cause.code != "internal_error":
            return cause
    told = _told(error, names)
    told.__cause__ = error
    return told


def _told(error: BaseException, names: Mapping[str, str]) -> ApiError:
    if isinstance(error, InvalidAnswer):  # the models ran and did their best: clients repeat what is above 499
        return ApiError(422, str(error), code="invalid_answer")
    if isinstance(error, TimedOut):  # clients would repeat it at once, with the same limit
        return ApiError(504, str(error), code="timed_out", headers={"x-should-retry": "false"})
    if isinstance(error, ContextOverflow):
        return ApiError(400, str(error), code="context_length_exceeded", param=names["messages"])
    if isinstance(error, InvalidQuestion):
        return ApiError(400, str(error), code="invalid_value", param=names[error.part])
    if isinstance(error, CannotRewind):
        return ApiError(400, str(error), code="invalid_value", param="a1.takeover")
    if isinstance(error, UsageError) and not isinstance(error, MissingExtra):
        return ApiError(400, str(error), code="invalid_value", param=names["messages"])
    if isinstance(error, BackendClosed | ModelError | MissingExtra):
        return ApiError(503, str(error), code="model_unavailable")
    if isinstance(error, A1Error):
        return ApiError(500, str(error), code="call_failed")
    # What is not a1agent's own may carry anything; the log has it, under the request's id.
    return ApiError(500, "the server failed; its log says why, under this request's id", code="internal_error")

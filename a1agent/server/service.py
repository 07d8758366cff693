"""What the routes of one server share: the agent, the queue, the jobs that run, the counts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request

from a1agent.agent import A1
from a1agent.errors import A1Error, nearest
from a1agent.server import formats, logs
from a1agent.server.admission import Admission
from a1agent.server.errors import ApiError, client_gone
from a1agent.server.jobs import Asked, Job
from a1agent.server.metrics import Metrics
from a1agent.server.settings import ServerSettings

__all__ = ["Service", "unless_gone"]

_AGAIN_S = 5
T = TypeVar("T")


class Service:
    """One server's state; `start` admits a request and runs it."""

    def __init__(self, agent: A1, settings: ServerSettings) -> None:
        self.agent = agent
        self.settings = settings
        self.created = int(time.time())
        self.clock: Callable[[], float] = time.perf_counter
        self.admission = Admission(settings.running, settings.waiting, len(settings.keys))
        self.metrics = Metrics(agent, self.admission)
        self._jobs: set[Job] = set()
        self._failure: A1Error | None = None

    @property
    def fingerprint(self) -> str | None:
        """Names the pair of models as it is, for `system_fingerprint`; None until they are loaded."""
        loaded = self.agent.pair.loaded
        return f"a1_{loaded.draft.info.fingerprint[:8]}_{loaded.target.info.fingerprint[:8]}" if loaded else None

    def check_model(self, name: str) -> None:
        """Raises `ApiError` 404 for a model that is not the one served."""
        if name != self.settings.name:
            shown = logs.clean(name)
            hint = nearest(shown, [self.settings.name])
            raise ApiError(404, f"there is no model {shown!r}: {hint}", code="model_not_found", param="model")

    def model(self) -> dict[str, Any]:
        """The model served, as OpenAI describes one; under `a1` what it is made of."""
        loaded = self.agent.pair.loaded
        own: dict[str, Any] = {"rejection_rate": self.agent.options.rejection_rate, "chains": self.agent.options.chains}
        if loaded is not None:
            own["draft"], own["target"] = loaded.draft.info.name, loaded.target.info.name
            own["context_length"] = min(loaded.draft.info.context_length, loaded.target.info.context_length)
        return {"id": self.settings.name, "object": "model", "created": self.created, "owned_by": "a1agent", "a1": own}

    @property
    def problem(self) -> str | None:
        """Why no question would be answered now; None when one would."""
        if self.admission.closed:
            return "shutting down"
        if self.agent.pair.loaded is not None:  # a request may have loaded what could not be loaded before
            return None
        return "loading the models" if self._failure is None else "the models do not load"

    async def load(self) -> None:
        """Loads the models ahead of the first request, which would load them too. What fails is logged, and kept."""
        try:
            await self.agent.load()
        except A1Error as error:
            self._failure = error
            logs.write(logging.ERROR, "models do not load", error=str(error))

    async def start(self, request: Request, asked: Asked) -> Job:
        """The request's job, once it is admitted. Raises `ApiError`, also when the client leaves the queue."""
        came = self.clock()
        await asyncio.to_thread(formats.check, asked.question, asked.names)
        most_s = asked.options.timeout_s or self.settings.max_seconds
        gone = asyncio.create_task(_disconnect(request))
        try:
            await self.admission.enter(asked.tenant, most_s, gone)
        finally:
            gone.cancel()
        admitted = self.clock()
        try:
            await self._models(request, max(0.001, most_s - (admitted - came)))
        except BaseException:
            self.admission.leave(self.clock() - admitted)
            raise
        left = max(0.001, most_s - (self.clock() - came))
        timed = dataclasses.replace(asked, options=asked.options.replace(timeout_s=left))
        job = Job(self.agent, timed, self.metrics.event, self._ended, admitted)
        self._jobs.add(job)
        request.state.job = job
        return job

    async def _models(self, request: Request, most_s: float) -> None:
        """Waits for the models, which may still be loading: a call's own clock starts once they are there."""
        if self.agent.pair.loaded is not None:
            return
        try:
            async with asyncio.timeout(most_s):
                await unless_gone(request, self.agent.load())
        except TimeoutError:
            message = f"the models are still loading after {most_s:.1f} s"
            raise ApiError(503, message, code="model_loading", retry_after_s=_AGAIN_S) from None
        except A1Error as error:  # the operator's to mend; what it says of paths and packages is not the client's
            message = "the models do not load; the server's log says why"
            raise ApiError(503, message, code="model_unavailable") from error

    def drain(self) -> None:
        """Takes no more requests, and cancels those that still run when the grace period ends."""
        self.admission.close()
        running = len(self._jobs)
        logs.write(logging.INFO, "draining", running=running, grace_s=self.settings.grace_s)
        asyncio.get_running_loop().call_later(self.settings.grace_s, self._cancel_all)

    def hurry(self) -> None:
        """Ends the grace period, whether it has begun or not."""
        self.admission.close()
        self._cancel_all()

    async def aclose(self) -> None:
        """Ends every job and waits until each has freed what it held."""
        self.hurry()
        await asyncio.gather(*(job.ended() for job in tuple(self._jobs)))

    def _cancel_all(self) -> None:
        for job in tuple(self._jobs):
            job.cancel(ApiError(503, "the server shut down before the answer was ready", code="shutting_down"))

    def _ended(self, job: Job) -> None:
        self._jobs.discard(job)
        self.metrics.job(job)
        self.admission.leave(self.clock() - job.admitted)


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives, or `ApiError` 499 once the client has gone; `work` is cancelled then, and awaited."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise client_gone()
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

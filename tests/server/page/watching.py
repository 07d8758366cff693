"""What tests of the page share: a page that must not complain, a model let on step by step, what the server streamed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, Page, Response, expect

from a1agent import A1
from a1agent.backends.base import Work
from a1agent.backends.scripted import Script, ScriptedBackend, Sums
from tests.server.serving import Running


@asynccontextmanager
async def page_of(running: Running, browser: Browser, **more: Any) -> AsyncIterator[Page]:
    """The page, in a profile of its own. Fails on anything it complains about, and on any foreign address."""
    complaints: list[str] = []
    foreign: list[str] = []
    profile = await browser.new_context(**more)
    profile.set_default_timeout(30_000)
    page = await profile.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text) if "Security Policy" in line.text else None)
    page.on("request", lambda r: None if r.url.startswith((running.url, "blob:")) else foreign.append(r.url))
    await page.goto(running.url)
    await expect(page.locator("#models")).to_contain_text("draft")
    yield page
    await profile.close()
    assert (complaints, foreign) == ([], [])


async def ask(page: Page, question: str) -> None:
    await page.get_by_role("textbox", name="Question").fill(question)
    await page.get_by_role("button", name="Ask").click()


@dataclass
class Turnstile:
    """A model's time: it reads at once, and writes a step for each that is let through."""

    steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    waiting: int = 0
    written: int = 0

    def let(self, count: int) -> None:
        for _ in range(count):
            self.steps.release()

    async def serve(self, to_read: int, to_write: int) -> Work:
        if to_write:
            self.waiting += 1
            try:
                await self.steps.acquire()
            finally:
                self.waiting -= 1
            self.written += 1
        return Work(decoded_tokens=to_read + to_write)


def watched_agent(draft: Turnstile, target: Turnstile | None = None, *, script: Script | None = None, **more: Any) -> A1:
    """An agent whose models write as they are let to; the target freely, unless it has a turnstile too."""
    options = {"calibration": None, "min_step_tokens": 0, "lookahead": "off", "early_stop": "off", "seed": 1} | more
    return A1(
        ScriptedBackend(script or Sums(0.6), name="draft", service=draft),
        ScriptedBackend(script or Sums(1.0), name="target", service=target),
        **options,
    )


@dataclass
class Told:
    """What the server streamed of one call."""

    chunks: list[dict[str, Any]]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [chunk["a1"] for chunk in self.chunks if "event" in chunk.get("a1", {})]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def stats(self) -> dict[str, Any]:
        return self.chunks[-1]["a1"]

    @property
    def outcome(self) -> dict[str, Any]:
        return next(c["choices"][0]["a1"] for c in self.chunks if c["choices"] and "a1" in c["choices"][0])


@asynccontextmanager
async def listening(page: Page) -> AsyncIterator[Told]:
    """Holds what the server streams to the page's next call, complete at the end of the block."""
    told = Told([])
    async with page.expect_response("**/v1/chat/completions") as answer:
        yield told
    response: Response = await answer.value
    lines = [line.removeprefix("data: ") for line in (await response.text()).splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    told.chunks = [json.loads(line) for line in lines[:-1]]

"""What tests of the page share: a page that must not complain, models let on step by step, what was streamed."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, expect

from a1agent import A1
from a1agent.backends.base import Work
from a1agent.backends.scripted import Script, ScriptedBackend, Sums
from tests.doubles import sums_pair
from tests.server.serving import Running, serving


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[Running]:
    """A server whose models never err, so that every answer is known."""
    async with (
        A1(*sums_pair(1.0), calibration=None, min_step_tokens=0, seed=1) as agent,
        serving(agent, **settings) as running,
    ):
        yield running


LISTEN = """
  const fetched = window.fetch.bind(window);
  window.fetch = async (...request) => {
    const response = await fetched(...request);
    if (request[0] === "v1/chat/completions") window.told = response.clone().text().catch(() => "");
    return response;
  };
"""
"""Keeps a copy of what the server streams: browsers let nobody read it again."""


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
    await page.add_init_script(LISTEN)
    await page.goto(running.url)
    await expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    yield page
    await profile.close()
    assert (complaints, foreign) == ([], [])


async def ask(page: Page, question: str) -> None:
    await page.get_by_role("textbox", name="Question").fill(question)
    await page.get_by_role("button", name="Ask").click()


async def downloaded(page: Page, file: Path) -> dict[str, Any]:
    """The call that the page shows, as it saves it."""
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Download").click()
    await (await download.value).save_as(file)
    return await asyncio.to_thread(lambda: json.loads(file.read_bytes()))


@dataclass
class Turnstile:
    """A model's time: it reads at once, and writes a step for each that is let through."""

    steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    waiting: int = 0
    written: int = 0

    @classmethod
    def open(cls) -> "Turnstile":
        """One that lets everything through."""
        return cls(asyncio.Semaphore(10**9))

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
        return Work(decoded_tokens=to_read + to_write, compute_s=0.001 * to_read + 0.01 * to_write)


def watched_agent(
    draft: Turnstile, target: Turnstile | None = None, *, script: Script | None = None, **more: Any
) -> A1:
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


async def told_to(page: Page) -> Told:
    """What the server streamed to the page's last call, to its end."""
    lines = [
        line.removeprefix("data: ") for line in (await page.evaluate("told")).splitlines() if line.startswith("data: ")
    ]
    assert lines[-1] == "[DONE]"
    return Told([json.loads(line) for line in lines[:-1]])

"""The session's calls are kept, survive a reload, are downloaded and opened; what is malformed harms none of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.server.page.watching import Turnstile, ask, downloaded, page_of, served, watched_agent
from tests.server.serving import SUM, serving

pytestmark = pytest.mark.anyio


async def answered(page: Page, question: str, answer: str) -> None:
    await ask(page, question)
    await expect(page.get_by_role("status")).to_have_text(f"The answer is {answer}.")


async def test_a_reload_keeps_the_session_and_forgetting_ends_it(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await answered(page, SUM, "10")
        await answered(page, "2 + 2", "4")
        await page.reload()
        await expect(page.locator("#answer")).to_have_text("4")
        calls = page.locator("#history button")
        await expect(calls).to_have_text(["2 + 2 → 4", f"{SUM} → 10"])  # newest first
        await expect(calls.first).to_have_attribute("aria-current", "true")
        await calls.last.click()
        await expect(calls.last).to_have_attribute("aria-current", "true")
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator(".chain")).to_have_count(8)
        await page.get_by_role("button", name="Forget all").click()
        await expect(calls).to_have_count(0)
        await expect(page.locator("#result")).to_be_hidden()
        await page.reload()
        await expect(page.locator("#models")).to_contain_text("draft")
        await expect(calls).to_have_count(0)


async def test_the_newest_twenty_calls_are_kept(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        for number in range(22):
            await answered(page, f"{number} + 0", str(number))
        calls = page.locator("#history button")
        await expect(calls).to_have_count(20)
        await page.reload()
        await expect(calls).to_have_count(20)
        await expect(calls.last).to_have_text("2 + 0 → 2")


async def test_a_call_is_downloaded_and_opened_again(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "call.json"
    async with served() as running, page_of(running, browser) as page:
        await answered(page, SUM, "10")
        before = await page.locator("#results").text_content()
        record = await downloaded(page, file)
        assert (record["question"], record["outcome"]["answer"]) == (SUM, "10")
        assert record["stats"]["by_turn"]
        await page.get_by_role("button", name="Forget all").click()
        await page.get_by_label("Open a call").set_input_files(file)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        assert await page.locator("#results").text_content() == before


async def test_a_stopped_call_is_kept_with_what_it_had(browser: Browser) -> None:
    async with watched_agent(Turnstile()) as agent, serving(agent) as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.locator(".chain")).to_have_count(8)
        for name in ("#download", "#open", "#send"):
            await expect(page.locator(name)).to_be_disabled()
        await page.get_by_role("button", name="Stop", exact=True).click()
        await page.reload()
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await expect(page.locator(".chain")).to_have_count(8)


def changed(*path: str | int, to: Any) -> Callable[[dict[str, Any]], Any]:
    """A call in which one value is another."""

    def change(record: Any) -> Any:
        at = record
        for name in path[:-1]:
            at = at[name]
        if to is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = to
        return record

    return change


MALFORMED = {
    "no JSON": (lambda _: ..., "it is no JSON"),
    "nothing": (lambda _: None, "it is no call that this page saved"),
    "a list": (lambda record: [record], "it is no call that this page saved"),
    "another format": (changed("format", to="a1-call-2"), "it is no call that this page saved"),
    "no options": (changed("options", to=None), "its call.options is null"),
    "a rate that is text": (changed("options", "rejection_rate", to="0.3"), 'its call.options.rejection_rate is "0.3"'),
    "a rate above one": (changed("options", "rejection_rate", to=30), "its call.options.rejection_rate is 30"),
    "no date": (changed("at", to="yesterday"), 'its call.at is "yesterday"'),
    "no question": (changed("question", to=...), "its call.question is missing"),
    "an unknown end": (changed("end", to=None), "its call.end is null"),
    "events that are none": (changed("events", to={}), "its call.events is {}"),
    "an outcome that is text": (changed("outcome", to="10"), 'its outcome is "10"'),
    "an answer that is a number": (changed("outcome", "answer", to=10), "its outcome.answer is 10"),
    "notices that are no list": (changed("outcome", "notices", to="slow"), 'its outcome.notices is "slow"'),
    "no outcome": (changed("outcome", to=...), "its outcome is missing"),
    "statistics without seconds": (changed("stats", "wall_s", to=None), "its statistics.wall_s is null"),
    "a step without a verdict": (
        changed("events", -1, to={"event": "StepVerified", "chain": 0, "turn": 0}),
        ".verdict is missing",
    ),
    "a step of a chain far away": (
        changed("events", 0, to={"event": "ChainStarted", "chain": 10**9}),
        "its event 1 is about step 1 of chain 1000000001, which was not drafted",
    ),
    "a step that nobody drafted": (
        changed("events", -1, to={"event": "StepAccepted", "chain": 0, "turn": 99, "step": {"text": "x"}}),
        "is about step 100 of chain 1, which was not drafted",
    ),
}


async def test_a_malformed_file_is_refused_with_a_reason_and_changes_nothing(browser: Browser, tmp_path: Path) -> None:
    async with served() as running, page_of(running, browser) as page:
        await answered(page, SUM, "10")
        good = json.dumps(await downloaded(page, tmp_path / "good.json"))
        shown = await page.locator("main").text_content() or ""
        for name, (change, reason) in MALFORMED.items():
            file, bad = tmp_path / f"{name}.json", change(json.loads(good))
            file.write_text("{" if bad is ... else json.dumps(bad), encoding="utf-8")
            await page.get_by_label("Open a call").set_input_files(file)
            await expect(page.get_by_role("alert")).to_contain_text(f"{name}.json cannot be opened: ")
            await expect(page.get_by_role("alert")).to_contain_text(reason)
            alert = await page.get_by_role("alert").inner_text()
            assert (await page.locator("main").text_content() or "").replace(alert, "").split() == shown.split()
        await page.reload()
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator("#history li")).to_have_count(1)
        await answered(page, "2 + 2", "4")


async def test_a_bad_record_in_the_storage_is_dropped_and_the_others_stay(browser: Browser, tmp_path: Path) -> None:
    async with served() as running, page_of(running, browser) as page:
        await answered(page, SUM, "10")
        good = json.dumps(await downloaded(page, tmp_path / "good.json"))
        bad = [change(json.loads(good)) for change, _ in MALFORMED.values()]
        texts = ["{" if record is ... else json.dumps(record) for record in bad]
        await page.evaluate(
            "all => all.forEach((text, i) => sessionStorage.setItem(`a1.call.${100 + i}`, text))", texts
        )
        await page.reload()
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator("#history li")).to_have_count(1)
        await expect(page.get_by_role("status")).to_have_text(
            f"Calls kept before that could not be read, and are gone: {len(bad)}."
        )
        await answered(page, "2 + 2", "4")
        await page.reload()
        await expect(page.locator("#history li")).to_have_count(2)
        await expect(page.get_by_role("status")).to_have_text("The answer is 4.")


FILL = """left => {
  let size = 1 << 20;
  for (let i = 0; size >= 1; ) {
    try { sessionStorage.setItem(`filler.${i}`, "x".repeat(size)); i += 1; } catch { size >>= 1; }
  }
  const last = Object.keys(sessionStorage).filter((name) => name.startsWith("filler."));
  for (let freed = 0; freed < left && last.length; ) {
    const name = last.pop();
    freed += sessionStorage.getItem(name).length;
    sessionStorage.removeItem(name);
  }
}"""
"""Fills the tab's storage until about so many characters are left."""


async def test_when_the_storage_is_full_the_oldest_call_makes_room(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await answered(page, SUM, "10")
        await page.evaluate(FILL, 0)
        await answered(page, "2 + 2", "4")
        await expect(page.locator("#history li")).to_have_count(2)  # this page still has both
        await page.reload()
        await expect(page.locator("#history button")).to_have_text(["2 + 2 → 4"])


async def test_a_call_too_large_to_keep_is_said_and_costs_no_other(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await page.get_by_role("slider", name="Chains").fill("1")
        await answered(page, "2 + 2", "4")
        await page.evaluate(FILL, 0)
        await page.get_by_role("slider", name="Chains").fill("8")
        await answered(page, " + ".join(map(str, range(1, 11))), "55")
        await expect(page.get_by_role("alert")).to_contain_text("too large for the browser to keep over a reload")
        await page.reload()
        await expect(page.locator("#history button")).to_have_text(["2 + 2 → 4"])


async def test_a_browser_that_stores_nothing_still_asks(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await page.add_init_script(
            "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } })"
        )
        await page.reload()
        await answered(page, SUM, "10")
        await expect(page.locator("#history button")).to_have_text(re.compile("→ 10$"))

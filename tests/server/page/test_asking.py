"""The page asks: its sliders reach the call, a call is stopped, what the server refuses is said."""

import json
import re

import pytest
from playwright.async_api import Browser, expect

from a1agent.backends.scripted import Sums
from a1agent.server import Keys
from tests.server.page.watching import Turnstile, ask, page_of, served, told_to, watched_agent
from tests.server.serving import KEY, SUM, serving, until

pytestmark = pytest.mark.anyio


async def test_a_question_is_answered_with_its_chains_votes_and_statistics(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await expect(page.get_by_role("heading", name="Two models, one answer")).to_be_visible()
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator("#intro")).to_be_hidden()
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator(".chain")).to_have_count(8)
        await expect(page.locator("#votes .count").first).to_have_text(re.compile("[5-8]"))
        await expect(page.locator("#headlines")).to_contain_text("asked for 0.30")
        step = page.get_by_role("toolbar", name="Steps of chain 1", exact=True).get_by_role("button").first
        await expect(step).to_have_attribute("aria-label", re.compile(r"^Step 1: .*p-value 0\.\d\d, level -?\d\.\d\d"))
        await step.click()
        await expect(step).to_have_attribute("aria-expanded", "true")
        await expect(page.locator("#text-0")).to_contain_text("1 + 2 =")


async def test_what_the_controls_say_is_what_is_asked(browser: Browser) -> None:
    async with served(max_chains=12) as running, page_of(running, browser) as page:
        chains = page.get_by_role("slider", name="Chains")
        await expect(chains).to_have_attribute("max", "12")
        await chains.fill("3")
        await expect(page.locator("#chains-value")).to_have_text("3")
        await page.get_by_role("slider", name="Turns").fill("2")
        await page.get_by_role("slider", name="Rejection rate").fill("0.55")
        await page.get_by_role("combobox", name="Coverage").select_option("conditional")
        async with page.expect_request("**/v1/chat/completions") as asking:
            await ask(page, SUM)
        await expect(page.get_by_role("status")).to_contain_text("answer")
        told = await told_to(page)
        sent = json.loads((await asking.value).post_data or "")
        await expect(page.locator(".chain")).to_have_count(3)
    assert sent["messages"][0]["content"].startswith(SUM)
    assert sent["a1"] == {
        "chains": 3,
        "turns": 2,
        "rejection_rate": 0.55,
        "coverage": "conditional",
        "events": True,
    }
    assert (told.stats["asked_rate"], told.stats["coverage"]) == (0.55, "conditional")
    # Two turns, and the one in which a chain that is out of turns states its answer.
    assert max(event["turn"] for event in told.of("StepDrafted")) <= 2


async def test_the_stop_button_frees_the_chains_on_the_server(browser: Browser) -> None:
    draft = Turnstile()
    async with watched_agent(draft) as agent, serving(agent) as running, page_of(running, browser) as page:
        stop = page.get_by_role("button", name="Stop", exact=True)
        await expect(stop).to_be_hidden()
        await ask(page, SUM)
        await expect(page.locator(".chain .state").first).to_have_text("drafts")
        await until(lambda: draft.waiting == 8)
        await stop.click()
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await until(lambda: (running.alive, draft.waiting) == (0, 0))
        await expect(stop).to_be_hidden()
        await expect(page.get_by_role("button", name=f"{SUM} → stopped")).to_be_visible()


async def test_escape_stops_and_the_next_question_is_answered(browser: Browser) -> None:
    draft = Turnstile()
    agent = watched_agent(draft, script=Sums(1.0))
    async with agent, serving(agent) as running, page_of(running, browser) as page:
        await page.get_by_role("textbox", name="Question").fill(SUM)
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".chain .state").first).to_have_text("drafts")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await until(lambda: running.alive == 0)
        draft.let(100)
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")


async def test_what_the_server_refuses_is_said_in_its_words(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await ask(page, "1 + " * 30000)
        await expect(page.get_by_role("alert")).to_contain_text("the context of draft holds")
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator("#error")).to_be_hidden()


async def test_when_the_server_ends_during_a_call_the_page_says_so_and_keeps_what_it_had(browser: Browser) -> None:
    draft = Turnstile()
    async with (
        watched_agent(draft, chains=2, rejection_rate=0.0) as agent,
        serving(agent, grace_s=0) as running,
        page_of(running, browser) as page,
    ):
        await ask(page, SUM)
        draft.let(2)
        await expect(page.locator("button.step.draft")).to_have_count(2)
        running.server.should_exit = True
        await expect(page.get_by_role("alert")).to_have_text("the server shut down before the answer was ready")
        await expect(page.get_by_role("status")).to_have_text("No answer.")
        await expect(page.locator("button.step.draft")).to_have_count(2)
        await expect(page.get_by_role("button", name=f"{SUM} → failed")).to_be_visible()
        await ask(page, SUM)
        await expect(page.get_by_role("alert")).to_have_text(re.compile("The connection failed|shutting down"))


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    async with served(keys=Keys({"ann": KEY})) as running, page_of(running, browser) as page:
        await expect(page.locator("#models")).not_to_contain_text("draft")  # paths and hosts are not for everybody
        await ask(page, SUM)
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        await page.get_by_label("API key").fill(KEY)
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")


async def test_an_example_fills_in_the_question(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await expect(page.locator("#models")).to_contain_text("draft")
        await page.get_by_role("button", name="What is 47 * 28 + 783?").click()
        await expect(page.get_by_role("textbox", name="Question")).to_have_value("What is 47 * 28 + 783?")
        await expect(page.get_by_role("textbox", name="Question")).to_be_focused()

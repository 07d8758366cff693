"""The page in a real browser: ask, watch, stop, fail, reload, keep and open a call."""

import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from a1agent import A1
from a1agent.backends.scripted import ScriptedBackend
from a1agent.server import Keys
from tests.doubles import Fixed
from tests.server.serving import KEY, SUM, Gate, Running, held_agent, serving, until

BROWSER = os.environ.get("A1_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        BROWSER is None, reason="no Chromium: apt-get install chromium, or name one in A1_CHROMIUM, to test the page"
    ),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """One Chromium for all tests here: starting it takes longer than any of them."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        await chromium.close()


@asynccontextmanager
async def page_of(running: Running, browser: Browser, **more: Any) -> AsyncIterator[Page]:
    """The page, in a profile of its own. Fails on anything it complains about, and on any foreign address."""
    complaints: list[str] = []
    foreign: list[str] = []
    profile = await browser.new_context(**more)
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


async def test_a_question_is_answered_with_its_chains_votes_and_statistics(browser: Browser) -> None:
    async with serving() as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator(".chain")).to_have_count(8)
        await expect(page.locator("#votes .count").first).to_have_text(re.compile("[5-8]"))
        await expect(page.locator("#stats")).to_contain_text("Rate asked")
        step = page.get_by_role("list", name="Steps of chain 1", exact=True).get_by_role("button").first
        await expect(step).to_have_attribute("aria-label", re.compile(r"^Step 1: .*p-value 0\.\d\d, level -?\d\.\d\d"))
        await step.click()
        await expect(step).to_have_attribute("aria-expanded", "true")
        await expect(page.locator("#detail-0")).to_contain_text("1 + 2 =")


async def test_the_sliders_reach_the_call(browser: Browser) -> None:
    async with serving(max_chains=12) as running, page_of(running, browser) as page:
        chains = page.get_by_role("slider", name="Chains")
        await expect(chains).to_have_attribute("max", "12")
        await chains.fill("3")
        await page.get_by_role("slider", name="Rejection rate").fill("1")
        await page.get_by_role("combobox", name="Coverage").select_option("conditional")
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator(".chain")).to_have_count(3)
        await expect(page.locator("#stats")).to_contain_text("Rate observed1.00")


async def test_steps_appear_while_the_chains_think_and_escape_stops_them(browser: Browser) -> None:
    gate = Gate()
    async with held_agent(gate) as agent, serving(agent) as running, page_of(running, browser) as page:
        await page.get_by_role("textbox", name="Question").fill(SUM)
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".chain .state").first).to_have_text("drafts")
        await expect(page.get_by_role("button", name="Stop")).to_be_enabled()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("status")).to_have_text("Stopped.")
        await until(lambda: running.alive == 0)
        gate.open.set()
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")


async def test_what_the_server_refuses_is_said_in_its_words(browser: Browser) -> None:
    async with serving() as running, page_of(running, browser) as page:
        await ask(page, "1 + " * 30000)
        await expect(page.get_by_role("alert")).to_contain_text("the context of draft holds")
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator("#error")).to_be_hidden()


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser) -> None:
    async with serving(keys=Keys({"ann": KEY})) as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("alert")).to_contain_text("API key")
        await page.get_by_label("API key").fill(KEY)
        await page.get_by_role("button", name="Ask").click()
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")


async def test_a_reload_keeps_the_session_and_forgetting_ends_it(browser: Browser) -> None:
    async with serving() as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await ask(page, "2 + 2")
        await expect(page.get_by_role("status")).to_have_text("The answer is 4.")
        await page.reload()
        await expect(page.locator("#answer")).to_have_text("4")
        await page.get_by_role("button", name=f"{SUM} → 10").click()
        await expect(page.locator("#answer")).to_have_text("10")
        await expect(page.locator(".chain")).to_have_count(8)
        await page.get_by_role("button", name="Forget all").click()
        await expect(page.locator("#history li")).to_have_count(0)


async def test_a_call_is_downloaded_and_opened_again(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "call.json"
    async with serving() as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        assert await page.locator("#history li").count() == 1
        stats = await page.locator("#stats").inner_text()
        async with page.expect_download() as download:
            await page.get_by_role("button", name="Download").click()
        await (await download.value).save_as(file)
        assert json.loads(file.read_text(encoding="utf-8"))["question"] == SUM
        await page.get_by_role("button", name="Forget all").click()
        await page.get_by_label("Open a call").set_input_files(file)
        await expect(page.locator("#stats")).to_have_text(re.compile(re.escape(stats.split("\n")[0])))
        assert await page.locator("#stats").inner_text() == stats
        file.write_text('{"format": "a1-call-1"}', encoding="utf-8")
        await page.get_by_label("Open a call").set_input_files(file)
        await expect(page.get_by_role("alert")).to_contain_text("cannot be opened")


async def test_text_of_models_is_shown_and_never_run(browser: Browser) -> None:
    hostile = '<img src=x onerror="document.title=1"> and $\\href{javascript:alert(1)}{x}$ \\boxed{\\frac{1}{2}}'
    backend = ScriptedBackend(Fixed(hostile), name="draft")
    async with (
        A1(backend, backend, calibration=None, min_step_tokens=0) as agent,
        serving(agent) as running,
        page_of(running, browser) as page,
    ):
        await ask(page, "<b>bold</b>")
        await expect(page.locator("#asked")).to_have_text("<b>bold</b>")
        await page.get_by_text("What the winning chain wrote").click()
        await expect(page.locator("#message")).to_contain_text('<img src=x onerror="document.title=1">')
        assert await page.locator("#message img, #message a, #asked b").count() == 0
        assert await page.locator("#message .katex").count() == 2
        assert await page.title() == "A1"


async def test_a_call_is_asked_and_read_by_keyboard_alone(browser: Browser) -> None:
    async with serving() as running, page_of(running, browser) as page:
        keys = page.keyboard
        await to(page, "#question")
        await keys.type(SUM)
        await to(page, "#chains")
        await keys.press("Home")
        await keys.press("ArrowRight")
        await to(page, "#send")
        await keys.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("The answer is")
        await expect(page.locator(".chain")).to_have_count(2)
        await to(page, ".step")
        await keys.press("Enter")
        await expect(page.locator("#detail-0")).to_contain_text("1 + 2 =")
        await expect(page.locator(":focus-visible")).to_have_css("outline-style", "solid")
        await keys.press("Enter")
        await expect(page.locator("#detail-0")).to_be_hidden()
        await to(page, "#history button")
        await to(page, "#download")
        await to(page, "#open")


async def to(page: Page, selector: str) -> None:
    """Goes on with the Tab key until the element has the focus."""
    for _ in range(200):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the Tab key does not reach {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_screen_reader_has_a_name_for_everything_and_text_has_contrast(browser: Browser, scheme: Any) -> None:
    async with serving() as running, page_of(running, browser, color_scheme=scheme) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await page.locator(".step").first.click()
        devtools = await page.context.new_cdp_session(page)
        tree = (await devtools.send("Accessibility.getFullAXTree"))["nodes"]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        faint = await page.evaluate(FAINT)
    roles = {"button", "slider", "combobox", "textbox", "link", "figure", "image", "heading", "region"}
    assert [role for role, name in named if role in roles and not name] == []
    assert {"button", "slider", "combobox", "textbox", "image", "region"} <= {role for role, _ in named}
    assert faint == []


FAINT = """() => {
  const draw = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    draw.clearRect(0, 0, 1, 1);
    draw.fillStyle = color;
    draw.fillRect(0, 0, 1, 1);
    return [...draw.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || element.closest(":disabled, .katex, noscript") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const both = [light(rgb(element.closest("svg") ? style.fill : style.color)), light(behind(element))];
    const ratio = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (ratio < 4.5) faint.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return faint;
}"""
"""Texts whose contrast with what is behind them is less than WCAG 2.2 asks for (1.4.3, level AA)."""


async def test_a_finger_can_hit_a_step(browser: Browser) -> None:
    phone: Any = {"viewport": {"width": 360, "height": 700}, "has_touch": True, "is_mobile": True}
    async with serving() as running, page_of(running, browser, **phone) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        box = await page.locator("button.step").first.bounding_box()
        assert box is not None and min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
        await page.locator("button.step").first.tap()
        await expect(page.locator("#detail-0")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_wider_than_a_phone(browser: Browser, scheme: Any) -> None:
    phone: Any = {"viewport": {"width": 360, "height": 700}, "color_scheme": scheme}
    async with serving() as running, page_of(running, browser, **phone) as page:
        await ask(page, SUM + " + " + "7" * 200)
        await expect(page.get_by_role("status")).to_contain_text("The answer is")
        width = await page.locator("html").evaluate("element => element.scrollWidth")
    assert width <= 360

"""The page by keyboard, screen reader and finger, in light and dark, on a phone."""

import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.server.page.watching import Turnstile, ask, page_of, served, watched_agent
from tests.server.serving import SUM, serving

pytestmark = pytest.mark.anyio

PHONE: Any = {"viewport": {"width": 360, "height": 700}}


async def test_a_call_is_asked_and_read_by_keyboard_alone(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
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
        await expect(page.locator("#text-0")).to_contain_text("1 + 2 =")
        await expect(page.locator(":focus-visible")).to_have_css("outline-style", "solid")
        await keys.press("Enter")
        await expect(page.locator("#text-0")).to_be_hidden()
        await to(page, "#history button")
        await to(page, "#download")
        await to(page, "#open")


async def test_arrow_keys_walk_the_steps_of_a_chain_and_one_tab_leaves_it(browser: Browser) -> None:
    async with served() as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        steps = page.get_by_role("toolbar", name="Steps of chain 1", exact=True).get_by_role("button")
        assert await steps.count() == 4
        await steps.first.focus()
        for key, place in (("ArrowRight", 1), ("End", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("Home", 0), ("End", 3)):
            await page.keyboard.press(key)
            await expect(steps.nth(place)).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Chain 2", exact=True)).to_be_focused()
        await page.keyboard.press("Shift+Tab")
        await expect(steps.nth(3)).to_be_focused()


async def to(page: Page, selector: str) -> None:
    """Goes on with the Tab key until the element has the focus."""
    for _ in range(200):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"the Tab key does not reach {selector}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_screen_reader_has_a_name_for_everything_and_text_has_contrast(browser: Browser, scheme: Any) -> None:
    async with served() as running, page_of(running, browser, color_scheme=scheme) as page:
        faint = await page.evaluate(FAINT)
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await page.locator("button.step.target").first.click()
        devtools = await page.context.new_cdp_session(page)
        tree = (await devtools.send("Accessibility.getFullAXTree"))["nodes"]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        faint += await page.evaluate(FAINT)
    roles = {"button", "slider", "combobox", "textbox", "link", "figure", "image", "heading", "region", "toolbar"}
    assert [role for role, name in named if role in roles and not name] == []
    assert {"button", "slider", "combobox", "textbox", "image", "region", "toolbar"} <= {role for role, _ in named}
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
  const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => (c * a + below[i] * (255 - a)) / 255).concat(255);
  const behind = (element) => {
    const color = element ? rgb(getComputedStyle(element).backgroundColor) : [255, 255, 255, 255];
    return color[3] === 255 ? color : over(color, behind(element.parentElement));
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
    async with served() as running, page_of(running, browser, has_touch=True, is_mobile=True, **PHONE) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        box = await page.locator("button.step").first.bounding_box()
        assert box is not None and min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8
        await page.locator("button.step").first.tap()
        await expect(page.locator("#text-0")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_wider_than_a_phone(browser: Browser, scheme: Any) -> None:
    async with served() as running, page_of(running, browser, color_scheme=scheme, **PHONE) as page:
        await ask(page, SUM + " + " + "7" * 200)
        await expect(page.get_by_role("status")).to_have_text(re.compile("^The answer is"))
        await page.locator("button.name").first.click()
        width = await page.locator("html").evaluate("element => element.scrollWidth")
    assert width <= 360


async def test_on_a_phone_what_happens_is_in_sight_and_can_be_stopped(browser: Browser) -> None:
    async with (
        watched_agent(Turnstile()) as agent,
        serving(agent) as running,
        page_of(running, browser, has_touch=True, is_mobile=True, **PHONE) as page,
    ):
        await page.get_by_role("textbox", name="Question").fill(SUM)
        await page.get_by_role("button", name="Ask").tap()
        stop = page.get_by_role("button", name="Stop", exact=True)
        await expect(page.locator(".chain")).to_have_count(8)
        await expect(stop).to_be_in_viewport()
        await expect(page.get_by_role("status")).to_be_in_viewport()
        await page.locator(".chain").last.scroll_into_view_if_needed()
        await expect(stop).to_be_in_viewport()
        await stop.tap()
        await expect(page.get_by_role("status")).to_have_text("Stopped.")

"""Text of models, users and files is shown and never run, and nothing is asked of any other host."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from a1agent import A1
from a1agent.backends.scripted import ScriptedBackend
from a1agent.server.page import CONTENT_POLICY
from tests.doubles import Fixed
from tests.server.page.watching import ask, downloaded, page_of, served
from tests.server.serving import SUM, serving

pytestmark = pytest.mark.anyio

HTML = '<img src=x onerror="window.ran=1"><script>window.ran=1</script><a href="javascript:window.ran=1">x</a>'
UNTRUSTED = (
    r"$\href{javascript:window.ran=1}{x}$ $\url{https://example.org}$ $\includegraphics{https://example.org/x.png}$ "
    r"$\htmlData{a=b}{x}$ $\htmlStyle{position:fixed}{x}$"
)


@asynccontextmanager
async def answered(browser: Browser, text: str, question: str = SUM) -> AsyncIterator[Page]:
    """The page with the answer of models that write this text and nothing else; what the winner wrote is open."""
    backend = ScriptedBackend(Fixed(text), name="draft")
    async with (
        A1(backend, backend, calibration=None, min_step_tokens=0) as agent,
        serving(agent) as running,
        page_of(running, browser) as page,
    ):
        await ask(page, question)
        await expect(page.get_by_role("status")).to_contain_text("The answer is")
        await page.get_by_text("What the winning chain wrote").click()
        yield page


async def unharmed(page: Page) -> None:
    """Everything that can be opened is open, and the page has no element that it did not make."""
    await page.locator("button.name").first.click()
    await page.locator("button.step").last.click()
    found = await page.evaluate(
        """() => ({ ran: window.ran ?? null, made: [...document.querySelectorAll(
          "main img, main script, main a, main iframe, main object, main [onerror], main [style*=fixed]")].length,
          scripts: document.scripts.length, title: document.title })"""
    )
    assert found == {"ran": None, "made": 0, "scripts": 2, "title": "A1"}


async def test_html_in_texts_of_models_and_users_is_shown_as_it_is(browser: Browser) -> None:
    async with answered(browser, f"{HTML}\n\nSo it is \\boxed{{{HTML}}}", HTML) as page:
        await expect(page.get_by_role("status")).to_contain_text("The answer is <img src=x")
        for place in ("#asked", "#answer", "#message", "#votes .name", ".chain .state b", "#history button"):
            await expect(page.locator(place).first).to_contain_text("<img src=x onerror=")
        await unharmed(page)


async def test_mathematics_is_typeset_and_not_trusted_with_links_or_images(browser: Browser) -> None:
    async with answered(browser, f"{UNTRUSTED} and \\[ x^2 \\] so \\boxed{{\\frac{{1}}{{2}}}}") as page:
        await expect(page.locator("#message .katex .mfrac")).to_have_count(1)
        await expect(page.locator("#message .katex-display")).to_have_count(1)
        await expect(page.locator("#answer .katex")).to_have_count(1)
        await expect(page.locator("#votes .name .katex")).to_have_count(1)
        await unharmed(page)


async def test_what_is_no_mathematics_after_all_is_shown_as_it_was_written(browser: Browser) -> None:
    text = "It costs $5, or $\\frac{1}{$ \\boxed{\\undefinedcommand{2}}"
    async with answered(browser, text) as page:
        await expect(page.locator("#message")).to_have_text(text)
        await expect(page.locator("#answer")).to_have_text("\\undefinedcommand{2}")


async def test_html_in_an_opened_file_is_shown_as_it_is(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / f"{'<img src=x onerror=window.ran=1>'}.json"
    async with served() as running, page_of(running, browser) as page:
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        record = await downloaded(page, tmp_path / "call.json")
        record["outcome"]["notices"] = [HTML]
        record["error"] = HTML
        for event in record["events"]:
            if event["event"] == "ChainFinished":
                event["result"] |= {"end": "failed", "error": HTML}
        file.write_text(json.dumps(record), encoding="utf-8")
        await page.get_by_label("Open a call").set_input_files(file)
        for place in ("#notices", "#error", ".chain .state"):
            await expect(page.locator(place).first).to_contain_text("<img src=x onerror=")
        await unharmed(page)
        file.write_text("{", encoding="utf-8")
        await page.get_by_label("Open a call").set_input_files(file)
        await expect(page.get_by_role("alert")).to_contain_text("cannot be opened")
        await expect(page.get_by_role("alert")).to_contain_text("<img src=x onerror=")
        await unharmed(page)


async def test_every_file_of_the_page_comes_under_a_strict_policy() -> None:
    async with served() as running, running.http() as http:
        for path in ("/", "/page/app.js", "/page/style.css", "/page/katex/katex.min.js", "/page/no-such-file"):
            response = await http.get(path)
            assert (path, response.status_code) == (path, 404 if "no-such" in path else 200)
            if response.status_code == 200:
                assert response.headers["content-security-policy"] == CONTENT_POLICY
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["referrer-policy"] == "no-referrer"
    policy = {name: sources for name, *sources in (part.split() for part in CONTENT_POLICY.split(";"))}
    assert policy["default-src"] == ["'none'"]
    assert [policy[name] for name in ("base-uri", "form-action", "frame-ancestors")] == [["'none'"]] * 3
    fetched = {name: sources for name, sources in policy.items() if name.endswith("-src") and name != "default-src"}
    assert set(map(tuple, fetched.values())) == {("'self'",)}


async def test_the_browser_itself_refuses_what_the_policy_forbids(browser: Browser) -> None:
    """The policy is not only sent: a script in the document, an evaluated text and another host all fail."""
    async with served() as running:
        profile = await browser.new_context()
        page = await profile.new_page()
        await page.goto(running.url)
        violated = await page.evaluate(
            """async () => {
              const told = [];
              document.addEventListener("securitypolicyviolation", (event) => told.push(event.effectiveDirective));
              const script = document.createElement("script");
              try { script.textContent = "window.ran = 1"; document.head.append(script); } catch { told.push("types"); }
              try { document.body.innerHTML = "<p>x</p>"; } catch { told.push("types"); }
              const refused = new Promise((heard) => document.addEventListener("securitypolicyviolation",
                (event) => event.effectiveDirective === "connect-src" && heard()));
              await fetch("https://example.org/").catch(() => told.push("fetch"));
              await refused;
              return { ran: window.ran ?? null, told };
            }"""
        )
        await profile.close()
    assert violated["ran"] is None
    assert violated["told"].count("types") == 2
    assert {"connect-src", "fetch"} <= set(violated["told"])

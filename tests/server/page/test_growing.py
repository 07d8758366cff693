"""Chains are watched while they grow: what the models have not written yet is not there, what they have is."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from a1agent import A1
from a1agent.backends.scripted import Replies, Sums
from tests.doubles import Failing, Fixed
from tests.server.page.watching import Told, Turnstile, ask, page_of, told_to, watched_agent
from tests.server.serving import SUM, Running, serving, until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def watched(agent: A1, browser: Browser, **more: Any) -> AsyncIterator[tuple[Running, Page]]:
    async with agent, serving(agent) as running, page_of(running, browser, **more) as page:
        yield running, page


async def answered(page: Page, question: str = SUM) -> Told:
    """Asks, and waits until the answer is there."""
    await ask(page, question)
    await expect(page.get_by_role("status")).to_contain_text("nswer")
    return await told_to(page)


async def test_a_step_is_on_the_page_before_the_next_one_exists(browser: Browser) -> None:
    draft = Turnstile()
    async with watched(watched_agent(draft, chains=1, rejection_rate=0.0), browser) as (_, page):
        await ask(page, SUM)
        for number, text in enumerate(("1 + 2 =", "+ 3 =", "+ 4 ="), start=1):
            await until(lambda: draft.waiting == 1)
            assert draft.written == number - 1
            draft.let(1)
            await expect(page.locator("button.step.draft")).to_have_count(number)
            await expect(page.locator(".preview")).to_contain_text(text)
            await until(lambda: draft.waiting == 1)
            assert draft.written == number
        draft.let(1)
        await expect(page.get_by_role("status")).to_contain_text("The answer is")


async def test_a_chain_that_is_read_goes_on_growing_under_the_reader(browser: Browser) -> None:
    draft = Turnstile()
    async with watched(watched_agent(draft, chains=1, rejection_rate=0.0), browser) as (_, page):
        await ask(page, SUM)
        draft.let(1)
        await page.get_by_role("button", name="Chain 1").click()
        parts = page.locator("#text-0 .part")
        await expect(parts).to_have_count(1)
        await parts.first.evaluate("element => { element.dataset.seen = 'yes'; }")
        draft.let(1)
        await expect(parts).to_have_count(2)
        await expect(parts.nth(1)).to_contain_text("+ 3 =")
        assert await parts.first.get_attribute("data-seen") == "yes"  # what stood there was not drawn anew
        draft.let(2)
        await expect(page.get_by_role("status")).to_contain_text("The answer is")
        await expect(parts).to_have_count(4)


async def test_a_step_is_pending_then_taken_over_and_the_colour_tells_by_whom(browser: Browser) -> None:
    draft, target = Turnstile(), Turnstile()
    draft.let(100)
    async with watched(watched_agent(draft, target, chains=1, rejection_rate=1.0), browser) as (_, page):
        await ask(page, SUM)
        step = page.locator("button.step").first
        await until(lambda: target.waiting == 1)
        await expect(page.locator(".chain .state")).to_have_text("target takes over")
        await expect(step).to_have_attribute("aria-label", re.compile("judged, not settled, p-value"))
        colours = {"pending": await border(page, "button.step")}
        target.let(1)
        await expect(step).to_have_attribute("aria-label", re.compile("taken over by the target, p-value"))
        colours["target"] = await border(page, "button.step")
        target.let(100)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator("button.step.target")).to_have_count(4)
        await page.get_by_role("slider", name="Rejection rate").fill("0")
        await ask(page, SUM)
        await expect(page.locator("button.step.draft")).to_have_count(4)
        colours["draft"] = await border(page, "button.step")
        legend = {kind: await border(page, f"#chains-box .legend .step.{kind}") for kind in colours}
    assert colours == legend
    assert len(set(colours.values())) == 3


async def border(page: Page, selector: str) -> str:
    return await page.locator(selector).first.evaluate("element => getComputedStyle(element).borderTopColor")


async def test_a_taken_over_step_shows_what_was_dropped_and_what_the_target_wrote(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), chains=1, rejection_rate=1.0), browser) as (_, page):
        told = await answered(page)
        await page.locator("button.step").first.click()
        text = page.locator("#text-0")
        await expect(text.locator(".part.dropped")).to_have_text(told.of("StepDrafted")[0]["step"]["text"].strip())
        await expect(text.locator(".part.target")).to_have_text(told.of("StepTakenOver")[0]["step"]["text"].strip())
        await page.get_by_role("button", name="Chain 1").click()
        await expect(text.locator(".part")).to_have_count(4)  # read as a whole, only what stands is there
        await expect(text.locator(".part.dropped")).to_have_count(0)


TILES = """() => [...document.querySelectorAll(".chain")].map((chain) => [...chain.querySelectorAll("button.step")]
  .map((tile) => ({ says: tile.title, author: tile.classList[1], p: Number(tile.style.getPropertyValue("--p")),
    level: Number(tile.style.getPropertyValue("--level")),
    line: getComputedStyle(tile, "::after").bottom, height: tile.clientHeight })))"""


async def test_every_step_shows_its_p_value_against_the_level_and_what_became_of_it(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), chains=6, rejection_rate=0.4), browser) as (_, page):
        told = await answered(page)
        chains = await page.evaluate(TILES)
    verdicts = {(e["chain"], e["turn"]): e["verdict"] for e in told.of("StepVerified")}
    over = {(e["chain"], e["turn"]) for e in told.of("StepTakenOver")}
    assert 0 < len(over) < len(verdicts)
    assert sum(map(len, chains)) == len(verdicts)
    for (chain, turn), verdict in verdicts.items():
        tile, shown_level = chains[chain][turn], min(1, max(0, verdict["level"]))
        became = "taken over by the target" if (chain, turn) in over else "drafted and accepted"
        assert tile["author"] == ("target" if (chain, turn) in over else "draft")
        assert tile["says"].startswith(f"Step {turn + 1}: {became}, p-value ")
        says = [float(number) for number in re.findall(r"(?:p-value|level) (-?\d+\.\d\d)", tile["says"])]
        assert says == pytest.approx([verdict["p_value"], verdict["level"]], abs=0.00501)
        assert (tile["p"], tile["level"]) == pytest.approx((verdict["p_value"], shown_level), abs=1e-5)
        line = float(tile["line"].removesuffix("px")) + 1
        assert line == pytest.approx(shown_level * tile["height"], abs=0.6)


async def test_votes_move_as_chains_finish(browser: Browser) -> None:
    draft = Turnstile()
    agent = watched_agent(draft, script=Fixed("It is \\boxed{7}."), chains=4, rejection_rate=0.0)
    async with watched(agent, browser) as (_, page):
        await ask(page, "How many?")
        for number in range(1, 4):
            draft.let(1)
            await expect(page.locator("#votes .count")).to_have_text([str(number)])
            await expect(page.get_by_role("status")).to_have_text(f"{number} of 4 chains finished; 7 leads")
            await expect(page.locator("#votes .bar")).to_have_attribute("style", f"--share: {number / 4:g};")
            await expect(page.get_by_role("progressbar", name="Chains finished")).to_have_js_property("value", number)
            await expect(page.locator(".chain .state", has_text="answers 7")).to_have_count(number)
            await expect(page.locator(".chain .state", has_text="drafts")).to_have_count(4 - number)
        draft.let(1)
        await expect(page.get_by_role("status")).to_have_text("The answer is 7.")
        await expect(page.locator("#votes .count")).to_have_text(["4"])


async def test_chains_that_the_settled_vote_cancels_say_so_and_do_not_vote(browser: Browser) -> None:
    draft = Turnstile()
    agent = watched_agent(draft, script=Fixed("It is \\boxed{7}."), chains=8, rejection_rate=0.0, early_stop="exact")
    async with watched(agent, browser) as (_, page):
        await ask(page, "How many?")
        draft.let(5)
        await expect(page.get_by_role("status")).to_have_text("The answer is 7.")
        await expect(page.locator(".chain .state", has_text="answers 7")).to_have_count(5)
        await expect(page.locator(".chain .state", has_text="cancelled: the vote was settled")).to_have_count(3)
        await expect(page.locator("#votes .count")).to_have_text(["5"])
        await expect(page.locator("#stats")).to_contain_text("5 / 3 / 0")


async def test_a_chain_that_fails_says_why_and_the_others_go_on(browser: Browser) -> None:
    agent = watched_agent(Turnstile.open(), script=Failing(1, Sums(1.0)), chains=3)
    async with watched(agent, browser) as (_, page):
        await ask(page, SUM)
        await expect(page.get_by_role("status")).to_have_text("The answer is 10.")
        await expect(page.locator(".chain .state", has_text="failed: the model fell over")).to_have_count(1)
        await expect(page.locator(".chain .state", has_text="answers 10")).to_have_count(2)


async def test_an_answer_in_other_spellings_is_counted_apart_and_the_page_says_so(browser: Browser) -> None:
    draft = Turnstile.open()
    script = Replies(("It is \\boxed{0.5}.", "It is \\boxed{\\frac{1}{2}}."))
    async with watched(watched_agent(draft, script=script, chains=8, rejection_rate=0.0), browser) as (_, page):
        told = await answered(page, "How much?")
        assert told.outcome["confidence"] == 1.0
        await expect(page.locator("#votes .count")).to_have_count(2)
        await expect(page.locator("#votes-hint")).to_be_visible()
        await expect(page.locator("#votes .name .katex")).to_have_count(1)


async def test_of_many_answers_the_first_eight_are_shown_and_the_others_counted(browser: Browser) -> None:
    replies = Replies(tuple(f"It is \\boxed{{{number}}}." for number in range(1000)))
    async with watched(watched_agent(Turnstile.open(), script=replies, chains=12), browser) as (_, page):
        told = await answered(page, "Which?")
        answers = {event["result"]["answer"] for event in told.of("ChainFinished")}
        assert len(answers) > 9
        await expect(page.locator("#votes li")).to_have_count(8)
        await expect(page.locator("#votes-more")).to_contain_text(f"and {len(answers) - 8} more answers")


async def test_the_confidence_is_the_one_of_the_call(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), chains=8, rejection_rate=0.0), browser) as (_, page):
        told = await answered(page)
        confidence = told.outcome["confidence"]
        assert 0 < confidence < 1
        says = f"Confidence {confidence:.2f}: {round(100 * confidence)} % of the chains that were started say so"
        await expect(page.locator("#confidence")).to_have_text(says)
        assert float(await page.locator("#share").evaluate("e => e.style.getPropertyValue('--share')")) == confidence


LINES = """() => {
  const y = (element) => Number(element.getAttribute("y1"));
  const [one, zero] = [...document.querySelectorAll("#rate-chart line:not(.asked)")].map(y).sort((a, b) => a - b)
    .filter((_, i) => i !== 1);
  const share = (at) => (zero - at) / (zero - one);
  const points = [...document.querySelector("#rate-chart .observed").points].map((p) => [p.x, share(p.y)]);
  return { asked: share(y(document.querySelector("#rate-chart .asked"))), points };
}"""


async def test_the_observed_rate_is_drawn_over_time_against_the_asked_one(browser: Browser) -> None:
    draft = Turnstile()
    async with watched(watched_agent(draft, chains=1, rejection_rate=0.4), browser) as (_, page):
        await ask(page, SUM)
        draft.let(1)
        await expect(page.locator("#rate-summary")).to_contain_text("of 1 steps")
        assert len((await page.evaluate(LINES))["points"]) == 1
        draft.let(1)
        await expect(page.locator("#rate-summary")).to_contain_text("of 2 steps")
        assert len((await page.evaluate(LINES))["points"]) == 2
        draft.let(100)
        await expect(page.get_by_role("status")).to_contain_text("answer is")
        told = await told_to(page)
        drawn = await page.evaluate(LINES)
        summary = await page.locator("#rate-summary").inner_text()
    rejected = [event["verdict"]["rejected"] for event in told.of("StepVerified")]
    rates = [sum(rejected[: i + 1]) / (i + 1) for i in range(len(rejected))]
    assert drawn["asked"] == pytest.approx(0.4, abs=0.001)
    assert [share for _, share in drawn["points"]] == pytest.approx(rates, abs=0.001)
    assert [x for x, _ in drawn["points"]] == sorted(x for x, _ in drawn["points"])
    assert summary == f"{sum(rejected)} of {len(rejected)} steps taken over ({rates[-1]:.2f}), asked for 0.40"


async def test_the_p_values_are_counted_in_tenths(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), chains=8, rejection_rate=0.4), browser) as (_, page):
        told = await answered(page, "1 + 2 + 3 + 4 + 5 + 6")
        heights = await page.evaluate(
            "() => [...document.querySelectorAll('#p-chart .bin')].map((bar) => Number(bar.getAttribute('height')))"
        )
        await expect(page.locator("#p-summary")).to_have_text(
            "counts from 0 to 1: " + ", ".join(map(str, told.stats["p_value_histogram"]))
        )
    counts = told.stats["p_value_histogram"]
    assert sum(counts) == told.stats["verifications"]
    tallest = max(heights)
    assert [height / tallest for height in heights] == pytest.approx([count / max(counts) for count in counts])


async def test_tokens_and_seconds_saved_against_the_target_alone_are_told(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), Turnstile.open(), chains=6, rejection_rate=0.4), browser) as (
        _,
        page,
    ):
        stats = (await answered(page)).stats
        tiles = dict(
            zip(*[await page.locator(f"#headlines {kind}").all_inner_texts() for kind in ("dt", "dd")], strict=False)
        )
        told = await page.locator("#headlines").inner_text()
    text = stats["kept_tokens"] + stats["target_tokens"]
    alone = text / stats["target_tokens_per_s"]
    took = stats["draft_s"] + stats["verify_s"] + stats["takeover_s"]
    assert abs(alone - took) > 0.01
    assert len(tiles) == 4
    assert f"Tokens saved\n{stats['kept_tokens']}\n{round(100 * stats['kept_tokens'] / text)} % of the text" in told
    assert f"Seconds saved\n{alone - took:.2f}\nestimated: the target alone {alone:.2f} s, both {took:.2f} s" in told
    assert f"Rejection rate\n{stats['observed_rate']:.2f}\nasked for 0.40" in told


async def test_without_a_takeover_no_seconds_are_made_up(browser: Browser) -> None:
    async with watched(watched_agent(Turnstile.open(), chains=2, rejection_rate=0.0), browser) as (_, page):
        await answered(page)
        await expect(page.locator("#headlines")).to_contain_text("not measured: the target wrote nothing")

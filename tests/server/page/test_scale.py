"""64 chains of 32 steps: what the page does grows with what there is to show, and is done once a frame."""

import pytest
from playwright.async_api import Browser, expect

from a1agent.backends.scripted import Sums
from tests.server.page.watching import Turnstile, ask, page_of, told_to, watched_agent
from tests.server.serving import serving, until

pytestmark = pytest.mark.anyio

CHAINS, TURNS = 64, 32
QUESTION = " + ".join(
    map(str, range(1, TURNS + 1))
)  # a step for each number but the first, and one that states the sum

COUNT = """
  window.counted = { mutations: 0, batches: 0, frames: 0 };
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (draw) => frame((time) => { counted.frames += 1; draw(time); });
  new MutationObserver((all) => { counted.mutations += all.length; counted.batches += 1; })
    .observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
"""
PER_STEP = 22
"""Most changes that a step may cost: three states of five attributes, the tile itself, and its chain's two texts."""
PER_FRAME = 80
"""Most changes that a frame may cost beside its steps: two charts, eight votes, the progress and the status."""


async def test_64_chains_of_32_steps_are_drawn_once_a_frame_and_step_by_step(browser: Browser) -> None:
    draft = Turnstile()
    agent = watched_agent(draft, script=Sums(0.9), chains=CHAINS, turns=TURNS)
    async with agent, serving(agent) as running, page_of(running, browser) as page:
        await page.add_init_script(COUNT)
        await page.reload()
        await expect(page.locator("#models")).to_contain_text("draft")
        await ask(page, QUESTION)
        for turn in range(TURNS):  # the page has seen each turn before the next, so nothing hides in one late frame
            await until(lambda: draft.waiting == CHAINS)
            draft.let(CHAINS)
            await expect(page.locator("button.step")).to_have_count(CHAINS * (turn + 1))
        await expect(page.get_by_role("status")).to_contain_text("The answer is")
        told = await told_to(page)
        counted = await page.evaluate("counted")
        nodes = await page.evaluate("document.querySelectorAll('*').length")
        points = await page.evaluate("document.querySelector('#rate-chart .observed').points.length")
        stored = await page.evaluate("Object.keys(sessionStorage).filter((name) => name.startsWith('a1.call.')).length")
    steps = len({(event["chain"], event["turn"]) for event in told.of("StepDrafted")})
    assert steps == CHAINS * TURNS
    assert nodes <= steps + 12 * CHAINS + 300
    assert points <= 201
    assert counted["frames"] >= TURNS
    assert counted["mutations"] <= PER_STEP * steps + PER_FRAME * counted["frames"] + 500
    assert counted["batches"] <= counted["frames"] + 50  # nothing is drawn between frames
    assert stored == 1

"""Draft and target of different kinds, on the weights of the embedded pair: every combination that runs here."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from a1agent import A1, ChainResult, embedded
from a1agent.backends import llama_cpp
from a1agent.backends.base import StepText
from a1agent.conformal.scores import mean_nll
from a1agent.errors import InvalidOption
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.backends.tiny import spm_words, write_random
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))
DRAFTS, TARGETS = ("llama-cpp", "hf", "sglang", "vllm"), ("llama-cpp", "hf", "sglang", "vllm")


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[tuple[str, str], str]]:
    """Of each role in each kind."""
    found: dict[tuple[str, str], str] = {}
    servers: list[Sglang | Vllm] = []
    for role in ("draft", "target"):
        path = embedded.path(role)
        found[role, "llama-cpp"] = f"llama-cpp:{path}?n_threads=1"
        found[role, "hf"] = f"hf:{path}?n_threads=1"
        sglang, vllm = Sglang(path), Vllm(path, step_scoring=True)
        servers += [sglang, vllm]
        found[role, "sglang"] = f"sglang:{sglang.url}#tiny?tokenizer={path}"
        found[role, "vllm"] = f"vllm:{vllm.url}#tiny"
    yield found
    for server in servers:
        server.close()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("draft", DRAFTS)
def test_any_draft_goes_with_any_target(addresses: dict[tuple[str, str], str], draft: str, target: str) -> None:
    pair = addresses["draft", draft], addresses["target", target]
    with A1(*pair, calibration=None, seed=1, chains=2, min_step_tokens=0, step_tokens=64, early_stop="off") as a1:
        result = a1.solve(QUESTION, rejection_rate=0.4)
    stats = result.stats
    assert stats.chains_failed == 0 and stats.chains_finished == 2
    assert stats.verifications == sum(len(chain.turns) for chain in result.chains) > 4
    assert stats.drafted_tokens == stats.kept_tokens + stats.discarded_tokens
    assert all(chain.text and chain.scores for chain in result.chains)


def test_scores_are_those_of_the_weights_whoever_runs_them(addresses: dict[tuple[str, str], str]) -> None:
    """The same steps, drafted greedily in process, under the target of each kind."""
    scores: dict[str, list[float]] = {}
    for target in TARGETS:
        pair = addresses["draft", "llama-cpp"], addresses["target", target]
        with A1(*pair, calibration=None, chains=1, min_step_tokens=0, temperature=0.0, rejection_rate=0.0) as a1:
            result = a1.solve(QUESTION)
        scores[target] = [turn.verdict.score for turn in result.chains[0].turns if turn.verdict is not None]
    reference = scores.pop("llama-cpp")
    assert len(reference) > 4
    for target, found in scores.items():
        assert found == pytest.approx(reference, abs=2e-2 if target == "hf" else 1e-3)


@pytest.mark.parametrize("target", ["llama-cpp", "hf", "sglang"])
@pytest.mark.parametrize("draft", ["the same tokenizer", "another tokenizer"])
def test_steps_that_are_rolled_back_have_the_scores_of_their_texts(
    addresses: dict[tuple[str, str], str], tmp_path: Path, draft: str, target: str
) -> None:
    spm = draft == "another tokenizer"
    path = write_random(tmp_path / "spm.gguf", spm_words()) if spm else embedded.path("draft")
    pair = f"llama-cpp:{path}?n_threads=1", addresses["target", target]
    options = {"chains": 4, "turns": 6, "min_step_tokens": 0, "step_tokens": 48, "early_stop": "off"}
    with A1(*pair, calibration=None, seed=2, takeover="rollback", rejection_rate=1.0, **options) as a1:
        result = a1.solve(QUESTION)
    assert result.stats.chains_failed == 0
    assert result.stats.drafted_tokens == result.stats.kept_tokens + result.stats.discarded_tokens
    turns = [turn for chain in result.chains for turn in chain.turns]
    assert all(turn.drafted.text.startswith(turn.kept) for turn in turns)
    if not spm:  # a model that knows nothing is wrong from its first token on
        assert any(turn.kept for turn in turns)
    scores = asyncio.run(_scores(result.chains[0]))[:6]  # not of the statement, which other words open
    assert list(result.chains[0].scores)[:6] == pytest.approx(scores, abs=2e-2 if target == "hf" else 1e-3)


async def _scores(chain: ChainResult) -> list[float]:
    """Of the steps that stand in a chain, by a target that reads nothing else."""
    backend = await asyncio.to_thread(llama_cpp.load, str(embedded.path("target")), n_threads=1)
    sequence, found = await backend.open(QUESTION), list[float]()
    for turn in chain.turns:
        texts = [turn.kept, turn.taken_over.text] if turn.taken_over else [turn.drafted.text]
        read = [await sequence.score(StepText(text=text)) for text in texts if text]
        found.append(mean_nll([logprob for scores in read for logprob in scores.logprobs]))
    await backend.aclose()
    return found


def test_a_target_that_does_not_tell_its_tokens_cannot_roll_back(addresses: dict[tuple[str, str], str]) -> None:
    pair = addresses["draft", "llama-cpp"], addresses["target", "vllm"]
    with A1(*pair, calibration=None, takeover="rollback") as a1, pytest.raises(InvalidOption, match="tokenizer"):
        a1.solve(QUESTION)


@pytest.mark.parametrize("target", TARGETS)
def test_the_models_may_have_other_tokenizers_and_templates(
    addresses: dict[tuple[str, str], str], tmp_path: Path, target: str
) -> None:
    """A draft that knows nothing, with a SentencePiece vocabulary and Llama's template: the texts must pass."""
    draft = write_random(tmp_path / "spm.gguf", spm_words())
    pair = f"llama-cpp:{draft}?n_threads=1", addresses["target", target]
    with A1(*pair, calibration=None, seed=1, chains=2, turns=3, min_step_tokens=0, step_tokens=24) as a1:
        result = a1.solve("What is 4 + 5?", rejection_rate=0.5, early_stop="off")
    assert result.stats.chains_failed == 0
    assert result.stats.rejections > 0
    for chain in result.chains:
        steps = [turn.taken_over or turn.drafted for turn in chain.turns]
        assert all(step.text in chain.text for step in steps)

"""Whether a model thinks, and how hard: what chat templates are told."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from a1agent import A1, InvalidOption, Question
from a1agent.backends import llama_cpp, openai, sglang, vllm
from a1agent.backends.base import Sampling, Stop
from a1agent.backends.chat_options import ChatOptions
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.local_tokenizer import load_tokenizer
from tests.backends import tiny
from tests.backends.contract import BackendFactory, loaded
from tests.backends.remotes import factory
from tests.servers.flavors import OpenAI
from tests.servers.llama_server import llama_server
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytest.importorskip("llama_cpp")

READS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ reasoning_effort or 'some' }} effort{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and enable_thinking is false %}\n</think>\n\n{% endif %}{% endif %}"
)
TOLD: dict[str, dict[str, Any]] = {
    "some effort, open": {},
    "some effort, closed": {"thinking": "off"},
    "high effort, open": {"reasoning_effort": "high", "thinking": "on"},
}
LOADS = {"vllm": (Vllm, vllm.load), "sglang": (Sglang, sglang.load)}

See = Callable[[BackendFactory], str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny.write_random(tmp_path / "reads.gguf", tiny.bpe_words(READS))


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    """One whose template reads neither."""
    return tiny.write_random(tmp_path / "deaf.gguf", tiny.bpe_words())


@pytest.fixture
def see(path: Path) -> Iterator[See]:
    """Loads a model, and says what its prompts tell."""
    words = load_tokenizer(str(path))

    async def opened(make: BackendFactory) -> str:
        async with loaded(make) as backend:
            sequence: Any = await backend.open(Question.of("add"))
            said = told_in(b"".join(map(words.piece, sequence.ids)).decode())
            assert sequence.thinking is ("open" in said)
            return said

    yield lambda make: asyncio.run(opened(make))
    words.close()


def told_in(prompt: str) -> str:
    effort = "high" if "high effort" in prompt else "some"
    return f"{effort} effort, {'closed' if prompt.rstrip().endswith('</think>') else 'open'}"


@pytest.mark.parametrize("expected", TOLD)
def test_llama_cpp(path: Path, see: See, expected: str) -> None:
    assert see(lambda _: llama_cpp.load(str(path), n_ctx=256, n_threads=1, **TOLD[expected])) == expected


@pytest.mark.parametrize("expected", TOLD)
def test_transformers(path: Path, see: See, expected: str) -> None:
    pytest.importorskip("transformers")
    from a1agent.backends import transformers

    assert see(lambda _: transformers.load(str(path), n_ctx=256, n_threads=1, **TOLD[expected])) == expected


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("expected", TOLD)
@pytest.mark.parametrize("kind", LOADS)
def test_servers_that_take_ids(path: Path, see: See, kind: str, expected: str, local: bool) -> None:
    serve, load = LOADS[kind]
    with closing(serve(path)) as server:
        options = {"tokenizer": str(path)} if local else {}
        assert see(factory(load, server, **options, **TOLD[expected])) == expected


@pytest.mark.parametrize("expected", list(TOLD)[1:])
def test_llama_cpp_s_own_server(path: Path, see: See, expected: str) -> None:
    """Untold, it decides itself whether a model thinks."""
    with llama_server(path) as server:
        assert see(factory(openai.load, server, **TOLD[expected])) == expected


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("expected", TOLD)
def test_servers_that_take_messages_or_text(path: Path, api: str, expected: str) -> None:
    async def write(make: BackendFactory) -> None:
        async with loaded(make) as backend:
            sequence = await backend.open(Question.of("add"))
            await sequence.generate(2, Sampling(seed=1), Stop())

    with closing(OpenAI(path, continues="final_message")) as server:
        asyncio.run(write(factory(openai.load, server, api=api, tokenizer=str(path), **TOLD[expected])))
        assert [told_in(prompt) for prompt in server.prompts] == [expected]


@pytest.mark.parametrize("told", [{"thinking": "off"}, {"reasoning_effort": "high"}])
def test_a_template_without_a_place_for_it_is_told_of_nothing(deaf: Path, told: dict[str, str]) -> None:
    with pytest.raises(InvalidOption, match=f"no place for {next(iter(told))}"):
        llama_cpp.load(str(deaf), **told)
    for kind, (serve, load) in LOADS.items():
        with closing(serve(deaf)) as server:
            local = [{"tokenizer": str(deaf)}, *([{}] if "thinking" in told else [])]
            for options in local:
                with pytest.raises(InvalidOption, match=f"no place for {next(iter(told))}"):
                    load(f"{server.url}#{server.name}", **options, **told), kind
    with closing(OpenAI(deaf)) as server, pytest.raises(InvalidOption, match="no chat template of"):
        openai.load(f"{server.url}#{server.name}", api="completions", **told)


def test_each_family_s_name_for_it_is_known() -> None:
    for name in ("enable_thinking", "thinking", "reasoning"):
        template = ChatTemplate(f"{{{{ {name} }}}} {{{{ messages[0].content }}}}", (), {})
        template.set(ChatOptions(thinking="on"))
        assert "".join(piece.text for piece in template.pieces(Question.of("add"))) == "True add"


def test_scores_are_kept_apart_by_what_the_template_was_told(path: Path) -> None:
    prints: set[str] = set()
    for told in TOLD.values():
        backend = llama_cpp.load(str(path), n_ctx=64, n_threads=1, **told)
        prints.add(backend.info.fingerprint)
        asyncio.run(backend.aclose())
    assert len(prints) == len(TOLD)


def test_an_address_tells_it(path: Path) -> None:
    """Of two models of one file the one thinks, and its text is the other's too."""
    quick, slow = f"llama-cpp:{path}?n_threads=1&thinking=off", f"llama-cpp:{path}?n_threads=1"
    with A1(quick, quick, calibration=None, chains=1, turns=1, step_tokens=8, seed=1) as a1:
        assert "<think>" not in a1.solve("1 + 2?").chains[0].text
    with A1(slow, slow, calibration=None, chains=1, turns=1, step_tokens=8, seed=1) as a1:
        assert a1.solve("1 + 2?").chains[0].text.startswith("<think>\n")
    with pytest.raises(InvalidOption, match="unknown thinking='of'"), A1(f"{slow}&thinking=of", quick) as a1:
        a1.solve("1 + 2?")

"""Marks of thoughts and of calls that are control tokens: texts have them, thoughts in one spelling for all."""

import asyncio
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from a1agent import A1, Message, Question
from a1agent.backends import obedient, sglang, vllm
from a1agent.backends.base import StepText
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.local_tokenizer import load_tokenizer
from a1agent.backends.scripted import ScriptedBackend
from a1agent.call_formats import CALL_TOKENS
from a1agent.prompts import NEXT_MESSAGE
from tests.backends import thinkers, tiny
from tests.backends.contract import loaded
from tests.backends.remotes import factory
from tests.backends.thinkers import BOXED, parrot, words
from tests.servers.flavors import Flavor
from tests.servers.llama_server import llama_server
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytest.importorskip("llama_cpp")

PAIRS = {
    "mistral": (("[THINK]",), ("[/THINK]",)),
    "seed": (("<seed:think>",), ("</seed:think>",)),
    "minimax 3": (("<mm:think>",), ("</mm:think>",)),
    "cohere": (("<|START_THINKING|>",), ("<|END_THINKING|>", "<|START_RESPONSE|>")),
    "command": (("<|START_THINKING|>",), ("<|END_THINKING|>", "<|START_TEXT|>")),
    "apertus": (("<|inner_prefix|>",), ("<|inner_suffix|>",)),
    "gemma": (("<|channel>", "thought\n"), ("<channel|>",)),
    "kimi": (("◁think▷",), ("◁/think▷",)),
    "plain": (("<think>",), ("</think>",)),
}
GPT_OSS = (
    ("<|channel|>", "analysis", "<|message|>"),
    ("<|end|>", "<|start|>", "assistant", "<|channel|>", "final", "<|message|>"),
)


def tokens_of(parts: tuple[str, ...]) -> list[str]:
    return [part for part in parts if not part.strip().isalpha()]


@pytest.fixture(params=["llama.cpp", "tokenizers"])
def vocabulary(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[tiny.Words], Any]:
    """Loads the tokenizer of a vocabulary, as either library has it."""

    def load(made: tiny.Words) -> Any:
        path = tiny.write_random(tmp_path / "model.gguf", made)
        if request.param == "llama.cpp":
            loaded = load_tokenizer(str(path))
            request.addfinalizer(loaded.close)
            return loaded
        pytest.importorskip("transformers")
        from a1agent.backends.gguf_info import read_gguf
        from a1agent.backends.gguf_tokenizer import build_tokenizer
        from a1agent.backends.hf_vocab import HfVocabulary
        from a1agent.backends.local_tokenizer import LocalTokenizer

        vocabulary = HfVocabulary(build_tokenizer(read_gguf(path).metadata), "", len(made.tokens), ends=[made.eos])
        template = ChatTemplate(made.template, vocabulary.control, {})
        return LocalTokenizer(vocabulary, template, "", "model")

    return load


def ids_of(made: tiny.Words, loaded: Any, parts: tuple[str, ...]) -> list[int]:
    found = ([made.tokens.index(part)] if part in made.tokens else loaded.tokenize(part) for part in parts)
    return [token for ids in found for token in ids]


@pytest.mark.parametrize(("opened", "closed"), PAIRS.values(), ids=PAIRS)
def test_a_text_gives_the_tokens_of_its_marks_and_they_give_the_text(
    vocabulary: Callable[[tiny.Words], Any], opened: tuple[str, ...], closed: tuple[str, ...]
) -> None:
    made = words(*tokens_of((*opened, *closed)))
    loaded = vocabulary(made)
    first, last = ids_of(made, loaded, opened), ids_of(made, loaded, closed)
    breaks = opened == ("<think>",)
    expected = [
        *first,
        *(loaded.tokenize("\n") if breaks else []),
        *loaded.tokenize("the sum" + "\n" * breaks),
        *last,
        *loaded.tokenize("\n\n" * breaks + "so the rest"),
    ]
    assert loaded.tokenize("<think>\nthe sum\n</think>\n\nso the rest") == expected
    spoken = [first[0], *loaded.tokenize("the sum"), *last, *loaded.tokenize("so")]
    assert b"".join(map(loaded.piece, spoken)) == b"<think>the sum</think>so"
    assert loaded.tokenize("the sum") == loaded.tokenize("<think>the sum")[len(first) :]


@pytest.mark.parametrize(("opened", "closed"), PAIRS.values(), ids=PAIRS)
def test_a_prompt_that_ends_in_the_mark_is_inside_a_thought_and_users_cannot_write_it(
    vocabulary: Callable[[tiny.Words], Any], opened: tuple[str, ...], closed: tuple[str, ...]
) -> None:
    tokens = tokens_of((*opened, *closed))
    for template, thinks in (
        (tiny.CHATML + "".join(opened), True),
        (tiny.CHATML, False),
        (tiny.CHATML + "".join(opened + closed), False),
    ):
        made = words(*tokens, template=template)
        prompt = asyncio.run(vocabulary(made).encode(Question.of(f"<think>{''.join(opened)} add")))
        assert prompt.thinking is thinks
        marks = {made.tokens.index(token) for token in tokens}
        assert sum(token in marks for token in prompt.ids) == len(tokens_of(opened)) * thinks + (
            len(tokens) if template.endswith(closed[-1]) else 0
        )


def test_marks_that_are_words_of_the_text_stay_as_they_are(vocabulary: Callable[[tiny.Words], Any]) -> None:
    """As in Qwen3: tokens of their own, but no control tokens."""
    made = words("<think>", "</think>", kind=thinkers.USER)
    loaded = vocabulary(made)
    ids = [made.tokens.index("<think>"), *loaded.tokenize("\nadd"), made.tokens.index("</think>")]
    assert loaded.tokenize("<think>\nadd</think>") == ids
    assert b"".join(map(loaded.piece, ids)) == b"<think>\nadd</think>"


def test_the_word_that_gemma_puts_into_its_mark_comes_once(vocabulary: Callable[[tiny.Words], Any]) -> None:
    made = words(*tokens_of(("<|channel>", "<channel|>")))
    loaded = vocabulary(made)
    opened = [made.tokens.index("<|channel>"), *loaded.tokenize("thought\n")]
    written = b"".join(map(loaded.piece, [*opened, *loaded.tokenize("the sum")])).decode()
    assert written == "<think>thought\nthe sum"
    for text in (written, "<think>\nthe sum", "<think>the sum"):
        assert loaded.tokenize(text) == [*opened, *loaded.tokenize("the sum")]


def test_half_a_pair_of_marks_is_none(vocabulary: Callable[[tiny.Words], Any]) -> None:
    made = words("[THINK]")
    loaded = vocabulary(made)
    assert loaded.piece(made.tokens.index("[THINK]")) == b""
    ids = loaded.tokenize("<think>\nadd")
    assert made.tokens.index("[THINK]") not in ids
    assert b"".join(map(loaded.piece, ids)) == b"<think>\nadd"


def test_gpt_oss_thinks_in_a_message_of_its_own(vocabulary: Callable[[tiny.Words], Any]) -> None:
    made = words(*thinkers.HARMONY_TOKENS, template=thinkers.HARMONY)
    loaded = vocabulary(made)
    opened, closed = (ids_of(made, loaded, parts) for parts in GPT_OSS)
    prompt = asyncio.run(loaded.encode(Question.of("add <|channel|>")))
    assert prompt.thinking
    assert prompt.ids[-len(opened) :] == opened
    assert loaded.tokenize("the sum\n</think>\n\nso") == [*loaded.tokenize("the sum"), *closed, *loaded.tokenize("so")]
    assert loaded.tokenize("<think>\nso") == [*opened, *loaded.tokenize("so")]
    assert b"".join(map(loaded.piece, closed)) == b"<|start|>assistant<|channel|>final<|message|>"
    ends = {made.tokens.index(token) for token in ("<|end|>", "<|return|>", "<|call|>")}
    assert ends <= loaded.end_ids
    begun = Question(messages=(*Question.of("add").messages, Message(role="assistant", content="the sum")))
    goes_on = asyncio.run(loaded.encode(begun))
    assert not goes_on.thinking
    assert goes_on.ids[-len(loaded.tokenize("the sum")) :] == loaded.tokenize("the sum")


@pytest.mark.parametrize("kind", [thinkers.USER, tiny.CONTROL])
def test_no_answer_under_a_schema_holds_a_mark(kind: int) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("llguidance")
    from a1agent.backends.hf_vocab import HfVocabulary
    from a1agent.backends.torch_guide import Guided, Guides
    from tests.backends.tiny_hf import bpe

    tokenizer = bpe()
    (tokenizer.add_special_tokens if kind == tiny.CONTROL else tokenizer.add_tokens)(["<think>", "</think>"])
    vocabulary = HfVocabulary(tokenizer, "", tokenizer.get_vocab_size(), ends=[tokenizer.token_to_id("<|im_end|>")])
    guided = Guides(vocabulary).guided({"type": "string"}, None)
    assert isinstance(guided, Guided)
    guided.take(vocabulary.tokenize('"')[0])
    forbidden = guided.forbidden()
    assert [bool(forbidden[vocabulary.added[mark]]) for mark in ("<think>", "</think>")] == [True, True]
    assert not forbidden[vocabulary.tokenize("a")[0]]


@pytest.fixture
def gpt_oss(tmp_path: Path) -> Path:
    return thinkers.gpt_oss(tmp_path / "gpt-oss.gguf")


@pytest.fixture
def magistral(tmp_path: Path) -> Path:
    return thinkers.magistral(tmp_path / "magistral.gguf")


def assert_solves(draft: str, target: str, thought: str, **options: Any) -> None:
    asked: dict[str, Any] = {"chains": 2, "turns": 4, "seed": 1, "min_step_tokens": 0, "temperature": 0.0, **options}
    with A1(draft, target, calibration=None, **asked) as a1:
        result = a1.solve("1 + 6? \\boxed{} it.")
    assert (result.answer, result.text, result.reasoning) == ("7", BOXED, thought)


@pytest.mark.parametrize("kind", ["llama-cpp", "hf"])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("takeover", ["rewrite", "continue"])
def test_what_they_think_is_no_answer(gpt_oss: Path, magistral: Path, kind: str, rate: float, takeover: str) -> None:
    if kind == "hf":
        pytest.importorskip("transformers")
    for path, thought in ((gpt_oss, BOXED), (magistral, "hm")):
        model = f"{kind}:{path}?n_threads=1"
        assert_solves(model, model, thought, rejection_rate=rate, takeover=takeover)


def test_models_that_spell_their_marks_differently_think_in_one_text(gpt_oss: Path, magistral: Path) -> None:
    options: dict[str, Any] = {"chains": 2, "turns": 4, "seed": 1, "min_step_tokens": 0, "temperature": 0.0}
    for draft, target in ((gpt_oss, magistral), (magistral, gpt_oss)):
        with A1(f"llama-cpp:{draft}", f"llama-cpp:{target}", rejection_rate=0.0, calibration=None, **options) as a1:
            result = a1.solve("1 + 6? \\boxed{} it.")
        assert result.answer == "7"
        assert all(chain.text.count("</think>") == 1 for chain in result.chains), result.chains


KINDS = {"vllm": Vllm, "sglang": Sglang}


@pytest.mark.parametrize("local", [True, False], ids=["tokenizer", "asked"])
@pytest.mark.parametrize("kind", KINDS)
def test_over_servers_that_take_ids(gpt_oss: Path, magistral: Path, kind: str, local: bool) -> None:
    for path, thought in ((gpt_oss, BOXED), (magistral, "hm")):
        with closing(KINDS[kind](path)) as server:
            model = f"{kind}:{server.url}?retry_wait_s=0.01" + f"&tokenizer={path}" * local + f"#{server.name}"
            assert_solves(model, model, thought)


@pytest.mark.parametrize("api", ["auto", "auto&tokenizer=", "completions&tokenizer="])
def test_over_llama_cpp_s_own_server(gpt_oss: Path, magistral: Path, api: str) -> None:
    for path, thought in ((gpt_oss, BOXED), (magistral, "hm")):
        if path == magistral and "completions" in api:
            continue  # its server sends text only, without control tokens
        with llama_server(path) as server:
            option = f"{api}{path}" if api.endswith("=") else api
            draft = f"openai:{server.url}?retry_wait_s=0.01&api={option}#{server.name}"
            assert_solves(draft, f"llama-cpp:{path}?n_threads=1", thought)


def assert_calls(draft: str, target: str, thought: str = "", **options: Any) -> None:
    asked: dict[str, Any] = {"chains": 2, "turns": 4, "seed": 1, "min_step_tokens": 0, "temperature": 0.0, **options}
    question = Question(messages=Question.of("What is it?").messages, tools=(thinkers.TOOL,))
    with A1(draft, target, calibration=None, **asked) as a1:
        result = a1.solve(question)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("look_up", {"what": "7 it"})], result
    assert (result.text, result.reasoning) == ("", thought)


@pytest.mark.parametrize("kind", ["llama-cpp", "hf"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("family", thinkers.CALLS)
def test_calls_between_control_tokens_are_calls(tmp_path: Path, family: str, kind: str, rate: float) -> None:
    if kind == "hf":
        pytest.importorskip("transformers")
    model = f"{kind}:{thinkers.caller(tmp_path / 'm.gguf', family)}?n_threads=1"
    assert_calls(model, model, rejection_rate=rate)


@pytest.mark.parametrize("kind", ["llama-cpp", "hf"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("first", [False, True])
def test_gpt_oss_calls_a_tool_after_its_thought(tmp_path: Path, kind: str, rate: float, first: bool) -> None:
    if kind == "hf":
        pytest.importorskip("transformers")
    model = f"{kind}:{thinkers.gpt_oss_caller(tmp_path / 'm.gguf', first)}?n_threads=1"
    assert_calls(model, model, thinkers.ARGUMENTS, rejection_rate=rate)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "token",
    [
        *("<|turn>", "<turn|>", "<|tool_call>", '<|"|>', "｜DSML｜", "<｜Assistant｜>", "[INST]"),
        *("]~b]", "[e~[", "]~!b[", "[|user|]", "<seed:bos>", "<BOS_TOKEN>"),
    ],
)
def test_users_cannot_write_a_server_s_control_tokens(tmp_path: Path, kind: str, token: str) -> None:
    made = words(token, template=thinkers.WITH_TOOLS)
    written = Question(messages=Question.of(f"a{token}b").messages, tools=(thinkers.TOOL,))

    async def ids(server: Flavor) -> list[int]:
        load = {"vllm": vllm.load, "sglang": sglang.load}[kind]
        async with loaded(factory(load, server)) as backend:
            return [*(await backend.open(written))._ids]

    with closing(KINDS[kind](tiny.write_random(tmp_path / "m.gguf", made))) as server:
        assert made.tokens.index(token) not in asyncio.run(ids(server))


@pytest.mark.parametrize("api", ["auto", "auto&tokenizer="])
@pytest.mark.parametrize("family", thinkers.CALLS)
def test_calls_over_llama_cpp_s_own_server(tmp_path: Path, family: str, api: str) -> None:
    path = thinkers.caller(tmp_path / "m.gguf", family)
    with llama_server(path) as server:
        option = f"{api}{path}" if api.endswith("=") else api
        draft = f"openai:{server.url}?retry_wait_s=0.01&api={option}#{server.name}"
        assert_calls(draft, f"llama-cpp:{path}?n_threads=1", rejection_rate=0.0)


def test_gpt_oss_may_say_what_it_is_about_to_call() -> None:
    said = ("the sum", "<|channel|>commentary<|message|>I look it up.")
    call = f"<|channel|>commentary to=functions.look_up <|constrain|>json<|message|>{thinkers.ARGUMENTS}"

    class Says:
        def write(self, prompt: str, text: str, rng: random.Random) -> str:
            return (*said, call)[text.count(NEXT_MESSAGE)]

        def nll(self, prompt: str, text: str, step: str) -> float:
            return 1.0

    template = ChatTemplate(obedient.TEMPLATE + "<think>", obedient.CONTROL, {}, "says")
    backend = ScriptedBackend(Says(), template=template)
    backend._info = replace(backend.info, channels=True)
    question = Question(messages=Question.of("What is it?").messages, tools=(thinkers.TOOL,))
    with A1(backend, backend, calibration=None, chains=1, rejection_rate=0.0) as a1:
        result = a1.solve(question)
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("look_up", {"what": "7 it"})], result
    assert (result.text, result.reasoning) == ("", "the sum\n\nI look it up.")


@pytest.mark.parametrize("local", [True, False], ids=["tokenizer", "asked"])
@pytest.mark.parametrize("kind", KINDS)
def test_gpt_oss_calls_a_tool_over_servers(tmp_path: Path, kind: str, local: bool) -> None:
    path = thinkers.gpt_oss_caller(tmp_path / "m.gguf")
    with closing(KINDS[kind](path)) as server:
        model = f"{kind}:{server.url}?retry_wait_s=0.01" + f"&tokenizer={path}" * local + f"#{server.name}"
        assert_calls(model, model, thinkers.ARGUMENTS)


def test_gpt_oss_answers_after_its_thought_though_it_may_call_a_tool(tmp_path: Path) -> None:
    said = ("<|channel|>", "final", "<|message|>", BOXED)
    model = f"llama-cpp:{thinkers.channels(tmp_path / 'm.gguf', *said)}"
    question = Question(messages=Question.of("1 + 6? \\boxed{} it.").messages, tools=(thinkers.TOOL,))
    with A1(model, model, calibration=None, chains=2, turns=4, min_step_tokens=0, temperature=0.0) as a1:
        result = a1.solve(question)
    assert (result.answer, result.text, result.reasoning, result.tool_calls) == ("7", BOXED, BOXED, ())


def test_what_gpt_oss_says_after_its_thought_has_the_tokens_of_its_kind(
    vocabulary: Callable[[tiny.Words], Any],
) -> None:
    made = words(*thinkers.HARMONY_TOKENS, "<|constrain|>", template=thinkers.HARMONY)
    loaded = vocabulary(made)
    texts = {
        "<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}": "<|call|>",
        "<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{}": "<|call|>",
        "<|start|>assistant<|channel|>final<|message|>so": "<|return|>",
        "\n\nso": "<|return|>",
    }
    for text, end in texts.items():
        ids = loaded.tokenize(f"the sum\n</think>{text}")
        assert ids.count(made.tokens.index("<|end|>")) == ids.count(made.tokens.index("<|channel|>")) == 1
        assert made.tokens[loaded.marks.end_after(ids)] == end
    plain = "<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}"
    assert b"".join(map(loaded.piece, loaded.tokenize(plain))).decode() == plain


@pytest.mark.parametrize("family", thinkers.CALLS)
def test_a_call_gives_the_tokens_of_its_marks_and_they_give_the_call(
    vocabulary: Callable[[tiny.Words], Any], family: str
) -> None:
    said = thinkers.CALLS[family]
    made = words(*(part for part in said if part in CALL_TOKENS))
    loaded = vocabulary(made)
    ids = loaded.tokenize("".join(said))
    assert {made.tokens.index(part) for part in said if part in CALL_TOKENS} <= {*ids}
    assert b"".join(map(loaded.piece, ids)).decode() == "".join(said)
    assert loaded.marks.spelling is None


@pytest.mark.parametrize("local", [True, False], ids=["tokenizer", "asked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", thinkers.CALLS)
def test_calls_over_servers_that_take_ids(tmp_path: Path, family: str, kind: str, local: bool) -> None:
    path = thinkers.caller(tmp_path / "m.gguf", family)
    with closing(KINDS[kind](path)) as server:
        model = f"{kind}:{server.url}?retry_wait_s=0.01" + f"&tokenizer={path}" * local + f"#{server.name}"
        assert_calls(model, model)


@pytest.mark.parametrize("local", [True, False], ids=["tokenizer", "asked"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_thought_and_that_of_an_answer_are_scored_apart(tmp_path: Path, kind: str, local: bool) -> None:
    """Of a model that ends both as thoughts end: a thought of gpt-oss ends by another token than its answer."""
    path = parrot(
        tmp_path / "m.gguf", words(*thinkers.HARMONY_TOKENS, template=thinkers.HARMONY), "<|message|>", "a", "<|end|>"
    )

    async def ends(server: Flavor) -> tuple[float | None, float | None]:
        options = {"tokenizer": str(path)} if local else {}
        load = {"vllm": vllm.load, "sglang": sglang.load}[kind]
        async with loaded(factory(load, server, **options)) as backend:
            sequence = await backend.open(Question.of("b"))
            thought = await sequence.score(StepText(text="a"), end=True)
            answer = await sequence.score(StepText(text="\n</think>\n\na"), end=True)
            return thought.end, answer.end

    with closing(KINDS[kind](path)) as server:
        thought, answer = asyncio.run(ends(server))
    assert thought is not None and answer is not None
    assert thought > -0.1
    assert answer < -1

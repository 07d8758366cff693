"""Tool calls: how the families of models write them, which are malformed, and how chains vote on them."""

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent import A1, InvalidAnswer, InvalidQuestion, Message, Question, ToolCall
from a1agent.backends import obedient
from a1agent.backends.chat_template import ChatTemplate
from a1agent.backends.scripted import ScriptedBackend
from a1agent.engine.statement import plain_statement
from a1agent.structured import check_schema, mismatch
from a1agent.tools import Calls, call_id, canonical_calls, offer, parse_calls, tool_statement
from tests.doubles import LIMIT_S, Clock, Late


def tool(name: str, **fields: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in fields.items()}
    parameters = {"type": "object", "properties": properties, "required": list(fields)}
    return {"type": "function", "function": {"name": name, "description": f"{name}s", "parameters": parameters}}


ADD = tool("add", a="integer", b="integer")
LOOK = tool("look_up", what="string")
TOOLS = {each["function"]["name"]: each["function"]["parameters"] for each in (ADD, LOOK)}
CALL = ToolCall(name="add", arguments={"a": 2, "b": 3})


@dataclass(frozen=True)
class Writes:
    """Writes one text per chain, as its seed has it, and keeps the prompts it saw."""

    texts: tuple[str, ...]
    prompts: list[str] = field(default_factory=list[str], compare=False)

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        self.prompts.append(prompt)
        begun = [t for t in self.texts if text and t.startswith(text)]
        if text and not begun:
            return "nothing"
        return rng.choice(begun)[len(text) :] if begun else rng.choice(self.texts)

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


def agent(*texts: str, **options: Any) -> A1:
    template = ChatTemplate(obedient.TEMPLATE, obedient.CONTROL, {}, "writes")
    backend = ScriptedBackend(Writes(texts), template=template)
    return A1(backend, backend, calibration=None, **{"seed": 1, "early_stop": "off", **options})


def ask(text: str = "Add 2 and 3.", choice: str = "auto", tools: tuple[Any, ...] = (ADD, LOOK)) -> Question:
    return Question(messages=(Message(role="user", content=text),), tools=tools, tool_choice=choice)


def tagged(*calls: dict[str, Any]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


@pytest.mark.parametrize(
    "message",
    [
        '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>',
        '<tool_call>{"arguments": {"b": 3, "a": 2.0}, "name": "add"}',  # cut off after the JSON
        '{"name": "add", "parameters": {"a": 2, "b": 3}}',
        '<|python_tag|>{"name": "add", "parameters": {"a": 2, "b": 3}}',
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2, "b": 3}}]',
        '[{"name": "add", "arguments": {"a": 2, "b": 3}}]',  # the control token is not in the text
        '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 3}',
        'add{"a": 2, "b": 3}',
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 2, \\"b\\": 3}"}</tool_call>',  # arguments twice encoded
    ],
)
def test_a_call_is_read_in_every_family_s_spelling(message: str) -> None:
    found = parse_calls(message, TOOLS)
    assert found.invalid == ()
    assert canonical_calls(found.calls) == canonical_calls([CALL])


@pytest.mark.parametrize(
    "message",
    [
        tagged({"name": "add", "arguments": {"a": 1}}, {"name": "look_up", "arguments": {"what": "x; y"}}),
        '{"name": "add", "parameters": {"a": 1}}; {"name": "look_up", "parameters": {"what": "x; y"}}',
        '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]look_up[ARGS]{"what": "x; y"}',
    ],
)
def test_several_calls_keep_their_order(message: str) -> None:
    assert [call.name for call in parse_calls(message, TOOLS).calls] == ["add", "look_up"]


def test_what_stands_beside_calls_is_the_content() -> None:
    found = parse_calls("I add.\n" + tagged({"name": "add", "arguments": {}}), TOOLS)
    assert found.content == "I add."
    assert parse_calls("Let me see. [TOOL_CALLS]add[ARGS]{}", TOOLS).content == "Let me see."


@pytest.mark.parametrize(
    "message",
    ["The sum is 5.", '{"name": "Ada", "arguments": "none"}', '{"sum": 5}', "add them yourself", "[1, 2]", "adding {}"],
)
def test_other_text_is_no_call(message: str) -> None:
    assert parse_calls(message, TOOLS) == Calls((), (), message)


@pytest.mark.parametrize(
    ("message", "error", "name"),
    [
        ('<tool_call>{"name": "add", "arguments": {"a": 2', "it is not JSON", "add"),
        ('<tool_call>{"name": "ad", "arguments": {}}</tool_call>', "there is no tool 'ad'", "ad"),
        ('<tool_call>{"arguments": {}}</tool_call>', "it names no tool", None),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "its arguments are no JSON object", "add"),
        ('{"name": "add", "parameters": {"a": ', "it is not JSON", "add"),
        ('[TOOL_CALLS]add[ARGS]{"a": ', "it is not JSON", "add"),
        ('<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "its arguments are no JSON object", "add"),
    ],
)
def test_a_malformed_call_is_reported_with_what_is_wrong(message: str, error: str, name: str | None) -> None:
    found = parse_calls(message, TOOLS)
    assert found.calls == ()
    assert [(call.error, call.name) for call in found.invalid] == [(error, name)]


@given(st.text(alphabet='<tool_call>/{}[]"nameARGS:,; \n1', max_size=200))
def test_whatever_a_model_writes_can_be_read(message: str) -> None:
    parse_calls(message, TOOLS)


@given(st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5), max_size=4))
def test_calls_that_differ_only_in_spelling_are_equal(arguments: dict[str, Any]) -> None:
    message = tagged({"arguments": dict(reversed(arguments.items())), "name": "add"})
    assert canonical_calls(parse_calls(message, TOOLS).calls) == canonical_calls(
        [ToolCall(name="add", arguments=arguments)]
    )


def test_parallel_calls_are_equal_in_any_order() -> None:
    other = ToolCall(name="look_up", arguments={})
    assert canonical_calls([CALL, other]) == canonical_calls([other, CALL])


def test_ids_are_nine_letters_or_digits_and_differ() -> None:
    ids = {call_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(i) == 9 and i.isalnum() for i in ids)


def test_where_calls_are_not_to_be_parallel_a_message_calls_the_first_of_them() -> None:
    first = {"name": "add", "arguments": {"a": 2, "b": 3}}
    both, one = tagged(first, {"name": "look_up", "arguments": {"what": "x"}}), tagged(first)
    with agent(both, both, one, chains=6) as a1:
        result = a1.solve(replace(ask(), parallel_tool_calls=False))
        every = a1.solve(ask())
    assert (result.tool_calls, result.confidence) == ((CALL,), 1.0)  # chains that call the same first tool agree
    assert len(every.tool_calls) == 2


def test_chains_vote_on_calls_and_the_winner_is_returned_whole() -> None:
    right, wrong = (
        tagged({"name": "add", "arguments": {"a": 2, "b": 3}}),
        tagged({"name": "add", "arguments": {"a": 7}}),
    )
    with agent("Adding. " + right, right, right, wrong, chains=12) as a1:
        result = a1.solve(ask())
    winner = result.chains[result.winner or 0]
    agreeing = sum(chain.answer == canonical_calls([CALL]) for chain in result.chains)
    assert result.tool_calls == (CALL,)
    assert result.text in winner.text
    assert result.confidence == agreeing / 12 < 1
    assert result.as_dict()["tool_calls"] == [{"name": "add", "arguments": {"a": 2, "b": 3}}]


def test_answering_in_words_is_a_vote_too() -> None:
    call = tagged({"name": "add", "arguments": {}})
    with agent("It is five.", "Five, I think.", "You get five.", call, chains=16) as a1:
        result = a1.solve(ask())
    assert result.tool_calls == ()
    assert "ive" in result.text
    assert result.confidence > 0.5


@pytest.mark.parametrize("answer", ["auto", "choice"])
def test_words_on_the_way_are_no_answer_where_tools_may_be_called(answer: str) -> None:
    text = "First, the answer is not clear yet.\n\nThen (a) we add {both}.\n\nIt is (B): \\boxed{5}"
    with agent(text, chains=3, min_step_tokens=0, rejection_rate=0.0, answer=answer) as a1:
        result = a1.solve(ask("Add 2 and 3. Answer in \\boxed{}."))
    assert result.text == text
    assert {chain.text for chain in result.chains} == {text}


def test_chains_with_malformed_calls_do_not_vote() -> None:
    call, broken = tagged({"name": "add", "arguments": {}}), '<tool_call>{"name": "add", "argu'
    with agent(call, broken, broken, broken, chains=16) as a1:
        result = a1.solve(ask())
    assert result.tool_calls == (ToolCall(name="add", arguments={}),)
    with agent(broken) as a1:
        result = a1.solve(ask())
    assert result.tool_calls == ()
    assert [call.error for call in result.invalid_tool_calls] == ["it is not JSON"]


def test_without_tools_what_looks_like_a_call_is_text() -> None:
    call = tagged({"name": "add", "arguments": {}})
    with agent(call) as a1:
        result = a1.solve("Add.")
    assert result.tool_calls == ()
    assert result.text == call


def test_a_chain_that_must_call_and_does_not_is_made_to() -> None:
    with A1("scripted:obedient", "scripted:obedient", calibration=None, seed=1) as a1:
        result = a1.solve(ask("Hello 4 and 5!", choice="required"))
        named = a1.solve(ask("Hello!", choice="look_up"))
    assert result.tool_calls == (ToolCall(name="add", arguments={"a": 4, "b": 5}),)
    assert [call.name for call in named.tool_calls] == ["look_up"]


def test_no_chain_calling_where_one_must_is_an_error_with_the_text() -> None:
    with agent("I would rather not.") as a1, pytest.raises(InvalidAnswer, match="no chain called a tool") as caught:
        a1.solve(ask(choice="required"))
    assert caught.value.text.startswith("I would rather not.")
    assert caught.value.hint == "use more chains, or a target that was trained to call tools"
    assert caught.value.stats is not None


@pytest.mark.parametrize(("choice", "told"), [("auto", "no chain gave a call"), ("required", "no chain called a tool")])
def test_a_call_that_cannot_be_made_is_told_of_where_a_format_is_asked_for_too(choice: str, told: str) -> None:
    """As JSON it is what was asked for."""
    asked = replace(ask(choice=choice), response_format={"type": "json_object"})
    with agent(tagged({"name": "subtract", "arguments": {}})) as a1, pytest.raises(InvalidAnswer) as caught:
        a1.solve(asked)
    assert caught.value.what.startswith(told)
    assert "there is no tool 'subtract'" in caught.value.what


@pytest.mark.anyio
async def test_no_call_within_the_time_limit_asks_for_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(Clock(monkeypatch).pass_limit)
    slow = ScriptedBackend(late, template=ChatTemplate(obedient.TEMPLATE, obedient.CONTROL, {}, "slow"), jitter=2)
    async with A1(slow, slow, calibration=None) as a1:
        with pytest.raises(InvalidAnswer, match=r"no chain called a tool.* before the time limit .* raise timeout_s"):
            await a1.asolve(ask(choice="required"), timeout_s=LIMIT_S)


def test_control_tokens_in_names_of_arguments_and_roles_in_them_stay_text() -> None:
    turn = "<|im_start|>{{ m.role }}{{ m.tool_calls|default([])|tojson }}<|im_end|>"
    source = f"{{% for m in messages %}}{turn}{{% endfor %}}{{{{ tools|tojson }}}}"
    template = ChatTemplate(source, ("<|im_start|>", "<|im_end|>"), {})
    hostile = {"<|im_end|>": 1, "role": "<|im_start|>"}
    call = {"type": "function", "function": {"name": "add", "arguments": hostile}}
    messages = (Message(role="assistant", content="", extra={"tool_calls": [call]}), Message(role="tool", content="5"))
    parameters = {"type": "object", "properties": {"<|im_start|>": {}}}
    tools = ({"type": "function", "function": {"name": "add", "parameters": parameters}},)
    pieces = template.pieces(Question(messages=messages, tools=tools))
    assert [piece.text for piece in pieces if piece.control] == ["<|im_start|>", "<|im_end|>"] * 2
    assert '{"<|im_end|>": 1, "role": "<|im_start|>"}' in "".join(piece.text for piece in pieces)


def test_a_tool_that_is_nested_too_deep_is_refused_also_where_no_keyword_leads() -> None:
    deep: Any = json.loads("[" * 600 + "]" * 600)
    strange = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "x": deep}}}
    with pytest.raises(InvalidQuestion, match="nested too deep"):
        offer(ask(tools=(strange,)))


def test_the_choice_decides_which_tools_are_shown() -> None:
    assert offer(ask(choice="none")).tools == ()
    assert offer(ask(choice="look_up")).tools == (LOOK,)
    assert offer(ask()).tools == (ADD, LOOK)


def test_the_models_see_past_calls_and_their_answers_through_the_template() -> None:
    template = ChatTemplate(obedient.TEMPLATE, obedient.CONTROL, {}, "writes")
    messages = Question.of(
        [
            {"role": "user", "content": "Add."},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": '{"a": 2}'}}],
            },
            {"role": "tool", "content": "", "tool_call_id": "1"},
        ]
    ).messages
    prompt = "".join(piece.text for piece in template.pieces(Question(messages=messages, tools=(ADD,))))
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>' in prompt
    assert "<tool_response>\n\n</tool_response>" in prompt
    assert json.dumps(ADD) in prompt


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (lambda: ask(tools=(ADD, ADD)), "two tools are called 'add'"),
        (lambda: ask(choice="ad"), "did you mean 'add'"),
        (lambda: ask(tools=({"name": "add"},)), "a tool is malformed"),
        (lambda: ask(tools=(tool("add", a="number of things"),)), "is no JSON schema"),
        (lambda: ask(tools=(), choice="required"), "there are no tools"),
        (lambda: Question.of([{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]), "malformed tool call"),
    ],
)
def test_mistakes_in_tools_are_told_before_a_model_is_loaded(question: Any, told: str) -> None:
    missing = "llama-cpp:there-is-no-such.gguf"
    with A1(missing, missing, calibration=None) as a1, pytest.raises(InvalidQuestion, match=told):
        a1.solve(question())


def test_tools_on_a_template_without_a_place_for_them_are_refused() -> None:
    with A1("scripted:sums", "scripted:sums", calibration=None) as a1, pytest.raises(InvalidQuestion, match="template"):
        a1.solve(ask())
    plain = ChatTemplate("{{ messages[0].content }}", (), {}, "plain")
    with pytest.raises(InvalidQuestion, match="no place for tools"):
        plain.pieces(ask())


def test_what_a_forced_call_is_held_to_names_the_tools_and_their_arguments_only() -> None:
    """Definitions go to the root; where two tools mean different things by one name, the later is held to less."""

    def using(name: str, kind: str) -> dict[str, Any]:
        parameters = {"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": kind}}}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    asked = ask(choice="required", tools=(ADD, using("one", "integer"), using("two", "string")))
    schema = tool_statement(asked, plain_statement("auto", boxed=False, tokens=8)).schema
    assert schema is not None
    arguments = {call["properties"]["name"]["const"]: call["properties"]["arguments"] for call in schema["anyOf"]}
    assert all(call["additionalProperties"] is False for call in schema["anyOf"])
    assert arguments["add"]["additionalProperties"] is False
    assert arguments["one"]["properties"] == {"x": {"$ref": "#/$defs/X"}}
    assert arguments["two"] == {"type": "object"}
    assert schema["$defs"] == {"X": {"type": "integer"}}


def test_a_forced_call_is_held_to_arguments_that_refer_to_themselves() -> None:
    """By `#` they mean themselves, and not the call whose part they are."""
    number = {"type": "integer"}
    fields = {"number": number, "next": {"$ref": "#"}}
    list_of = {"type": "object", "properties": fields, "required": ["number"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "keep", "parameters": list_of}}
    asked = ask(choice="required", tools=(tool,))
    schema = tool_statement(asked, plain_statement("auto", boxed=False, tokens=8)).schema
    assert schema is not None
    validator = check_schema(schema, "it")
    assert mismatch(validator, {"name": "keep", "arguments": {"number": 1, "next": {"number": 2}}}) is None
    called = {"name": "keep", "arguments": {"number": 2}}
    assert mismatch(validator, {"name": "keep", "arguments": {"number": 1, "next": called}})


def test_strict_tools_make_calls_malformed_whose_arguments_do_not_match() -> None:
    good, bad = tagged({"name": "add", "arguments": {"a": 2, "b": 3}}), tagged({"name": "add", "arguments": {"a": "2"}})
    asked = ask()
    with agent(good, bad, bad, chains=16) as a1:
        loose, strict = a1.solve(asked), a1.solve(replace(asked, strict_tools=True))
    assert loose.tool_calls[0].arguments == {"a": "2"}  # the more said so
    assert strict.tool_calls == (CALL,)
    assert strict.confidence < 0.5


def test_no_strict_call_matching_is_an_error_that_says_why() -> None:
    bad = tagged({"name": "add", "arguments": {"a": "2", "b": 3}})
    with agent(bad) as a1:
        voluntary = a1.solve(replace(ask(), strict_tools=True))
        with pytest.raises(InvalidAnswer, match=r"at \$\.a: '2' is not of type 'integer'"):
            a1.solve(replace(ask(choice="required"), strict_tools=True))
    assert [call.error for call in voluntary.invalid_tool_calls] == [
        "of its arguments, at $.a: '2' is not of type 'integer'"
    ]

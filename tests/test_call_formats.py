"""Calls of tools as the families of models write them: each is read as what it asks for.

The spellings were held against those that vLLM's and SGLang's own parsers of these families take.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1agent.call_formats import CALL_TOKENS
from a1agent.tools import Calls, parse_calls

Asked = list[tuple[str, dict[str, Any]]]
Writer = Callable[[Asked], str]

KINDS: dict[str, Any] = {
    "what": {"type": "string"},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "sure": {"type": "boolean"},
    "tags": {"type": "array"},
    "more": {"$ref": "#/$defs/more"},
    "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
    "zip": {"enum": ["01234", "12345"]},
}
TOOLS: dict[str, Any] = {
    "look_up": {"type": "object", "properties": KINDS, "required": ["what"], "$defs": {"more": {"type": "object"}}},
    "mcp.now": {"type": "object", "properties": {}},
}
FULL: Asked = [
    (
        "look_up",
        {
            "what": "a \"b\", {c}; def f():\n    return 'd'\n\n5",
            "count": -3,
            "share": 0.5,
            "sure": True,
            "tags": ["a", 1, None, False],
            "more": {"k": [1, {"l": "m"}]},
            "limit": None,
            "zip": "01234",
        },
    )
]
CASES: list[Asked] = [FULL, [("mcp.now", {})], [*FULL, ("mcp.now", {}), ("look_up", {"what": "12"})]]
DSML = "｜DSML｜"


def spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def in_json(lead: str, name: str, arguments: str, between: str, tail: str) -> Writer:
    def write(asked: Asked) -> str:
        return lead + between.join(json.dumps({name: n, arguments: a}) for n, a in asked) + tail

    return write


def hermes(asked: Asked) -> str:
    return "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>" for name, arguments in asked
    )


def qwen(asked: Asked, mark: str = "tool_call", opening: str = "<{}>\n") -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        values = "".join(f"<parameter={key}>\n{spelled(value)}\n</parameter>\n" for key, value in arguments.items())
        return f"{opening.format(mark)}<function={name}>\n{values}</function>\n</{mark}>"

    return "\n".join(one(*call) for call in asked)


def seed(asked: Asked) -> str:
    return qwen(asked, "seed:tool_call")


def qwen_without_its_opening(asked: Asked) -> str:
    return qwen(asked, opening="")


def glm(asked: Asked, line: str = "\n", after: str = "", mark: str = "tool_call") -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        values = (
            f"<arg_key>{key}</arg_key>{line}<arg_value>{spelled(value)}</arg_value>{line}"
            for key, value in arguments.items()
        )
        return f"<{mark}>{name}{after}{line}{''.join(values)}</{mark}>"

    return line.join(one(*call) for call in asked)


def iquest(asked: Asked) -> str:
    return glm(asked, mark="iquest_tool_call")


def glm_on_one_line(asked: Asked) -> str:
    return glm(asked, line="")


def hunyuan_3(asked: Asked) -> str:
    return f"<tool_calls>\n{glm(asked, after='<tool_sep>')}\n</tool_calls>"


def minimax(asked: Asked) -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        values = (f'<parameter name="{key}">{spelled(value)}</parameter>\n' for key, value in arguments.items())
        return f'<invoke name="{name}">\n{"".join(values)}</invoke>\n'

    return f"<minimax:tool_call>\n{''.join(one(*call) for call in asked)}</minimax:tool_call>"


def dots(asked: Asked) -> str:
    return minimax(asked).replace("minimax:tool_call>", "dots_function_call>")


def minimax_3(asked: Asked, mark: str = "]<]minimax[>[") -> str:
    def element(name: str, value: Any) -> str:
        return f"{mark}<{name}>{content(value)}{mark}</{name}>"

    def content(value: Any) -> str:
        if isinstance(value, dict):
            return "".join(element(name, part) for name, part in value.items())
        if isinstance(value, list):
            return "".join(element("item", part) for part in value)
        return spelled(value)

    def one(name: str, arguments: dict[str, Any]) -> str:
        values = "".join(f"{element(key, value)}\n" for key, value in arguments.items())
        return f'{mark}<invoke name="{name}">\n{values}{mark}</invoke>\n'

    return f"{mark}<tool_call>\n{''.join(one(*call) for call in asked)}{mark}</tool_call>"


def minimax_3_without_marks(asked: Asked) -> str:
    return minimax_3(asked, mark="")


def deepseek_32(asked: Asked, block: str = "function_calls") -> str:
    def one(name: str, arguments: dict[str, Any]) -> str:
        values = (
            f'<{DSML}parameter name="{key}" string="{"true" if isinstance(value, str) else "false"}">'
            f"{spelled(value)}</{DSML}parameter>\n"
            for key, value in arguments.items()
        )
        return f'<{DSML}invoke name="{name}">\n{"".join(values)}</{DSML}invoke>\n'

    return f"<{DSML}{block}>\n{''.join(one(*call) for call in asked)}</{DSML}{block}>"


def deepseek_4(asked: Asked) -> str:
    return deepseek_32(asked, "tool_calls")


def deepseek_32_in_json(asked: Asked) -> str:
    calls = "".join(f'<{DSML}invoke name="{n}">\n{json.dumps(a)}\n</{DSML}invoke>\n' for n, a in asked)
    return f"<{DSML}function_calls>\n{calls}</{DSML}function_calls>"


def deepseek_31(asked: Asked) -> str:
    calls = (f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{json.dumps(a)}<｜tool▁call▁end｜>" for n, a in asked)
    return f"<｜tool▁calls▁begin｜>{''.join(calls)}<｜tool▁calls▁end｜>"


def deepseek_r1(asked: Asked) -> str:
    calls = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{n}\n```json\n{json.dumps(a)}\n```<｜tool▁call▁end｜>"
        for n, a in asked
    )
    return "<｜tool▁calls▁begin｜>" + "\n".join(calls) + "<｜tool▁calls▁end｜>"


def kimi(asked: Asked) -> str:
    calls = (
        f"<|tool_call_begin|>functions.{n}:{i}<|tool_call_argument_begin|>{json.dumps(a)}<|tool_call_end|>"
        for i, (n, a) in enumerate(asked)
    )
    return f"<|tool_calls_section_begin|>{''.join(calls)}<|tool_calls_section_end|>"


def mistral(asked: Asked) -> str:
    return "".join(f"[TOOL_CALLS]{n}[ARGS]{json.dumps(a)}" for n, a in asked)


def mistral_with_ids(asked: Asked) -> str:
    return "".join(f"[TOOL_CALLS]{n}[CALL_ID]a1b2c3d4e[ARGS]{json.dumps(a)}" for n, a in asked)


def llama_31(asked: Asked) -> str:
    return "".join(f"<function={n}>{json.dumps(a)}</function>" for n, a in asked)


def python(asked: Asked, write: Callable[[Any], str] = repr, between: str = ", ") -> str:
    return between.join(f"{n}({', '.join(f'{k}={write(v)}' for k, v in a.items())})" for n, a in asked)


def llama_4(asked: Asked) -> str:
    return f"[{python(asked)}]"


def lfm(asked: Asked) -> str:
    return f"<|tool_call_start|>[{python(asked)}]<|tool_call_end|>"


def olmo(asked: Asked) -> str:
    return f"<function_calls>{python(asked, json.dumps, chr(10))}</function_calls>"


def quoted(value: Any, quote: str) -> str:
    if isinstance(value, str):
        return quote + value + quote
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quoted(each, quote)}" for key, each in value.items()) + "}"
    return "[" + ",".join(quoted(each, quote) for each in value) + "]" if isinstance(value, list) else json.dumps(value)


def gemma(asked: Asked) -> str:
    return "".join(f"<|tool_call>call:{n}{quoted(a, '<|' + chr(34) + '|>')}<tool_call|>" for n, a in asked)


def function_gemma(asked: Asked) -> str:
    return "".join(f"<start_function_call>call:{n}{quoted(a, '<escape>')}<end_function_call>" for n, a in asked)


def apertus(asked: Asked) -> str:
    return f"<|tools_prefix|>[{', '.join(json.dumps({n: a}) for n, a in asked)}]<|tools_suffix|>"


def gpt_oss(asked: Asked) -> str:
    ((name, arguments),) = asked
    head = f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json"
    return f"{head}<|message|>{json.dumps(arguments)}"


def gpt_oss_naming_first(asked: Asked) -> str:
    ((name, arguments),) = asked
    return f"<|start|>assistant to=functions.{name}<|channel|>commentary json<|message|>{json.dumps(arguments)}"


def gigachat(asked: Asked) -> str:
    return "".join(f"<|function_call|>{json.dumps({'name': n, 'arguments': a})}<|message_sep|>\n" for n, a in asked)


FAMILIES: dict[str, Writer] = {
    "hermes": hermes,
    "qwen 3.5": qwen,
    "qwen coder, without the opening": qwen_without_its_opening,
    "seed": seed,
    "glm 4.5": glm,
    "glm 4.7": glm_on_one_line,
    "iquest": iquest,
    "hunyuan 3": hunyuan_3,
    "minimax": minimax,
    "minimax 3": minimax_3,
    "minimax 3, without its marks": minimax_3_without_marks,
    "dots": dots,
    "deepseek 3.2": deepseek_32,
    "deepseek 3.2, in JSON": deepseek_32_in_json,
    "deepseek 4": deepseek_4,
    "deepseek 3.1": deepseek_31,
    "deepseek r1": deepseek_r1,
    "kimi": kimi,
    "mistral": mistral,
    "mistral, with ids": mistral_with_ids,
    "mistral, in a list": in_json("[TOOL_CALLS] [", "name", "arguments", ", ", "]"),
    "llama 3.1": llama_31,
    "llama 3": in_json("", "name", "parameters", "; ", ""),
    "llama 3, with its mark": in_json("<|python_tag|>", "name", "parameters", "; ", ""),
    "llama 4": llama_4,
    "lfm": lfm,
    "lfm, in JSON": in_json("<|tool_call_start|>[", "name", "arguments", ", ", "]<|tool_call_end|>"),
    "olmo": olmo,
    "gemma": gemma,
    "function gemma": function_gemma,
    "gpt-oss": gpt_oss,
    "gpt-oss, naming first": gpt_oss_naming_first,
    "command": in_json("<|START_ACTION|>[\n    ", "tool_name", "parameters", ",\n    ", "\n]<|END_ACTION|>"),
    "apertus": apertus,
    "gigachat 3": gigachat,
    "granite 3": in_json("<|tool_call|>[", "name", "arguments", ", ", "]"),
    "phi 4": in_json("<|tool_call|>[", "name", "arguments", ", ", "]<|/tool_call|>"),
    "nemotron 2": in_json("<TOOLCALL>[", "name", "arguments", ", ", "]</TOOLCALL>"),
    "hunyuan a13b": in_json("<tool_calls>[", "name", "arguments", ", ", "]</tool_calls>"),
    "internlm": in_json("<|action_start|> <|plugin|>\n", "name", "parameters", "\n", "<|action_end|>"),
}
WHOLE_MESSAGES = ("llama 3", "llama 4")
family = pytest.mark.parametrize("family", FAMILIES)


def asked_in(found: Calls) -> Asked:
    assert found.invalid == ()
    return [(call.name, dict(call.arguments)) for call in found.calls]


@family
@pytest.mark.parametrize("asked", CASES, ids=["one", "no arguments", "several"])
@pytest.mark.parametrize("lead", ["", "I look it up.\n\n"])
def test_a_family_s_calls_are_read_in_order_and_apart_from_the_text(family: str, asked: Asked, lead: str) -> None:
    if family.startswith("gpt-oss") and len(asked) > 1:
        pytest.skip("it calls one tool at a time")
    lead = "" if family in WHOLE_MESSAGES else lead
    found = parse_calls(lead + FAMILIES[family](asked), TOOLS)
    assert asked_in(found) == asked
    assert found.content == lead.strip()


MARK = re.compile(r"<[^>]*>|\[[A-Z_]+\]|｜DSML｜|```")
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20).filter(
    lambda text: not MARK.search(text)  # these are tried below
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@family
@settings(max_examples=30)
@given(what=texts, tags=st.lists(values, max_size=3), sure=st.booleans())
def test_whatever_the_arguments_are_they_are_read_as_written(
    family: str, what: str, tags: list[Any], sure: bool
) -> None:
    nested = family.startswith("minimax 3")  # what a text within a list spells is left to the tool's parameters there
    asked: Asked = [("look_up", {"what": what, "tags": [] if nested else tags, "sure": sure})]
    assert asked_in(parse_calls(FAMILIES[family](asked), TOOLS)) == asked


QUOTED = (
    "</tool_call>",
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|message|>",
    "</function>",
    "<|tool_call_end|>",
    "</TOOLCALL>",
)
NOT_JSON = (
    "qwen",
    "seed",
    "glm",
    "iquest",
    "hunyuan 3",
    "minimax",
    "dots",
    "deepseek 4",
    "gemma",
    "function gemma",
    "llama 4",
)
IN_JSON = [name for name in FAMILIES if not name.startswith(NOT_JSON) and name not in ("deepseek 3.2", "lfm", "olmo")]


@pytest.mark.parametrize("family", IN_JSON)
def test_json_may_have_the_marks_of_calls_in_its_texts(family: str) -> None:
    own = MARK.findall(FAMILIES[family](CASES[0]))
    for mark in {*QUOTED, *own} - {"<function=look_up>", f'<{DSML}invoke name="look_up">'}:
        asked: Asked = [("look_up", {"what": f"a {mark} b", "tags": [mark]})]
        asked += [] if family.startswith("gpt-oss") else [("look_up", {"what": "c"})]
        assert asked_in(parse_calls(FAMILIES[family](asked), TOOLS)) == asked, mark


IN_TAGS = [name for name in FAMILIES if name not in IN_JSON and not name.startswith("minimax 3")]
ENDS_A_TEXT = re.compile(rf"</(?:{DSML})?parameter>|<(?:{DSML})?parameter[^>]*>|</?arg_value>|<[|]\"[|]>|<escape>")


@pytest.mark.parametrize("family", IN_TAGS)
def test_texts_that_stand_between_tags_or_quotes_may_have_the_marks_of_calls(family: str) -> None:
    write = FAMILIES[family]
    whole = write([("look_up", {"what": "x", "sure": True})])
    marks = {*QUOTED, *MARK.findall(write(CASES[0]))}
    for text in [*sorted(mark for mark in marks if not ENDS_A_TEXT.search(mark)), whole]:
        if "gemma" in family and text == whole:
            continue  # it cannot quote its quotes
        asked: Asked = [("look_up", {"what": f"a {text} b", "sure": False}), ("look_up", {"what": text})]
        assert asked_in(parse_calls(write(asked), TOOLS)) == asked, text


@pytest.mark.parametrize("family", ["qwen 3.5", "glm 4.7", "deepseek 4", "lfm", "gemma"])
def test_a_text_that_has_what_marks_are_hidden_by_is_as_it_was(family: str) -> None:
    asked: Asked = [("look_up", {"what": "\ue0a1 a"})]
    assert asked_in(parse_calls(FAMILIES[family](asked), TOOLS)) == asked


def test_arguments_whose_tags_nothing_closes_end_where_the_next_begin() -> None:
    text = "<tool_call><function=look_up><parameter=what>{}<parameter=sure>true{}</function></tool_call>"
    for messages in ((text.format("a", ""),), (text.format("a", ""), text.format("b", "</parameter>"))):
        asked = [("look_up", {"what": what, "sure": True}) for what in "ab"[: len(messages)]]
        assert asked_in(parse_calls("".join(messages), TOOLS)) == asked


@family
@pytest.mark.parametrize("asked", CASES[:1])
def test_a_call_that_was_cut_off_is_none(family: str, asked: Asked) -> None:
    text = FAMILIES[family](asked)
    for length in range(len(text)):
        found = parse_calls(text[:length], TOOLS)
        assert [dict(call.arguments) for call in found.calls] in ([], [asked[0][1]]), text[:length]


@family
def test_one_of_a_tool_that_there_is_not_is_malformed(family: str) -> None:
    found = parse_calls(FAMILIES[family]([("look", {"what": "a"})]), TOOLS)
    if found.invalid:
        assert [(call.name, call.error) for call in found.invalid] == [("look", "there is no tool 'look'")]
    else:  # without marks it is no call at all
        assert (found.calls, found.content) == ((), FAMILIES[family]([("look", {"what": "a"})]))


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("7.0", 7.0), ("seven", "seven"), ("None", None), ("null", None), ("['a']", ["a"]), ("007", "007")],
)
def test_without_a_type_a_value_is_what_it_spells(text: str, value: Any) -> None:
    call = f"<tool_call><function=f><parameter=x>{text}</parameter></function></tool_call>"
    assert asked_in(parse_calls(call, {"f": {"type": "object"}})) == [("f", {"x": value})]


ORDERS = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "sku": {"type": "string"},
                    "count": {"type": "integer"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "sizes": {"type": "array", "items": {"type": "number"}},
                },
            },
        },
        "to": {"type": "object", "properties": {"zip": {"type": "string"}, "floor": {"type": "integer"}}},
    },
}


@pytest.mark.parametrize("write", [minimax_3, minimax_3_without_marks])
def test_what_nests_has_the_types_of_the_tool_s_parameters(write: Writer) -> None:
    items = [
        {"sku": "12", "count": 2, "tags": ["1", "two", "null"], "sizes": [1, 2.5]},
        {"sku": "[1]", "count": 0, "tags": ["true"], "sizes": [3]},
    ]
    asked: Asked = [("order", {"items": items, "to": {"zip": "10115", "floor": 3}})]
    assert asked_in(parse_calls(write(asked), {"order": ORDERS})) == asked


def test_what_does_not_fit_is_what_it_spells_and_the_rest_fits() -> None:
    (call,) = parse_calls(minimax_3([("order", {"items": [{"sku": "1", "count": "many"}]})]), {"order": ORDERS}).calls
    assert call.arguments == {"items": [{"sku": "1", "count": "many"}]}


def test_elements_that_nest_without_end_are_no_call() -> None:
    text = minimax_3([("f", {"a": "x"})]).replace("x", "]<]minimax[>[<a>" * 200 + "x" + "]<]minimax[>[</a>" * 200)
    (wrong,) = parse_calls(text, {"f": {"type": "object"}}).invalid
    assert wrong.error == "it is nested too deep"


@pytest.mark.parametrize("text", ["7", "true", "null", "[1]", '"quoted"', " spaced ", "\nline\n"])
def test_a_text_stays_as_it_stands(text: str) -> None:
    for write in (qwen, minimax, minimax_3, glm, deepseek_32):
        assert asked_in(parse_calls(write([("look_up", {"what": text})]), TOOLS)) == [("look_up", {"what": text})]


@pytest.mark.parametrize("text", ["<function=now>", '<invoke name="now">a</invoke>', "look_up(1)", "call:look_up{}"])
@family
def test_an_argument_that_looks_like_another_family_s_call_is_none(family: str, text: str) -> None:
    if family.startswith(("qwen", "seed", "minimax", "dots", "deepseek 3.2", "deepseek 4", "llama 3.1")):
        return  # they write calls like these, and have no way to quote one
    asked: Asked = [("look_up", {"what": text})]
    assert asked_in(parse_calls(FAMILIES[family](asked), TOOLS)) == asked


def test_arguments_without_names_are_those_that_come_first() -> None:
    assert asked_in(parse_calls("[look_up('a', 2, sure=True)]", TOOLS)) == [
        ("look_up", {"what": "a", "count": 2, "sure": True})
    ]


def test_a_text_with_marks_in_words_around_no_call_is_told_as_malformed() -> None:
    found = parse_calls("<tool_call>I would rather not</tool_call>", TOOLS)
    assert found.calls == ()
    assert len(found.invalid) == 1


@pytest.mark.parametrize(
    "part", ["<tool_calls>", "<tool_call>", "<function=look_up>", "[", '{"a":', "look_up(", "call:a{"]
)
@pytest.mark.parametrize("lead", ["", "<tool_call>", "<|tool_call>call:look_up{what:", "[look_up("])
def test_a_long_message_of_nothing_but_marks_is_read(part: str, lead: str) -> None:
    assert parse_calls(lead + part * 20_000, TOOLS).calls == ()


@pytest.mark.parametrize(
    "message",
    [
        f"<tool_call>look_up{'<arg_key>a</arg_key><arg_value>' * 2000}</tool_call>",
        f"<tool_call>{'a' * 40_000}<|message|>",
        f"<|tool_call_begin|>{'a' * 20_000}<|tool_call_argument_begin|>{'a' * 20_000}",
        f"<tool_call>a{chr(10) * 40_000}b",
        f"[TOOL_CALLS]a{' ' * 40_000}b",
        f"<tool_call>```json{' ' * 40_000}b",
    ],
)
def test_a_message_that_repeats_itself_takes_no_quadratic_time(message: str) -> None:
    found = parse_calls(message, TOOLS)
    assert len(found.calls) + len(found.invalid) == 1


@given(st.lists(st.sampled_from([*CALL_TOKENS, "look_up", "{", "}", "[", "]", "(", ")", '"', ":", "=", ",", "a", " "])))
def test_whatever_a_model_writes_is_read_without_a_failure(parts: list[str]) -> None:
    parse_calls("".join(parts), TOOLS)

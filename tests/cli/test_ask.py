"""`a1 ask` in process."""

import dataclasses
import json

import pytest

from a1agent import Options

SUM = "1 + 2 + 3 + 4"
UNSURE = "scripted:sums?accuracy=0.5"


def test_the_answer_is_the_last_line_of_stdout(a1) -> None:
    done = a1("ask", SUM)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "10"
    assert "The answer is \\boxed{10}." in done.stdout


def test_what_is_not_the_answer_goes_to_stderr(a1) -> None:
    done = a1("ask", SUM, "--chains", "2")
    assert "chain 1: " in done.stderr and "chain 2: " in done.stderr
    assert "rejection rate" in done.stderr and "rejection rate" not in done.stdout


def test_a_chain_of_one_turn_is_counted_in_the_singular(a1) -> None:
    done = a1("ask", SUM, "--chains", "1", "--min-step-tokens", "256", "--rejection-rate", "0")
    assert "(1 turn)" in done.stderr and "(1 turns)" not in done.stderr


def test_quiet_prints_the_answer_only(a1) -> None:
    done = a1("ask", SUM, "--quiet")
    assert (done.stdout, done.stderr) == ("10\n", "")


def test_json_prints_one_object_and_nothing_else(a1) -> None:
    done = a1("ask", SUM, "--json")
    result = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    assert {"answer", "confidence", "text", "reasoning", "complete", "stats", "usage"} <= set(result)
    assert result["answer"] == "10" and result["complete"] is True


def test_events_are_json_lines_that_end_with_the_result(a1) -> None:
    done = a1("ask", SUM, "--events", "--chains", "2")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "QuestionOpened"
    assert sum(event["event"] == "ChainStarted" for event in events) == 2
    assert events[-1]["event"] == "VoteClosed" and events[-1]["result"]["answer"] == "10"


@pytest.mark.parametrize("words", [["ask"], ["ask", "-"]], ids=["no question", "a dash"])
def test_a_question_is_read_from_a_pipe(a1, words: list[str]) -> None:
    assert a1(*words, "--quiet", input=f"{SUM}\n").stdout == "10\n"


def test_words_without_quotes_are_one_question(a1) -> None:
    assert a1("ask", "1", "+", "2", "--quiet").stdout == "3\n"


def test_no_stated_answer_prints_the_text_and_exits_3(a1) -> None:
    done = a1("ask", "hello", "--raw", "--answer", "choice")
    assert done.exit_code == 3
    assert "boxed{0}" in done.stdout
    assert "no chain stated an answer" in done.stderr


def test_a_system_message_comes_before_the_question(a1) -> None:
    with_system = json.loads(a1("ask", SUM, "--json", "--system", "Be brief.").stdout)
    without = json.loads(a1("ask", SUM, "--json").stdout)
    more = len("system: Be brief.\n")
    assert with_system["usage"]["target"]["prompt_tokens"] == without["usage"]["target"]["prompt_tokens"] + more


def test_raw_asks_the_question_as_it_stands(a1) -> None:
    raw = json.loads(a1("ask", SUM, "--json", "--raw").stdout)
    assert raw["usage"]["target"]["prompt_tokens"] == len(f"user: {SUM}\n")


def test_every_option_of_a_call_is_a_flag(a1) -> None:
    help_text = a1("ask", "--help").stdout
    for field in dataclasses.fields(Options):
        assert "--" + field.name.replace("_", "-") in help_text


def test_flags_reach_the_call(a1) -> None:
    flags = ["--rejection-rate", "0", "--chains", "3", "--seed", "1", "--stop", "= 6.", "--stop", "never", "--raw"]
    stats = json.loads(a1("ask", SUM, "--json", *flags, "--draft", "scripted:sums").stdout)["stats"]
    assert stats["asked_rate"] == 0
    assert stats["chains_started"] == 3
    assert len(stats["by_turn"]) == 2


def test_the_same_seed_gives_the_same_text(a1) -> None:
    texts = {
        a1("ask", SUM, "--draft", UNSURE, "--seed", "3", "--chains", "1", "--json").stdout.split('"stats"')[0]
        for _ in range(3)
    }
    assert len(texts) == 1


def test_output_forms_exclude_each_other(a1) -> None:
    assert a1("ask", SUM, "--json", "--quiet").exit_code == 2


def test_a_question_unlike_the_training_set_gets_a_notice_beside_its_answer(a1) -> None:
    pytest.importorskip("llama_cpp")
    pair = {"A1_DRAFT": "embedded:draft", "A1_TARGET": "embedded:target", "A1_CHAINS": "2", "A1_SEED": "1"}
    done = a1("ask", "Qui a peint la Joconde ?", env=pair)
    (note,) = [line for line in done.stderr.splitlines() if "unlike anything" in line]
    assert note.startswith("note: ") and "--draft and --target" in note
    told = json.loads(a1("ask", "Qui a peint la Joconde ?", "--json", env=pair).stdout)["notices"]
    assert "unlike anything" in told[0]
    known = a1("ask", "What is 47 * 28 + 783?", env=pair)
    assert "unlike" not in known.stderr

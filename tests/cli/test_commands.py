"""The other commands: version, plugins, problems, replay, stats, models, chat."""

import json
import logging
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer

from a1agent import __version__
from a1agent.backends._llama_api import LLAMA_LOG
from a1agent.backends.registry import Pool
from a1agent.cli import app as app_module
from a1agent.cli.calls import Loop
from a1agent.conformal import replay

SUM = "1 + 2 + 3 + 4"


def test_version_prints_name_and_version(a1) -> None:
    done = a1("--version")
    assert (done.exit_code, done.stdout) == (0, f"a1agent {__version__}\n")


def test_help_says_what_each_command_does_in_full(a1, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = a1("--help").stdout
    assert shown.count("\n  ") > 10 and "..." not in shown.partition("Commands:")[2]


def greet(app: typer.Typer) -> None:
    @app.command()
    def greet() -> None:
        typer.echo("hello from elsewhere")


def complain(app: typer.Typer) -> None:
    @app.command()
    def complain() -> None:
        log = logging.getLogger("a1agent.backends.chat_template")
        log.info("read a template")
        log.warning("%s has no chat template", "\x1b[31mm.gguf")
        logging.getLogger(LLAMA_LOG).warning("llama_model_loader:   - kv   0")
        try:
            raise RuntimeError("no room")
        except RuntimeError:
            log.warning("a model did not move its cache", exc_info=True)


def broken(app: typer.Typer) -> None:
    raise RuntimeError("half\ninstalled")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    named = [EntryPoint(n, f"{__name__}:{n}", app_module.PLUGINS) for n in ("broken", "complain", "greet", "missing")]
    monkeypatch.setattr(app_module, "entry_points", lambda group: named if group == app_module.PLUGINS else [])


def test_other_distributions_add_commands(a1, plugins: None) -> None:
    assert a1("greet").stdout == "hello from elsewhere\n"


def test_what_is_logged_as_a_warning_is_a_warning_of_one_line(a1, plugins: None) -> None:
    def shown(*words: str) -> list[str]:
        return a1(*words).stderr.splitlines()

    warned = ["warning: [31mm.gguf has no chat template", "llama_model_loader:   - kv   0"]
    moved = "warning: a model did not move its cache"
    assert shown("complain")[-3:] == [*warned, moved]
    debug = shown("complain", "--debug")
    assert debug[debug.index(moved) + 1].startswith("Traceback") and debug[-1] == "RuntimeError: no room"
    assert not logging.getLogger("a1agent").handlers and logging.getLogger("a1agent").propagate


def test_an_unknown_command_names_those_of_other_distributions_too(a1, plugins: None) -> None:
    done = a1("aks")
    assert done.exit_code == 2
    known = done.stderr.splitlines()[-1]
    assert known.startswith("hint: known: ask, bench, ") and "greet" in known


def test_a_command_of_a_distribution_that_is_missing_names_the_pip_command(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a1agent.cli.app.entry_points", lambda group: [])
    done = a1("mcp")
    assert done.exit_code == 2 and "pip install a1agent-mcp" in done.stderr


@pytest.mark.parametrize("command", [(), ("ask",), ("models",), ("greet",)])
def test_a_short_flag_asks_every_command_for_help(a1, plugins: None, command: tuple[str, ...]) -> None:
    assert a1(*command, "-h").stdout == a1(*command, "--help").stdout
    assert "Usage: " in a1(*command, "-h").stdout


def test_a_broken_plugin_is_one_line_and_breaks_nothing(plugins: None, capsys: pytest.CaptureFixture[str]) -> None:
    app_module.build()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: ") for line in lines)
    assert "half installed" in lines[0]


def test_problems_are_json_lines_and_the_seed_repeats_them(a1) -> None:
    done = a1("problems", "--count", "5", "--seed", "3")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(line) for line in lines] == [{"question", "answer", "family"}] * 5
    assert a1("problems", "--count", "5", "--seed", "3").stdout == done.stdout
    assert a1("problems", "--count", "5", "--seed", "4").stdout != done.stdout


def test_problems_of_one_family(a1) -> None:
    lines = a1("problems", "--count", "4", "--family", "sums").stdout.splitlines()
    assert {json.loads(line)["family"] for line in lines} == {"sums"}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    rows = [
        f"{q},{c},{t},0,{1 + (7 * q + 3 * c + 5 * t) % 11 / 10}" for q in range(20) for c in range(4) for t in range(5)
    ]
    file.write_text("\n".join(["question,chain,turn,attempt,perplexity", *rows]), encoding="utf-8")
    return file


def test_replay_prints_its_measures_as_json(a1, trace: Path) -> None:
    done = a1("replay", str(trace), "--rejection-rate", "0.4", "--seed", "0", "--json")
    report = json.loads(done.stdout)
    assert list(report) == [
        "steps",
        "overall_rate",
        "mean_turn_deviation",
        "max_turn_deviation",
        "mean_question_deviation",
        "max_question_deviation",
        "mean_window_deviation",
        "max_window_deviation",
        "selectivity",
    ]
    assert report["steps"] == 400 and abs(report["overall_rate"] - 0.4) < 0.05
    assert report["max_question_deviation"] >= report["mean_question_deviation"]


def test_replay_prints_a_table_begins_from_a_calibration_and_plots(a1, trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "rates.png"
    done = a1("replay", str(trace), "--calibration", str(trace), "--plot", str(picture), "--coverage", "conditional")
    assert done.exit_code == 0
    assert "overall rate" in done.stdout and "max question deviation" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_replay_measures_a_trace_once_for_its_table_and_its_plot(a1, trace: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    measured: list[int] = []
    measure = replay.measure_replay
    monkeypatch.setattr(replay, "measure_replay", lambda *given: measured.append(1) or measure(*given))
    assert a1("replay", str(trace), "--plot", str(tmp_path / "rates.png")).exit_code == 0
    assert measured == [1]


def test_a_plot_is_written_where_it_was_asked_for_or_not_at_all(a1, trace: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "rates"
    folder.mkdir()
    store = str(tmp_path / "store.sqlite3")
    a1("ask", SUM, "--calibration", store)
    for words in (("replay", str(trace)), ("stats", "--calibration", store)):
        done = a1(*words, "--plot", str(folder))
        assert done.exit_code == 1 and str(folder) in done.stderr
        assert not list(tmp_path.glob("*.png"))


def test_replay_says_what_each_coverage_means(a1) -> None:
    shown = " ".join(a1("replay", "--help").stdout.split())
    assert "marginal: the rate holds over all steps; conditional: in each question too" in shown


def test_stats_of_a_user_who_never_asked_are_empty(a1, user_folders: Path) -> None:
    done = a1("stats", "--calibration", "default")
    assert done.exit_code == 0 and "0 scores" in done.stdout


def test_stats_show_what_calls_have_stored(a1, tmp_path: Path) -> None:
    store = str(tmp_path / "store.sqlite3")
    a1("ask", SUM, "--calibration", store, "--early-stop", "off")
    found = json.loads(a1("stats", "--calibration", store, "--json").stdout)
    assert found["path"] == store
    assert [entry["scores"] for entry in found["entries"]] == [32]
    shown = a1("stats", "--calibration", store).stdout
    assert "32 scores of 1 calibration\n" in shown and "32 of mean_nll" in shown


def test_a_damaged_store_is_one_warning_and_the_question_is_answered(a1, tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite3"
    store.write_bytes(b"SQLite format 3\0" + b"no database " * 1000)
    done = a1("ask", SUM, "--quiet", "--calibration", str(store))
    assert (done.exit_code, done.stdout) == (0, "10\n")
    assert done.stderr.count("warning: ") == 1 and len(done.stderr.splitlines()) == 1
    assert len(list(tmp_path.iterdir())) > 1  # it was moved aside


@pytest.mark.parametrize("command", [("ask", SUM), ("calibrate", "--limit", "1"), ("bench",)])
def test_a_file_of_another_kind_is_never_taken_for_a_store(a1, tmp_path: Path, command: tuple[str, ...]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "1 + 2"}\n', encoding="utf-8")
    done = a1(*command, "--calibration", str(data))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and "another kind of file" in done.stderr
    assert data.read_text(encoding="utf-8") == '{"question": "1 + 2"}\n'
    assert list(tmp_path.iterdir()) == [data]


def test_a_folder_of_nobody_is_an_error_in_a_line(a1, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in (("A1_CALIBRATION", 1), ("A1_DRAFT", 1), ("A1_CONFIG", 2)):
        file = "~nobody-here/m.gguf"
        done = a1("ask", SUM, env={name: f"llama-cpp:{file}" if name == "A1_DRAFT" else file})
        assert (done.exit_code, done.stdout) == (code, ""), name
        assert "~nobody-here" in done.stderr and len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_tables_in_a_pipe_are_a_line_a_row_without_blanks_at_its_end(a1, trace: Path, tmp_path: Path) -> None:
    long = "a-name-that-fills-a-line" * 4
    a1("ask", SUM, "--calibration", str(tmp_path / "store.sqlite3"))
    shown = [
        a1("config", env={"A1_DRAFT": f"scripted:{long}"}).stdout,
        a1("replay", str(trace)).stdout,
        a1("stats", "--calibration", str(tmp_path / "store.sqlite3")).stdout,
    ]
    assert all(line == line.rstrip() for text in shown for line in text.splitlines())
    assert any(line.split() == ["draft", f"scripted:{long}", "A1_DRAFT"] for line in shown[0].splitlines())


def test_stats_say_that_a_folder_is_no_store(a1, tmp_path: Path) -> None:
    done = a1("stats", "--calibration", str(tmp_path))
    assert done.exit_code == 2 and f"{tmp_path} is a folder" in done.stderr


def test_stats_plot_the_drift(a1, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store, picture = str(tmp_path / "store.sqlite3"), tmp_path / "drift.png"
    a1("ask", SUM, "--calibration", store)
    assert a1("stats", "--calibration", store, "--plot", str(picture)).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_chat_answers_a_line_at_a_time(a1) -> None:
    done = a1("chat", input=f"{SUM}\n\n/stats\n2 + 2\n/quit\nnever read\n")
    assert done.exit_code == 0
    assert "\\boxed{10}" in done.stdout and "\\boxed{4}" in done.stdout
    assert "rejection rate" in done.stdout
    assert "never" not in done.stdout


def test_a_chat_goes_on_after_an_error_and_a_pipe_ends_in_1(a1) -> None:
    done = a1("chat", "--draft", "scripted:sums?context_length=400", input=f"{SUM}\n{'1 + ' * 200}1\n")
    assert "\\boxed{10}" in done.stdout
    assert "\nerror: " in done.stderr and done.exit_code == 1


def test_a_chat_forgets_when_told_to(a1) -> None:
    long = " + ".join(["1"] * 12)
    context = ["--draft", "scripted:sums?context_length=500"]
    remembered = a1("chat", *context, input=f"{long}\n" * 3)
    forgotten = a1("chat", *context, input=f"{long}\n/reset\n" * 3)
    assert forgotten.exit_code == 0 and forgotten.stdout.count("boxed{12}") == 3
    assert remembered.stdout.count("boxed{12}") < 3
    assert "hint: /reset forgets the conversation; or shorten the question" in remembered.stderr


def test_a_chat_reads_utf_8_and_nothing_else(a1) -> None:
    done = a1("chat", input=b"caf\xe9 1 + 1\n")
    assert done.exit_code == 2 and done.stderr.startswith("error: stdin is not UTF-8 text")
    assert a1("chat", input="\ufeff1 + 1\n".encode()).stdout.count("boxed{2}") == 1


def test_a_chat_that_ends_in_an_error_frees_its_models(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    from a1agent.backends import scripted

    assert a1("chat", input=b"\xff\n").exit_code == 2
    monkeypatch.setattr(scripted, "load", lambda *_, **__: 1 / 0)
    assert a1("ask", "1 + 2").exit_code == 1  # they are loaded anew


def test_a_chat_that_is_interrupted_in_a_pipe_tells_what_was_done(a1, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Loop):
        def run(self, work):
            result = super().run(work)
            if work.__name__ == "answer":
                self.close()
                raise KeyboardInterrupt
            return result

    monkeypatch.setattr("a1agent.cli.chat.Loop", Interrupted)
    monkeypatch.setattr("a1agent.models._POOL", Pool())  # what an interrupt leaves open ends with its process
    done = a1("chat", input=f"{SUM}\n{SUM}\n")
    assert done.exit_code == 130
    assert "interrupted; so far: rejection rate" in done.stderr


def test_a_chat_names_the_nearest_of_its_commands(a1) -> None:
    done = a1("chat", input="/stat\n/help\n")
    assert "'/stats'" in done.stderr and "/reset" in done.stdout

"""Where settings come from: flag before variable before file before default."""

import json
import sys
from pathlib import Path

import pytest

from a1agent.cli.settings import SETTINGS, read_settings
from a1agent.errors import InvalidOption, UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("A1_CONFIG", str(path))
    return path


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(file: Path, monkeypatch) -> None:
    file.write_text("chains = 2\nturns = 2\nrejection-rate = 1\n", encoding="utf-8")
    monkeypatch.setenv("A1_CHAINS", "3")
    monkeypatch.setenv("A1_TURNS", "3")
    settings = read_settings({"chains": 4, "seed": None, "stop": []})
    options = settings.options
    assert (options.chains, options.turns, options.rejection_rate, options.step_tokens) == (4, 3, 1.0, 512)
    sources = [settings.values[name].source for name in ("chains", "turns", "rejection_rate", "step_tokens")]
    assert sources == ["flag", "A1_TURNS", str(file), "default"]


def test_a_flag_can_set_an_option_back_to_none(monkeypatch) -> None:
    monkeypatch.setenv("A1_TIMEOUT_S", "5")
    assert read_settings({}).options.timeout_s == 5.0
    assert read_settings({"timeout_s": "none"}).options.timeout_s is None
    assert read_settings({"timeout_s": "7"}).options.timeout_s == 7.0


def test_a_flag_that_is_no_number_is_named(monkeypatch) -> None:
    with pytest.raises(InvalidOption, match=r"--timeout-s is 'soon'"):
        read_settings({"timeout_s": "soon"})


def test_the_file_of_the_user_folder_is_read(user_folders: Path, monkeypatch) -> None:
    from a1agent.cli.settings import config_path

    path = config_path()
    assert path.is_relative_to(user_folders)
    path.parent.mkdir(parents=True)
    path.write_text('draft = "scripted:sums"\n', encoding="utf-8")
    assert read_settings().model("draft") == "scripted:sums"


@pytest.mark.skipif(sys.platform == "win32", reason="users have a home there")
def test_a_user_without_a_home_has_the_defaults(a1, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    done = a1("ask", "1 + 2 + 3", env={"A1_CALIBRATION": "default"})
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "6")
    assert done.stderr.count("no home folder") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_names_the_nearest_and_the_file(file: Path) -> None:
    file.write_text("rejectionrate = 0.2", encoding="utf-8")
    with pytest.raises(InvalidOption) as error:
        read_settings()
    assert "'rejectionrate'" in error.value.what and str(file) in error.value.what
    assert "'rejection_rate'" in error.value.hint


@pytest.mark.parametrize("line", ["chains = 'x'", "chains = true", "chains = 0", "vote = 'x'", "stop = [1]"])
def test_an_impossible_value_in_the_file_names_the_file(file: Path, line: str) -> None:
    file.write_text(line, encoding="utf-8")
    with pytest.raises(InvalidOption) as error:
        read_settings()
    assert str(file) in error.value.what


@pytest.mark.parametrize(("name", "text"), [("A1_CHAINS", "x"), ("A1_TOP_P", "2"), ("A1_SCORE", "x")])
def test_an_impossible_variable_is_named(monkeypatch, name: str, text: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(InvalidOption) as error:
        read_settings()
    assert name in error.value.what


@pytest.mark.parametrize("content", [b"chains = ", b"\xff\xfe"], ids=["no TOML", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_named(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_settings()
    assert str(file) in error.value.what


def test_a_file_that_was_asked_for_must_be_there(file: Path) -> None:
    with pytest.raises(UsageError):
        read_settings()


def test_texts_and_lists_of_texts_both_set_stop(file: Path, monkeypatch) -> None:
    file.write_text('stop = ["a", "b"]', encoding="utf-8")
    assert read_settings().options.stop == ("a", "b")
    monkeypatch.setenv("A1_STOP", "c")
    assert read_settings().options.stop == ("c",)


def test_a_variable_can_take_back_what_the_file_limits(file: Path, monkeypatch) -> None:
    file.write_text("timeout_s = 5", encoding="utf-8")
    monkeypatch.setenv("A1_TIMEOUT_S", "none")
    assert read_settings().options.timeout_s is None


def test_a_store_in_the_home_folder_is_the_same_file_for_every_command(user_folders: Path, monkeypatch) -> None:
    monkeypatch.setenv("A1_CALIBRATION", "~/store.sqlite3")
    settings = read_settings()
    assert settings.store == Path.home() / "store.sqlite3"
    assert settings.calibration == str(settings.store)


def test_config_tells_where_its_file_is_and_what_names_another(a1, file: Path) -> None:
    file.touch()
    first = a1("config").stdout.splitlines()[0]
    assert first == f"file (TOML): {file}; A1_CONFIG names another"


def test_config_prints_values_and_where_they_come_from(a1, file: Path) -> None:
    file.write_text("chains = 2", encoding="utf-8")
    done = a1("config", "--json", env={"A1_TURNS": "7"})
    found = json.loads(done.stdout)["settings"]
    assert set(found) == set(SETTINGS)
    assert found["chains"] == {"value": 2, "source": str(file)}
    assert found["turns"] == {"value": 7, "source": "A1_TURNS"}
    assert "A1_TURNS" in a1("config", env={"A1_TURNS": "7"}).stdout


def test_a_misspelled_variable_is_remarked_on_and_others_are_left_alone(a1, monkeypatch) -> None:
    monkeypatch.setenv("A1_REJECTON_RATE", "0.5")
    monkeypatch.setenv("A1_WORK_SERVER_TOKEN", "secret")
    remark = "the variable A1_REJECTON_RATE sets nothing: did you mean A1_REJECTION_RATE?"
    assert read_settings().remarks == (remark,)
    done = a1("config", "--json")
    assert done.exit_code == 0
    assert remark in done.stderr
    assert json.loads(done.stdout)["settings"]["rejection_rate"]["source"] == "default"

"""Downloads: the hub's own client fetches from a hub over a real socket, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

from a1agent import embedded
from tests.servers.hub import COMMIT, Hub, serving
from tests.servers.process import interruptible

LARGE = 20_000_000
ASK = ("-m", "a1agent", "ask", "What is 47 + 28?", "--chains", "2", "--min-step-tokens", "0")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(Hub(tmp_path / "hub")) as served:
        yield served


def put(hub: Hub, name: str, files: dict[str, bytes | Path], kind: str = "models") -> None:
    for file, content in files.items():
        path = hub.folder / kind / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, path)
        else:
            path.write_bytes(content)


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "A1_"))}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "A1_CALIBRATION": "none", **more}


def run(hub: Hub, home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(
        command, env=environment(hub, home, **more), capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def found(hub: Hub, home: Path, code: str, **more: str) -> Any:
    """What a piece of Python prints as JSON."""
    done = run(hub, home, "-c", code, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_are_fetched_once_and_then_come_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    put(hub, "some/pair", {"d.gguf": embedded.path("draft"), "sub/t.gguf": embedded.path("target")})
    hub.broken["d.gguf"] = 1000
    models = ("--draft", "llama-cpp:some/pair:d.gguf", "--target", "llama-cpp:some/pair:sub/t.gguf")
    first = run(hub, tmp_path / "home", *ASK, *models)
    assert first.returncode in (0, 3), first.stderr
    sizes = {"d.gguf": embedded.path("draft").stat().st_size, "sub/t.gguf": embedded.path("target").stat().st_size}
    sizes["d.gguf"] += 1000  # before the connection broke
    assert hub.sent == sizes
    again = run(hub, tmp_path / "home", *ASK, *models, HF_HUB_OFFLINE="1")
    assert again.returncode in (0, 3), again.stderr
    assert hub.sent == sizes


def test_a_long_download_tells_how_far_it_is(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    put(hub, "some/large", {"m.gguf": embedded.path("draft").read_bytes() + bytes(LARGE)})
    done = run(hub, tmp_path / "home", *ASK, "--draft", "llama-cpp:some/large:m.gguf")
    assert done.returncode in (0, 3), done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("fetching")]
    assert told[0] == "fetching some/large:m.gguf: 0.0 of 20.3 MB"
    assert told[-1] == "fetching some/large:m.gguf: 20.3 of 20.3 MB"
    assert "%|" not in done.stderr  # no bars beside


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_ends_a_download(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    put(hub, "some/large", {"m.gguf": embedded.path("draft").read_bytes() + bytes(LARGE)})
    hub.pause_s = 10.0
    command = [sys.executable, *ASK, "--draft", "llama-cpp:some/large:m.gguf"]
    environ = environment(hub, tmp_path / "home")
    with subprocess.Popen(
        command, env=environ, stderr=subprocess.PIPE, encoding="utf-8", preexec_fn=interruptible
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("fetching")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert errors == "error: interrupted before the models were loaded\n"
    assert process.returncode == 130


def test_what_cannot_fit_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    put(hub, "some/pair", {"small.gguf": embedded.path("draft"), "huge.gguf": b""})
    hub.sizes["huge.gguf"] = 1 << 40
    models = ("--draft", "llama-cpp:some/pair:small.gguf", "--target", "llama-cpp:some/pair:huge.gguf")
    done = run(hub, tmp_path / "home", *ASK, *models)
    assert done.returncode == 1
    assert "1024.0 GiB for llama-cpp:some/pair:huge.gguf + 0.0 GiB for llama-cpp:some/pair:small.gguf" in done.stderr
    assert hub.sent == {}


def test_a_checkpoint_that_cannot_fit_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    files = {"config.json": b'{"dtype": "bfloat16"}', "tokenizer.json": b"{}", "model.safetensors": b"1"}
    put(hub, "some/huge", files)
    hub.sizes["model.safetensors"] = 1 << 40
    for options, need in {"": 2048, "?dtype=float16": 1024}.items():
        done = run(hub, tmp_path / "home", *ASK, "--target", f"hf:some/huge{options}", CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 1
        assert f"{need}.0 GiB for hf:some/huge" in done.stderr
        assert "dtype=bfloat16" in done.stderr
    assert set(hub.sent) == {"config.json", "tokenizer.json"}


CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 32,
}


def test_a_checkpoint_of_which_the_cache_has_a_part_is_completed(hub: Hub, tmp_path: Path) -> None:
    """The tokenizer alone, as for a model on a server; then what a download that was cut off left behind."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    save = pytest.importorskip("safetensors.numpy").save
    shards = {name: save({key: np.zeros((32, 8), np.float32)}) for name, key in zip(SHARDS, "ab", strict=True)}
    index = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))})
    tokenizer = {"tokenizer.json": b"[]", "tokenizer_config.json": b"{}"}
    put(hub, "some/model", {"config.json": json.dumps(CONFIG).encode(), **tokenizer, **shards})
    put(hub, "some/model", {"model.safetensors.index.json": index.encode()})
    code = """if True:
        import json
        from pathlib import Path
        from a1agent.backends.hub import find_tokenizer
        from a1agent.backends.registry import check_memory, parse_address
        address = parse_address("hf:some/model?device=cpu")
        folder = find_tokenizer("some/model").parent
        first = [address.bytes_ahead(), address.memory(), address.bytes_ahead()]
        shard = sorted(folder.glob("*.safetensors"))[1]
        shard.resolve().unlink(), shard.unlink()
        check_memory([address], 64 << 30)
        print(json.dumps([*first, shard.is_file()]))
    """
    before, memory, after, completed = found(hub, tmp_path / "home", code)
    assert before == sum(map(len, shards.values())) < memory
    assert (after, completed) == (0, True)
    assert hub.sent[SHARDS[1]] == 2 * hub.sent[SHARDS[0]]


def test_of_a_checkpoint_only_what_is_loaded_is_fetched(hub: Hub, tmp_path: Path) -> None:
    wanted = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
        "tokenizer.json": b"[]",
        SHARDS[0]: b"1" * LARGE,
        SHARDS[1]: b"2",
    }
    others = {
        "consolidated.safetensors": b"12",
        "original/model.safetensors": b"12",
        "onnx/config.json": b"{}",
        "pytorch_model.bin": b"12",
        "README.md": b"",
    }
    put(hub, "some/model", wanted | others)
    code = """if True:
        import json
        from a1agent.backends.hf_files import locate
        from a1agent.backends.hub import following
        told = []
        with following(told.append):
            folder = locate("some/model")
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        print(json.dumps([files, folder.name, {each.name: each.done for each in told}]))
    """
    files, commit, told = found(hub, tmp_path / "home", code)
    assert files == sorted(wanted) == sorted(hub.sent)
    assert commit == COMMIT
    assert told["some/model"] == LARGE + 1
    assert found(hub, tmp_path / "home", code, HF_HUB_OFFLINE="1")[0] == files


ERRORS = {
    "llama-cpp:some/none:m.gguf": ("no repository 'some/none'", "hf auth login"),
    "llama-cpp:some/gguf:x.gguf": ("no file 'x.gguf' of 'some/gguf'", "it has a.gguf, m-00001-of-00002.gguf"),
    "llama-cpp:some/gguf": ("of a repository of the hub one file must be named", "some/gguf:FILE.gguf; it has a.gguf"),
    "llama-cpp:gone/model.gguf": ("there is no file", "check the path"),
    "llama-cpp:some/gated:m.gguf": ("'some/gated' only to those who accepted its terms", "hf auth login"),
    "llama-cpp:some/gguf:a.gguf?revision=v9": ("'some/gguf' has no revision 'v9'", "a branch, a tag or a commit"),
    "hf:some/gguf:a.gguf?revision=v9": ("'some/gguf' has no revision 'v9'", "a branch, a tag or a commit"),
    "hf:some/gguf": ("no config.json", "it has a.gguf"),
    "hf:some/pickled": ("no weights in safetensors format", "no GGUF files either"),
    "hf:some/none": ("no repository 'some/none'", "hf auth login"),
    "hf:some/gated": ("'some/gated' only to those who accepted its terms", "HF_TOKEN"),
}


def test_what_the_hub_refuses_is_told_in_a_line_with_what_to_do(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    put(hub, "some/gguf", {name: b"" for name in ("a.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")})
    put(hub, "some/gated", {"m.gguf": b"", "config.json": b"{}"})
    put(hub, "some/pickled", {"config.json": b"{}", "pytorch_model.bin": b"12"})
    hub.gated.add("some/gated")
    code = f"""if True:
        import json
        from a1agent.backends.hf_files import locate
        from a1agent.backends.llama_cpp import estimate_memory
        from a1agent.errors import ModelNotFound
        told = {{}}
        for address in {list(ERRORS)!r}:
            scheme, _, rest = address.partition(":")
            path, _, revision = rest.partition("?revision=")
            try:
                estimate_memory(path, revision=revision) if scheme == "llama-cpp" else locate(path, revision)
            except ModelNotFound as error:
                told[address] = [error.what, error.hint]
        print(json.dumps(told))
    """
    told = found(hub, tmp_path / "home", code)
    for address, (what, hint) in ERRORS.items():
        assert what in told[address][0], address
        assert hint in told[address][1], address
        assert "\n" not in told[address][0]


def parquet(path: Path, rows: list[dict[str, Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return path.read_bytes()


def card(config: str, split: str, files: str) -> bytes:
    listed = f"configs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {files}\n"
    return f"---\n{listed}---\n# Card\n".encode()


def test_data_sets_of_the_hub_are_fetched_and_become_problems(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    stated = [{"problem": f"What is {i} + 1?", "answer": str(i + 1), "level": 1} for i in range(500)]
    lines = "".join(f"{json.dumps(row)}\n" for row in stated).encode()
    put(hub, "HuggingFaceH4/MATH-500", {"test.jsonl": lines, "README.md": b"# Card\n"}, "datasets")
    school = [{"question": "One and one?", "answer": "One, and one more.\n#### 1,002"}]
    files: dict[str, bytes | Path] = {"main/test-0.parquet": parquet(tmp_path / "school", school)}
    put(hub, "openai/gsm8k", files | {"README.md": card("main", "test", "main/test-*")}, "datasets")
    row = {"is_multiple_answer": False, "answer_type": "Numerical", "final_answer": ["$7$"], "question": "Which?"}
    olympiad = [row, row | {"answer_type": "Interval"}, row | {"is_multiple_answer": True}]
    files = {"OE_TO_maths_en_COMP/all.parquet": parquet(tmp_path / "olympiad", olympiad)}
    named = card("OE_TO_maths_en_COMP", "train", "OE_TO_maths_en_COMP/*.parquet")
    put(hub, "Hothan/OlympiadBench", files | {"README.md": named}, "datasets")
    put(hub, "Idavidrein/gpqa", {"gpqa_diamond.csv": b"Question\nWhich?\n"}, "datasets")
    hub.gated.add("Idavidrein/gpqa")
    changed = {"train.jsonl": b'{"question": "Which?"}\n', "README.md": b"# Card\n"}
    put(hub, "AI-MO/aimo-validation-amc", dict(changed), "datasets")
    code = """if True:
        import json
        from a1agent.bench.problems import named
        from a1agent.errors import UsageError
        told = {}
        for name in ("math500", "gsm8k", "olympiad", "gpqa", "amc23"):
            try:
                told[name] = [[each.question, each.answer] for each in named(name, limit=None, seed=0).problems]
            except UsageError as error:
                told[name] = [error.what, error.hint]
        print(json.dumps(told))
    """
    told = found(hub, tmp_path / "home", code)
    assert len(told["math500"]) == 100
    assert told["math500"][0] in [[row["problem"], row["answer"]] for row in stated]
    assert told["gsm8k"] == [["One and one?", "1002"]]
    assert told["olympiad"] == [["Which?", "7"]]
    assert "Idavidrein/gpqa cannot be loaded" in told["gpqa"][0]
    assert "accept its terms" in told["gpqa"][1]
    assert "are not as they were: KeyError: 'problem'" in told["amc23"][0]

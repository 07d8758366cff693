"""`a1 models`: what is found on this machine, and nothing outside of the folders it lies in."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

from a1agent import embedded
from a1agent.backends.registry import parse_address
from a1agent.cli import models
from a1agent.cli.local_models import find_local_models


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def write(path: Path, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def found() -> list[tuple[str, str, int]]:
    return [(model.keeper, model.address, model.size) for model in find_local_models()]


def test_nothing_is_found_where_nothing_is() -> None:
    assert [model for model in find_local_models() if model.keeper != "Ollama"] == []


def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert [model for model in find_local_models() if model.keeper != "Ollama"] == []


def test_files_of_the_hub_cache_are_addressed_by_repository(folders: Path) -> None:
    snapshot = folders / ".cache/huggingface/hub/models--org--repo/snapshots"
    write(snapshot / "aaa/model.gguf")
    write(snapshot / "bbb/model.gguf")
    write(snapshot / "bbb/sub/other.GGUF")
    write(snapshot / "bbb/mmproj-model.gguf")
    write(snapshot / "bbb/readme.md")
    assert found() == [
        ("hub", "llama-cpp:org/repo:model.gguf", 3),
        ("hub", "llama-cpp:org/repo:sub/other.GGUF", 3),
    ]


def test_checkpoints_of_the_hub_cache_are_listed_once_and_only_those_that_write_text(folders: Path) -> None:
    root = folders / ".cache/huggingface/hub"
    for name, kind in (("org--chat", "LlamaForCausalLM"), ("org--sees", "ViTForImageClassification")):
        for revision in ("aaa", "bbb"):
            snapshot = root / f"models--{name}/snapshots/{revision}"
            write(snapshot / "model-00001-of-00002.safetensors", 4)
            write(snapshot / "model-00002-of-00002.safetensors", 2)
            (snapshot / "config.json").write_text(json.dumps({"architectures": [kind]}))
    (write(root / "models--org--odd/snapshots/1/x.safetensors").parent / "config.json").write_text("[1")
    assert found() == [("hub", "hf:org/chat", 6)]


def test_the_hub_cache_moves_with_its_variables(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folders / "home/hub/models--o--a/snapshots/1/a.gguf")
    write(folders / "cache/models--o--b/snapshots/1/b.gguf")
    monkeypatch.setenv("HF_HOME", str(folders / "home"))
    assert [address for _, address, _ in found()] == ["llama-cpp:o/a:a.gguf"]
    monkeypatch.setenv("HF_HUB_CACHE", str(folders / "cache"))
    assert [address for _, address, _ in found()] == ["llama-cpp:o/b:b.gguf"]


def test_a_model_in_parts_is_one_model(folders: Path) -> None:
    root = folders / ".lmstudio/models/org/repo"
    first = write(root / "m-00001-of-00002.gguf", 5)
    write(root / "m-00002-of-00002.gguf", 4)
    assert found() == [("LM Studio", f"llama-cpp:{first}", 9)]


@pytest.mark.skipif(sys.platform == "win32", reason="no file has such a name there")
@pytest.mark.parametrize("name", ["what?.gguf", "part #1.gguf", "100%.gguf", "%3F and ?.gguf"])
def test_an_address_that_is_shown_can_be_given(folders: Path, name: str) -> None:
    file = write(folders / ".lmstudio/models/org/repo" / name)
    ((_, address, _),) = found()
    assert parse_address(address).path == str(file)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_out_of_the_folder_is_not_followed(folders: Path) -> None:
    secret = write(folders / "elsewhere/secret.gguf")
    root = folders / ".lmstudio/models"
    root.mkdir(parents=True)
    (root / "link.gguf").symlink_to(secret)
    assert found() == []


def manifest(root: Path, name: str, digest: str) -> None:
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": digest}
    path = root / "manifests" / "registry.example" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"layers": [{"mediaType": "other", "digest": "sha256:0"}, layer]}), encoding="utf-8")


def test_ollama_models_are_named_by_their_manifests(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    digest = "ab" * 32
    blob = write(root / "blobs" / f"sha256-{digest}", 7)
    manifest(root, "library/tiny/1b", f"sha256:{digest}")
    manifest(root, "library/gone/1b", "sha256:" + "cd" * 32)
    manifest(root, "someone/evil/1b", "sha256:../../../elsewhere/secret.gguf")
    write(root / "manifests/registry.example/library/broken/1b")
    write(folders / "elsewhere/secret.gguf")
    models = find_local_models()
    assert [(m.name, m.address, m.size) for m in models] == [("tiny:1b", f"llama-cpp:{blob}", 7)]


def test_what_a_model_of_the_hub_takes_is_told_without_asking_the_hub(
    a1, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    file = folders / ".cache/huggingface/hub/models--org--repo/snapshots/aaa/m.gguf"
    file.parent.mkdir(parents=True)
    shutil.copy(embedded.path("draft"), file)
    if sys.platform != "win32":  # links need rights there
        (file.parent / "m-00001-of-00002.gguf").symlink_to(folders / "gone")
        (file.parent / "config.json").symlink_to(folders / "gone")
    models = json.loads(a1("models", "--json").stdout)["models"]
    drafts = [model for model in models if model["size"] == file.stat().st_size]
    assert {model["address"] for model in drafts} == {"embedded:draft", "llama-cpp:org/repo:m.gguf"}
    assert drafts[0]["memory"] == drafts[1]["memory"] is not None


def test_models_lists_kinds_and_files(a1, folders: Path) -> None:
    write(folders / ".lmstudio/models/org/repo/m.gguf")
    listed = json.loads(a1("models", "--json").stdout)
    kinds = {kind["scheme"]: kind for kind in listed["schemes"]}
    assert kinds["scripted"]["available"] and kinds["scripted"]["install"] is None
    if not kinds["llama-cpp"]["available"]:
        assert "a1agent[llama-cpp]" in kinds["llama-cpp"]["install"]
    mine = next(model for model in listed["models"] if model["name"] == "org/repo/m.gguf")
    assert mine["memory"] is None and mine["problem"]
    shown = a1("models")
    assert shown.exit_code == 0
    assert "scripted:" in shown.stdout and mine["address"] in shown.stdout


def test_a_terminal_breaks_lines_between_words() -> None:
    kind = {"scheme": "openai", "summary": "any server with OpenAI's API (llama-server, LM Studio, hosted)"}
    kind |= {"can_be_target": False, "available": True, "install": None, "example": "openai:http://localhost:80#M"}
    out = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    models._print(out, [kind], [])
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[1:3] == [
        "  openai:      any server with OpenAI's API (llama-server,",
        "               LM Studio, hosted) (draft only)",
    ]

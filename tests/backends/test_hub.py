"""Models by their names on the hub: through the hub's own client, over a cache that the tests write."""

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from a1agent import embedded
from a1agent.backends import hub, llama_cpp
from a1agent.backends.gguf_info import read_gguf
from a1agent.backends.hf_files import locate, read_files
from a1agent.backends.local_tokenizer import load_tokenizer
from a1agent.errors import MissingExtra, ModelNotFound
from tests.backends.test_tokenizers import byte_level

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def repository(cache: Path, name: str, branch: str = "main") -> Path:
    """The folder of a repository's only snapshot."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / branch).write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["", "v2"])
def test_a_gguf_file_of_the_hub_loads_in_llama_cpp(cache: Path, revision: str) -> None:
    shutil.copy(embedded.path("draft"), repository(cache, "some/repo", revision or "main") / "tiny.gguf")
    expected = llama_cpp.estimate_memory(str(embedded.path("draft")))
    assert llama_cpp.estimate_memory("some/repo:tiny.gguf", revision=revision) == expected
    backend = llama_cpp.load("some/repo:tiny.gguf", n_threads=1, revision=revision)
    assert backend.info.fingerprint == read_gguf(embedded.path("draft")).fingerprint()
    asyncio.run(backend.aclose())


@pytest.mark.parametrize("revision", ["", "v2"])
def test_a_gguf_file_of_the_hub_loads_in_transformers(cache: Path, revision: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    hf = pytest.importorskip("a1agent.backends.transformers")
    shutil.copy(embedded.path("draft"), repository(cache, "some/repo", revision or "main") / "tiny.gguf")
    options = {"n_threads": 1, "device": "cpu", "kv_tokens": 1024, "revision": revision}
    expected = hf.estimate_memory(str(embedded.path("draft")), device="cpu", kv_tokens=1024)
    assert hf.estimate_memory("some/repo:tiny.gguf", **options) == expected
    backend = hf.load("some/repo:tiny.gguf", **options)
    assert backend.info.fingerprint == read_gguf(embedded.path("draft")).fingerprint()
    asyncio.run(backend.aclose())


def test_a_file_in_parts_is_fetched_whole(cache: Path) -> None:
    folder = repository(cache, "some/repo")
    names = [f"large-{i:05}-of-00003.gguf" for i in (1, 2, 3)]
    for name in names[:2]:
        (folder / name).touch()
    with pytest.raises(ModelNotFound, match="large-00001"):
        hub.find_gguf(f"some/repo:{names[0]}")
    (folder / names[2]).touch()
    assert hub.find_gguf(f"some/repo:{names[0]}").name == names[0]


def test_a_repository_is_a_folder_in_the_cache(cache: Path) -> None:
    folder = repository(cache, "some/model")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="no weights in safetensors format") as caught:
        locate("some/model")
    assert "with a network" in caught.value.hint
    (folder / "model-00001-of-00002.safetensors").touch()
    assert locate("some/model") == folder
    with pytest.raises(ModelNotFound, match=r"no file model\.safetensors"):
        read_files(locate("some/model"))


def test_a_tokenizer_comes_with_the_files_beside_it(cache: Path) -> None:
    byte_level(repository(cache, "some/model"))
    found = load_tokenizer("some/model")
    assert len(found.end_ids) == 2
    assert found.tokenize("the sum")


@pytest.mark.parametrize("path", ["some/other", "some/other:tiny.gguf"])
def test_without_a_network_the_error_says_what_to_do(cache: Path, path: str) -> None:
    for look in (lambda: locate(path, "v2"), lambda: load_tokenizer(path)):
        with pytest.raises(ModelNotFound, match="some/other") as caught:
            look()
        assert "cache" in caught.value.what
        assert "network" in caught.value.hint
        assert "\n" not in caught.value.what


def test_what_comes_in_pieces_tells_how_far_it_is_before_they_are_written() -> None:
    reporting = pytest.importorskip("huggingface_hub.utils._xet_progress_reporting")  # no server here speaks Xet
    told: list[tuple[int, int]] = []
    with hub.following(lambda fetched: told.append((fetched.done, fetched.total))):
        bar = hub._bar("some/repo")["tqdm_class"]
        with reporting.XetDownloadProgressReporter(
            reconstruction_desc="m.gguf", total=1000, log_level=30, name="huggingface_hub.xet_get", tqdm_class=bar
        ) as progress:
            for received, written in ((400, 0), (700, 512), (900, 1000)):
                progress.update_progress(
                    SimpleNamespace(
                        total_bytes=1000,
                        total_bytes_completed=written,
                        total_bytes_completion_rate=1.0,
                        total_transfer_bytes_completed=received,
                        total_transfer_bytes_completion_rate=1.0,
                    )
                )
    assert [*dict.fromkeys(told)] == [(0, 1000), (400, 1000), (512, 1000), (700, 1000), (1000, 1000)]


def test_a_path_that_names_nothing_is_not_asked_of_the_hub(cache: Path) -> None:
    for path in ("nowhere.gguf", "a/b/c", "./gone/model"):
        with pytest.raises(ModelNotFound, match="there is no"):
            locate(path)
    with pytest.raises(ModelNotFound, match="there is no tokenizer"):
        load_tokenizer("./gone")


def test_without_the_hub_s_client_the_extra_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for look in (lambda: locate("some/model"), lambda: load_tokenizer("some/model")):
        with pytest.raises(MissingExtra, match=r"some/model.*a1agent\[transformers\]"):
            look()
    with pytest.raises(MissingExtra, match=r"some/repo.*a1agent\[llama-cpp\]"):
        llama_cpp.estimate_memory("some/repo:tiny.gguf")

"""What is installed from the built wheel: the page whole, with its licences, and nothing that asks another host.

And what the source distribution holds beside it.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = "a1agent/server/page/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the wheel, built as `pip` builds it but without a network: no environment is made for it."""
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def build(kind: str, folder: Path) -> Path:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return next(folder.iterdir())


def test_the_source_distribution_holds_what_its_makefile_and_readme_name_and_no_recorded_runs(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "README.md")]
    named = {path for text in texts for path in re.findall(r"[\w./-]+/[\w./-]+\.(?:py|toml|md)", text)}
    named = {path for path in named if (ROOT / path).is_file()}
    assert {"integrations/langchain/pyproject.toml", "tests/servers/install.py"} <= named
    assert named | {"BENCHMARKS.md", "CHANGELOG.md", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".csv", ".pyc")) or ".venv" in name]


def test_the_wheel_holds_every_file_of_the_page(wheel: dict[str, bytes]) -> None:
    source = {path for path in (ROOT / PAGE).rglob("*") if path.is_file()}
    assert {name for name in wheel if name.startswith(PAGE)} == {path.relative_to(ROOT).as_posix() for path in source}
    assert all(wheel[path.relative_to(ROOT).as_posix()] == path.read_bytes() for path in source)


def test_the_wheel_holds_katex_with_its_licence_and_every_font_it_names(wheel: dict[str, bytes]) -> None:
    assert b"KaTeX" in wheel[f"{PAGE}katex/katex.min.js"]
    licences = [text for name, text in wheel.items() if name.endswith("licenses/a1agent/server/page/katex/LICENSE")]
    assert licences == [wheel[f"{PAGE}katex/LICENSE"]]
    assert b"Permission is hereby granted" in licences[0] and b"Khan Academy" in licences[0]
    fonts = set(re.findall(r"url\((fonts/[\w-]+\.woff2)\)", wheel[f"{PAGE}katex/katex.min.css"].decode()))
    assert {f"{PAGE}katex/{font}" for font in fonts} <= set(wheel)
    assert len(fonts) >= 20


def test_the_page_in_the_wheel_names_its_own_files_and_no_other_host(wheel: dict[str, bytes]) -> None:
    texts = {n: wheel[n].decode() for n in wheel if n.startswith(PAGE) and n.endswith((".html", ".js", ".css", ".svg"))}
    urls = {url for text in texts.values() for url in re.findall(r"""(?:https?:)?//[\w-]+\.[\w.-]+[\w/.-]*""", text)}
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1998/Math/MathML"}  # names, not addresses
    html = texts[f"{PAGE}index.html"]
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', html))
    named |= {f"page/{name}" for text in texts.values() for name in re.findall(r'from "\./([\w.]+)"', text)}
    assert {f"a1agent/server/{name}" for name in named} <= set(wheel)
    assert len(named) >= 10


def test_the_wheel_holds_the_models_with_their_licence_and_no_tests(wheel: dict[str, bytes]) -> None:
    assert {"a1agent/embedded/draft.gguf", "a1agent/embedded/target.gguf"} <= set(wheel)
    assert any(name.endswith("licenses/a1agent/embedded/LICENSE") for name in wheel)
    assert not [name for name in wheel if name.startswith(("tests/", "examples/", "integrations/"))]

"""The house keeps its shape: who may import whom, what an import costs, how long modules are."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import a1agent

ROOT = Path(a1agent.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# A package may import from those on its line and from what stands below `types`, `config`, `events`, `errors`.
ALLOWED = {
    "conformal": {"conformal"},
    "engine": {"engine", "conformal", "backends.base", "prompts"},
    "backends": {"backends", "embedded", "prompts", "call_formats", "schema_parts"},
    "embedded": {"embedded", "backends.base", "conformal.store", "prompts"},
}
COMMON = {"types", "config", "events", "errors"}


def imports_of(module: Path) -> set[str]:
    """Names of what a module imports from a1agent at run time, relative to it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "a1agent":
            name = node.module.removeprefix("a1agent").removeprefix(".")
            found |= {name} if name else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("a1agent.") for a in node.names if a.name.startswith("a1agent.")}
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    allowed = ALLOWED[package] | (COMMON if package != "conformal" else set())
    for module in (ROOT / package).rglob("*.py"):
        for name in imports_of(module):
            assert any(name == a or name.startswith(f"{a}.") for a in allowed), f"{module.name} imports {name}"


def test_the_conformal_core_needs_numpy_and_little_else() -> None:
    allowed = {"numpy", "sortedcontainers", "platformdirs", "matplotlib", "a1agent", *sys.stdlib_module_names}
    for module in (ROOT / "conformal").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, module.name


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_modules_and_functions_stay_short(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name


def test_importing_a1agent_loads_no_model_library() -> None:
    heavy = ("torch", "llama_cpp", "transformers", "langchain_core", "matplotlib", "sympy")
    code = f"import sys, a1agent; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_type_checkers_read_the_annotations() -> None:
    assert (ROOT / "py.typed").is_file()


def test_importing_a1agent_imports_next_to_nothing() -> None:
    code = "import sys, a1agent; print([m for m in ('numpy', 'pydantic', 'a1agent.agent') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_the_public_names_are_sorted_and_complete() -> None:
    assert a1agent.__all__ == sorted(a1agent.__all__)
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    imported = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("a1agent")]
    assert {alias.name for node in imported for alias in node.names} == set(a1agent.__all__)
    for node in imported:
        home = importlib.import_module(str(node.module))
        for alias in node.names:
            assert getattr(a1agent, alias.name) is getattr(home, alias.name)
    assert set(a1agent.__all__) <= set(dir(a1agent))
    with pytest.raises(AttributeError, match="no attribute 'A2'"):
        a1agent.A2  # noqa: B018

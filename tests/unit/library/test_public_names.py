"""The public names of the library: types, docstrings, and no private names in examples."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sagastream

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = (
    "sagastream",
    "sagastream.errors",
    "sagastream.message",
    "sagastream.rights",
    "sagastream.saga",
    "sagastream.status",
    "sagastream.sync",
    "sagastream.testing",
    "sagastream.tracing",
)


def _names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the public names of a module: `__all__`, or what the module itself defines."""
    listed = getattr(module, "__all__", None)
    for name, value in vars(module).items():
        own = getattr(value, "__module__", "") == module.__name__
        if name in listed if listed else own and not name.startswith("_"):
            yield f"{module.__name__}.{name}", value


def _callables(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isclass(value):
        yield f"{name}.__init__", value.__init__
        for attribute, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not attribute.startswith("_"):
                yield f"{name}.{attribute}", function
    elif inspect.isfunction(value):
        yield name, value


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_complete(module: str) -> None:
    """Each public name has a docstring, and each parameter and result a type."""
    names = list(_names(importlib.import_module(module)))
    assert names
    faults = []
    for name, value in names:
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            faults.append(f"{name} has no docstring")
        for called, function in _callables(name, value):
            if not inspect.isfunction(function) or function.__module__ in {"enum", "typing"}:
                continue  # inherited from an exception, a protocol or an enumeration
            signature = inspect.signature(function)
            faults += [
                f"{called}: {parameter.name} has no type"
                for parameter in signature.parameters.values()
                if parameter.name not in {"self", "cls"} and parameter.annotation is inspect._empty
            ]
            if signature.return_annotation is inspect._empty:
                faults.append(f"{called} has no result type")
    assert faults == []


def test_the_version_is_that_of_the_package() -> None:
    """`sagastream.__version__` is the version in pyproject.toml."""
    assert f'version = "{sagastream.__version__}"' in (ROOT / "pyproject.toml").read_text()


def _imports(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_benchmarks_and_docs_import_public_names_only() -> None:
    """Benchmarks and documentation show the public names of the library."""
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / "benchmarks").rglob("*.py"))
        for name in _imports(path.read_text())
        if name.startswith("sagastream._")
    ]
    found += [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
        for line in path.read_text().splitlines()
        if line.lstrip().startswith(("from sagastream._", "import sagastream._"))
    ]
    assert found == []

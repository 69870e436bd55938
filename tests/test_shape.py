"""Limits that keep the code readable: sizes, folders, cycles, words. Each failure lists all places.

Split what is too large instead of raising a limit.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import ceil
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("engine", "app")

MODULE_LINES: Final = 400
CLASS_ATTRIBUTES: Final = 12
FUNCTION_LINES_P90: Final = 18
FOLDER_MODULES: Final = 8
README_LINES: Final = 10

PERSONS: Final = re.compile(r"\b(who|whoever|whom|nobody|somebody|everybody)\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> dict[str, str]:
    """Path from the root -> text, of every module."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            yield path, node


def report(found: list[str]) -> str:
    return "\n" + "\n".join(found)


def test_a_module_fits_in_one_sitting() -> None:
    lines = {path: text.count("\n") for path, text in sources().items()}
    found = [f"{path}: {count} lines" for path, count in lines.items() if count > MODULE_LINES]
    assert not found, report(found)


def test_a_class_has_few_attributes() -> None:
    found = [
        f"{path}: {node.name}: {count} attributes"
        for path, node in nodes()
        if isinstance(node, ast.ClassDef) and (count := len(attributes(node))) > CLASS_ATTRIBUTES
    ]
    assert not found, report(found)


def attributes(cls: ast.ClassDef) -> set[str]:
    """What instances hold by the code of this class: fields, slots, and what is set on `self`."""
    found: set[str] = set()
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            found.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            found |= constants(node.value)
        elif isinstance(node, Function):
            found |= {name for each in ast.walk(node) for name in set_on_self(each)}
    return found - {"__slots__"}


def test_the_attributes_of_a_class_are_its_fields_its_slots_and_what_it_sets_on_itself() -> None:
    code = """
class Example(Base):
    __slots__ = ("slot", "other_slot")
    field: int
    constant: ClassVar[int] = 1
    def method(self):
        self.set, self.also_set = 1, 2
        self.field += 1
        object.__setattr__(self, "frozen", 3)
        self.read.other = 4
"""
    (example,) = ast.parse(code).body
    assert isinstance(example, ast.ClassDef)
    assert attributes(example) == {"slot", "other_slot", "field", "set", "also_set", "frozen"}


def set_on_self(node: ast.AST) -> Iterator[str]:
    """The name that `self.x = ` in all its forms or `object.__setattr__(self, "x", ...)` sets."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        if ast.unparse(node.value) == "self":
            yield node.attr
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "object.__setattr__":
        yield from constants(node.args[1])


def constants(node: ast.AST) -> set[str]:
    return {str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}


def test_nine_functions_of_ten_are_short() -> None:
    lengths = [
        (int(node.end_lineno or 0) - node.lineno + 1, f"{path}:{node.lineno}: {node.name}")
        for path, node in nodes()
        if isinstance(node, Function)
    ]
    lengths.sort(reverse=True)
    p90 = lengths[len(lengths) - ceil(0.9 * len(lengths))][0]
    long = [f"{name}: {length} lines" for length, name in lengths if length > FUNCTION_LINES_P90]
    assert p90 <= FUNCTION_LINES_P90, f"p90 is {p90} lines; {len(long)} are longer" + report(long)


def test_a_folder_holds_few_modules() -> None:
    folders = Counter(str(Path(path).parent) for path in sources() if "__init__" not in path)
    found = [
        f"{name}: {count} modules" for name, count in folders.items() if count > FOLDER_MODULES
    ]
    assert not found, report(found)


def rooms() -> list[str]:
    """The packages and their folders of the first level."""
    depths = {path: len(Path(path).parts) for path in sources() if path.endswith("__init__.py")}
    return sorted(str(Path(path).parent) for path, depth in depths.items() if depth <= 3)


@pytest.mark.parametrize("room", rooms())
def test_a_room_has_its_rule_in_a_short_readme(room: str) -> None:
    readme = ROOT / room / "README.md"
    assert readme.is_file(), f"{room} has no README.md"
    count = len(readme.read_text(encoding="utf-8").splitlines())
    assert count <= README_LINES, f"{room}/README.md: {count} lines"


def test_no_sentence_makes_a_person_of_a_component() -> None:
    folders = [path for name in (*PACKAGES, "docs") for path in sorted((ROOT / name).rglob("*"))]
    texts = [path for path in [*folders, ROOT / "README.md"] if path.suffix in (".md", ".py")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PERSONS.search(line)
    ]
    assert not found, report(found)


def test_no_import_cycle_not_even_by_a_late_import() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = [
        " -> ".join([module, *(graph.find_shortest_chain(imported, module) or ())])
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if graph.find_shortest_chain(imported, module)
    ]
    assert not found, report(found)

"""The import rule: every module has a layer, and imports go down.

A new module fails here until somebody gives it a layer and says what of the outside world it may
touch. Down means strictly down, so there are no cycles. An import inside a function, or under
TYPE_CHECKING, is *late*: it may go up, because nothing is imported with the module, but it needs
the same permission, written in brackets.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

LAYERS: Final[tuple[Mapping[str, str], ...]] = (
    # module -> what it may import beside the layers below and the harmless standard library
    {
        "app": "",
        "engine": "",
    },
    {
        "engine.buckets": "",
        "engine.device": "",
        "engine.errors": "",
        "engine.estimates": "",
        "engine.plan": "numpy",
        "engine.state": "",
        "engine.waiting": "",
    },
    {
        "engine.config": "",
        "engine.costs": "",
        "engine.spec": "numpy ml_dtypes",
        "engine.traces": "random",
    },
    {
        "engine.formation": "",
        "engine.model": "numpy",
        "engine.promises": "",
        "engine.runnable": "",
    },
    {
        "engine.batching": "",
    },
    {
        "engine.executable": "jax numpy threading",
        "engine.models": "",
        "engine.observer": "",
        "engine.padding": "numpy",
        "engine.simulate": "random",
        "engine.stats": "",
        "engine.ticket": "numpy threading",
    },
    {
        "engine.batcher": "numpy queue threading",
        "engine.models.bert_names": "numpy",
        "engine.models.factory": "sys",
        "engine.models.tokenize": "numpy tokenizers",
        "engine.models.weights": "(flax) (safetensors)",
        "engine.rules": "",
        "engine.tally": "threading time",
        "engine.testing": "numpy threading",
        "engine.warmup": "numpy",
    },
    {
        "engine.models.bert_directory": "",
        "engine.models.digits": "numpy (jax) (flax)",
        "engine.scenario": "",
        "engine.served_model": "concurrent threading",
    },
    {
        "engine.engine": "threading time",
        "engine.models.bert": "jax flax numpy",
        "engine.models.bert_embedding": "numpy (jax) (flax)",
        "engine.models.digit_classifier": "jax flax numpy",
        "engine.tune": "",
    },
    # the engine ends here
    {
        "app.answer": "msgspec",
    },
    {
        "app.operation": "flask msgspec",
    },
    {
        "app.bench": "",
        "app.chart": "(matplotlib)",
        "app.codec": "msgspec",
        "app.errors": "flask msgspec werkzeug",
        "app.hangup": "os select socket threading",
        "app.planning": "",
        "app.worker": "",
        "app.routes": "",
        "app.routing": "werkzeug",
        "app.settings": "msgspec os",
        "app.openapi_schema": "",
        "app.triton": "",
        "app.histogram": "prometheus_client threading",
        "app.window": "threading",
        "app.written": "flask",
    },
    {
        "app.bench.histogram": "hdrh numpy",
        "app.bench.plan": "",
        "app.bench.tally": "",
        "app.bench.timer": "asyncio ctypes os sys time",
        "app.worker.answer": "gunicorn time",
        "app.worker.inbox": "gunicorn werkzeug",
        "app.worker.loop": "os select threading time",
        "app.worker.outbox": "socket",
        "app.worker.pool": "queue threading",
        "app.body": "flask werkzeug",
        "app.deferred": "flask",
        "app.codec.oip_binary": "numpy",
        "app.codec.oip_parameters": "",
        "app.codec.oip_json": "msgspec numpy",
        "app.codec.typed": "msgspec orjson",
        "app.gate": "threading",
        "app.planning.measure": "rich",
        "app.planning.plot": "numpy (matplotlib)",
        "app.planning.tables": "msgspec",
    },
    {
        "app.bench.command": "click rich",
        "app.bench.schedule": "numpy",
        "app.worker.heads": "gunicorn",
        "app.http_metrics": "flask prometheus_client time",
        "app.codec.oip": "msgspec numpy orjson",
        "app.codec.openai": "msgspec numpy orjson",
        "app.services": "flask",
    },
    {
        "app.bench.load": "",
        "app.bench.shots": "orjson",
        "app.example": "",
        "app.metrics": "flask prometheus_client psutil time",
        "app.openapi_operation": "msgspec",
        "app.openapi_tensors": "",
        "app.planning.options": "click",
        "app.quick": "",
        "app.serving": "flask socket",
    },
    {
        "app.hooks": "flask random time",
        "app.openapi": "flask werkzeug",
        "app.terminal": "rich",
    },
    {
        "app.bench.connection": "asyncio httptools",
        "app.bench.examples": "numpy orjson",
        "app.routes.docs": "flask swagger_ui_bundle",
        "app.routes.health": "flask msgspec",
        "app.routes.inference": "flask",
        "app.routes.models": "flask msgspec",
        "app.routes.openai": "flask",
    },
    {
        "app.bench.runner": "asyncio socket time (uvloop)",
        "app.factory": "flask werkzeug",
    },
    {
        "app.worker.exchange": "gunicorn",
    },
    {
        "app.worker.connection": "gunicorn select socket",
    },
    {
        "app.worker.worker": "gunicorn os select socket",
    },
    {
        "app.bench.report": "msgspec numpy",
        "app.hosting": "atexit flask gunicorn os prometheus_client rich signal sys threading",
    },
    {
        "app.bench.process": "multiprocessing signal",
        "app.bench.terminal": "rich",
        "app.planning.simulate": "click rich",
        "app.planning.tune": "click os rich",
    },
    {
        "app.bench.plot": "matplotlib numpy",
        "app.cli": "click os rich",
        "app.wsgi": "",
    },
)

LAYER: Final = {module: level for level, layer in enumerate(LAYERS) for module in layer}
MAY_TOUCH: Final = {m: set(names.split()) for layer in LAYERS for m, names in layer.items()}

PURE: Final = (
    "batching",
    "buckets",
    "config",
    "costs",
    "device",
    "errors",
    "estimates",
    "formation",
    "observer",
    "plan",
    "promises",
    "rules",
    "scenario",
    "simulate",
    "state",
    "traces",
    "tune",
    "waiting",
)
"""What a simulation can run: no device, no threads, no clock. Numpy only as arithmetic."""

ARITHMETIC: Final = {"engine.plan"}

JAX_AT_ONCE: Final = {
    "engine.executable",
    "engine.models.bert",
    "engine.models.digit_classifier",
}
JAX_LATE: Final = {"engine.models.bert_embedding", "engine.models.digits", "engine.models.weights"}

# of the standard library, what makes a module more than arithmetic has to be said
TELLTALE: Final = """
    asyncio atexit concurrent ctypes multiprocessing os queue random sched select selectors signal
    socket subprocess sys threading time
"""
HARMLESS: Final = sys.stdlib_module_names - set(TELLTALE.split())

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """`name` is a module of ours in full, or the top name of anybody else's."""

    name: str
    late: bool


def source_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def modules() -> tuple[str, ...]:
    """Every module of both packages, by the files that are there."""
    found = []
    for package in ("engine", "app"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return tuple(sorted(found))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def statements(node: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import below `node`, and whether it is late."""
    for child in ast.iter_child_nodes(node):
        inside = late or isinstance(child, FUNCTIONS) or is_type_checking(child)
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        yield from statements(child, inside)


def named(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What a statement imports: `from engine import errors` is `engine.errors`."""
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        assert statement.level == 0, "an import of ours says the whole name"
        parent = str(statement.module)
        submodules = [f"{parent}.{alias.name}" for alias in statement.names]
        names = [name if name in modules() else parent for name in submodules]
    for name in names:
        ours = name.partition(".")[0] in ("engine", "app")
        yield name if ours else name.partition(".")[0]


def packages(name: str) -> Iterator[str]:
    """What Python imports before `name`: of `engine.models.bert`, `engine` and `engine.models`."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


@cache
def imports(module: str) -> frozenset[Import]:
    """Everything that `module` imports itself, and the packages around it and around those."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    found = {Import(package, late=False) for package in packages(module)}
    for statement, late in statements(tree, late=False):
        for name in named(statement):
            found |= {Import(each, late) for each in (*packages(name), name)}
    return frozenset(found)


def ours(module: str) -> set[Import]:
    return {found for found in imports(module) if found.name.partition(".")[0] in ("engine", "app")}


# --- every module has a layer, and keeps to it --------------------------------------------------


def test_every_module_has_exactly_one_layer() -> None:
    listed = [module for layer in LAYERS for module in layer]
    assert sorted(listed) == list(modules()), "a new module needs a layer, a removed one has none"


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_is_below_it(module: str) -> None:
    above = {
        found.name
        for found in ours(module)
        if not found.late and LAYER[found.name] >= LAYER[module]
    }
    assert not above, f"{module} is in layer {LAYER[module]}"


@pytest.mark.parametrize("module", modules())
def test_a_module_touches_only_what_its_layer_says(module: str) -> None:
    outside = imports(module) - ours(module)
    touched = {
        f"({found.name})" if found.late else found.name
        for found in outside
        if found.name not in HARMLESS
    }
    # what is imported at once may be imported late too
    touched -= {f"({name})" for name in touched}
    assert touched == MAY_TOUCH[module], "the list above is exact: nothing more, nothing stale"


# --- the two packages ---------------------------------------------------------------------------


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("engine")])
def test_the_engine_knows_no_web(module: str) -> None:
    web = {"app", "flask", "werkzeug", "gunicorn", "prometheus_client"}
    assert not {found.name.partition(".")[0] for found in imports(module)} & web


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("app")])
def test_the_app_knows_no_jax(module: str) -> None:
    names = {found.name for found in imports(module)}
    assert not names & ({"jax", "jaxlib", "flax"} | JAX_AT_ONCE)


def test_only_the_modules_that_say_so_import_jax() -> None:
    uses = {
        module: {found.late for found in imports(module) if found.name in ("jax", "flax")}
        for module in modules()
    }
    assert {module for module, late in uses.items() if False in late} == JAX_AT_ONCE
    assert {module for module, late in uses.items() if late == {True}} == JAX_LATE


@pytest.mark.parametrize("name", PURE)
def test_the_policy_and_its_numbers_are_pure(name: str) -> None:
    """Neither by themselves nor through what they import."""
    for module in reached(f"engine.{name}"):
        touched = {found.name for found in imports(module)}
        assert not touched & {"jax", "threading", "time", "ml_dtypes"}, module
        assert "numpy" not in touched or module in ARITHMETIC, module


def reached(module: str) -> set[str]:
    """Everything of ours that is imported with `module`, itself included."""
    found, left = set(), {module}
    while left:
        module = left.pop()
        found.add(module)
        left |= {at_once.name for at_once in ours(module) if not at_once.late} - found
    return found


@pytest.mark.parametrize("module", ["app.cli", "app.wsgi", "engine.engine", "engine.testing"])
def test_jax_is_not_imported_with_what_a_process_starts_from(module: str) -> None:
    assert not reached(module) & JAX_AT_ONCE


# --- and so it is when it runs ------------------------------------------------------------------


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_checking_a_config_imports_no_jax() -> None:
    done = run(
        "-c",
        "import sys; from click.testing import CliRunner; from app.cli import main; "
        "result = CliRunner().invoke(main, ['check', 'configs/demo.toml']); "
        "assert result.exit_code == 0, result.output; "
        "print(sorted({'jax', 'jaxlib', 'flax'} & sys.modules.keys()))",
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_config_is_checked_where_there_is_no_device() -> None:
    command = "from app.cli import main; main()"
    done = run("-c", command, "check", "configs/demo.toml", JAX_PLATFORMS="nonexistent")
    assert done.returncode == 0, done.stderr
    assert "configs/demo.toml is valid" in done.stdout
    assert "digits" in done.stdout

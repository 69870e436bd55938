"""What is imported, where the contracts of `pyproject.toml` cannot say it.

The contracts say which room may import which, and look at all imports alike. Here are the packages
from outside with the rooms that may use them, the imports that must be late (inside a function or
under TYPE_CHECKING), and what a process has imported when it runs.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).parents[1]

# of the standard library, what makes a module more than arithmetic has to be listed
TELLTALE: Final = """
    asyncio atexit concurrent ctypes multiprocessing os queue random sched select selectors signal
    socket subprocess sys threading time
"""
HARMLESS: Final = sys.stdlib_module_names - set(TELLTALE.split()) | {"typing_extensions"}

MAY_IMPORT: Final[Mapping[str, str]] = {
    # package -> the modules, and the rooms with all their modules, that may import it
    "asyncio": "app.cli.bench.process",
    "atexit": "app.hosting",
    "click": "app.cli",
    "concurrent": "engine.serving",
    "ctypes": "app.cli.bench.process",
    "flask": "app.hosting app.http app.telemetry",
    "flax": "engine.models.families engine.models.weights",
    "gunicorn": "app.hosting app.worker",
    "hdrh": "app.cli.bench.report",
    "httptools": "app.cli.bench.process",
    "jax": "engine.compilation engine.models.families",
    "matplotlib": "app.cli.bench.chart app.cli.charts",
    "ml_dtypes": "engine.models.tensors",
    "msgspec": "app.cli app.hosting app.http app.settings engine.transport",
    "multiprocessing": "app.cli.bench.process",
    "numpy": """
        app.cli app.http.codecs engine.compilation engine.models engine.runtime
        engine.scheduling.costs.bucket_policy engine.testing engine.transport.protocol
        engine.transport.server.blocks engine.warmup
    """,
    "orjson": "app.cli.bench app.http.codecs",
    "os": """
        app.cli app.hosting app.http.services app.telemetry.exporter app.worker engine.api
        engine.transport
    """,
    "prometheus_client": "app.hosting app.telemetry",
    "prometheus_flask_exporter": "app.telemetry",
    "psutil": "app.telemetry",
    "queue": "app.worker engine.runtime",
    "random": "app.http.hooks engine.models.processor engine.simulation",
    "rich": "app.cli app.hosting",
    "safetensors": "engine.models.weights",
    "select": "app.hosting.supervisor app.http.services app.worker engine.api engine.transport",
    "setproctitle": "app.hosting",
    "signal": "app.cli.bench.process app.hosting",
    "socket": "app.cli.bench.process app.hosting app.http app.worker engine.api engine.transport",
    "subprocess": "app.hosting.master app.hosting.supervisor",
    "swagger_ui_bundle": "app.http.routes.docs",
    "sys": """
        app.cli.bench.process app.cli.common app.cli.main app.hosting app.settings
        engine.models.factory engine.transport.client.interfaces
    """,
    "threading": """
        app.hosting app.http.codecs.messages app.http.services app.worker engine.compilation
        engine.runtime engine.serving engine.telemetry engine.testing engine.transport
    """,
    "time": """
        app.cli.bench.process app.hosting app.http.hooks app.telemetry app.worker engine.serving
        engine.telemetry engine.transport
    """,
    "tokenizers": "engine.models.families.bert.tokens",
    "uvloop": "app.cli.bench.process",
    "werkzeug": "app.http app.worker",
}

AT_ONCE: Final[Mapping[str, str]] = {
    # package -> the modules and rooms that import it at module level; elsewhere it is imported late
    "flax": "engine.models.families.bert.encoder engine.models.families.digit_classifier",
    "jax": """
        engine.compilation engine.models.families.bert.encoder
        engine.models.families.digit_classifier
    """,
    "matplotlib": "app.cli.bench.chart app.cli.charts",
    "safetensors": "",
    "uvloop": "",
}


@cache
def graph() -> grimp.ImportGraph:
    """Every import of the two packages, late ones included."""
    return grimp.build_graph("engine", "app", include_external_packages=True, cache_dir=None)


def importers(package: str) -> set[str]:
    """The modules of ours that import a package from outside."""
    known = package in graph().modules
    return graph().find_modules_that_directly_import(package) if known else set()


def within(module: str, rooms: str) -> bool:
    """Is it one of these modules, or in one of these rooms?"""
    return any(module == room or module.startswith(f"{room}.") for room in rooms.split())


def misplaced(found: set[str], rooms: str) -> tuple[list[str], list[str]]:
    """The modules that no entry of the list covers, and the entries that cover none."""
    missing = [module for module in sorted(found) if not within(module, rooms)]
    stale = [room for room in rooms.split() if not any(within(m, room) for m in found)]
    return missing, stale


def imports_at_once(node: ast.AST) -> Iterator[str]:
    """The top names that are imported when the module is."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield str(child.module).partition(".")[0]
        elif not is_late(child):
            yield from imports_at_once(child)


def is_late(node: ast.AST) -> bool:
    checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    return checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def source(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


# --- packages from outside ------------------------------------------------------------------------


def test_every_package_from_outside_is_listed() -> None:
    outside = {name for name in graph().modules if graph().is_module_squashed(name)}
    assert outside - HARMLESS == MAY_IMPORT.keys()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_from_outside_is_imported_only_where_the_list_says(package: str) -> None:
    assert misplaced(importers(package), MAY_IMPORT[package]) == ([], [])


@pytest.mark.parametrize("package", AT_ONCE)
def test_a_package_that_is_imported_late_is_imported_at_once_only_where_the_list_says(
    package: str,
) -> None:
    at_once = {m for m in importers(package) if package in imports_at_once(ast.parse(source(m)))}
    assert misplaced(at_once, AT_ONCE[package]) == ([], [])


@pytest.mark.parametrize("package", ["app", "engine"])
def test_the_init_of_a_room_imports_nothing(package: str) -> None:
    """Python runs it before every module of the room, which no import in the code shows."""
    for path in (ROOT / package).rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [
            ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert imports == [], path


# --- what a process has imported ------------------------------------------------------------------


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


def modules_of(*rooms: str) -> list[str]:
    return sorted(m for m in graph().modules if any(within(m, room) for room in rooms))


@pytest.mark.parametrize(
    "rooms",
    [
        pytest.param(("app",), id="app"),
        pytest.param(("engine.serving", "engine.testing", "engine.warmup"), id="engine"),
        pytest.param(("engine.models.registry", "engine.models.factory"), id="models"),
    ],
)
def test_what_a_process_starts_from_imports_no_jax(rooms: tuple[str, ...]) -> None:
    """`app.wsgi` too, which ends for want of a config after it has imported everything."""
    script = (
        "import sys\n"
        "from importlib import import_module\n"
        "for name in sys.argv[1:]:\n"
        "    try: import_module(name)\n"
        "    except SystemExit: assert name == 'app.wsgi'\n"
        "print(sorted({'jax', 'jaxlib', 'flax'} & sys.modules.keys()))"
    )
    done = run("-c", script, *modules_of(*rooms), BRIM_CONFIG="")
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_checking_a_config_imports_no_jax() -> None:
    done = run(
        "-c",
        "import sys; from click.testing import CliRunner; from app.cli.main import main; "
        "result = CliRunner().invoke(main, ['check', 'configs/demo.toml']); "
        "assert result.exit_code == 0, result.output; "
        "print(sorted({'jax', 'jaxlib', 'flax'} & sys.modules.keys()))",
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_config_is_checked_where_there_is_no_device() -> None:
    command = "from app.cli.main import main; main()"
    done = run("-c", command, "check", "configs/demo.toml", JAX_PLATFORMS="nonexistent")
    assert done.returncode == 0, done.stderr
    assert "configs/demo.toml is valid" in done.stdout
    assert "digits" in done.stdout

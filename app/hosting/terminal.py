"""The start-up as the terminal shows it: progress bars, then the URL and requests to try.

Without a terminal, one log line for each change of a model's state instead.
"""

from __future__ import annotations

import json
import logging
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typing_extensions import override

from app.http.openapi.parts import example_request
from app.http.services import VERSION
from app.settings import UNIX, Settings
from engine.api import Bucket, EngineClient, ModelState, Observer, Signature

log = logging.getLogger("brim.app")

INLINE_VALUES: Final = 64
"""An example request with more numbers than this is too long to copy from a terminal."""


class StartupDisplay(Observer):
    """Shows the start-up of all models, and at its end where the server listens."""

    def __init__(self, settings: Settings, console: Console, url: str | None = None) -> None:
        """`url` is where the server listens, if gunicorn was told another address than Brim."""
        self._url = url or settings.url
        self._console = console
        self._engine: EngineClient | None = None
        self._progress = _progress(console)
        self._tasks = {
            # each bucket counts twice: once compiled, once verified
            config.name: self._progress.add_task(
                config.name, start=False, total=2 * len(config.grid.buckets), stage="waiting"
            )
            for config in settings.models
        }

    def attach(self, engine: EngineClient) -> None:
        """Give it the engine whose models it lists at the end, and start drawing."""
        self._engine = engine
        self._progress.start()

    @override
    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._progress.update(self._tasks[model], advance=1, stage=f"compiled {bucket}")

    @override
    def verified(self, model: str, bucket: Bucket, seconds: float) -> None:
        stage = f"verified {bucket}, {seconds * 1e3:.3g} ms"
        self._progress.update(self._tasks[model], advance=1, stage=stage)

    @override
    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        if not self._console.is_terminal:
            log.info("model %s is %s%s", model, state.value, f": {reason}" if reason else "")
        elif state is ModelState.COMPILING:
            self._progress.start_task(self._tasks[model])

    @override
    def startup_finished(self) -> None:
        self._progress.stop()
        engine = self._engine
        if engine is None:
            return
        states = {engine.endpoint(name).snapshot().state for name in engine.names}
        if states <= {ModelState.READY, ModelState.FAILED}:  # else the start was interrupted
            self._summarize(engine)

    def _summarize(self, engine: EngineClient) -> None:
        """The models, the URL, and three commands to try."""
        lines = _commands(engine, self._url)
        if not self._console.is_terminal:
            log.info("listening on %s; try: %s", self._url, lines[min(1, len(lines) - 1)])
            return
        output = self._console.print
        ready = "ready" if engine.ready else "[bold red]not ready[/]"
        output(f"\n  [bold]Brim {VERSION}[/] is {ready} on [bold]{self._url}[/]\n")
        output(_models_table(engine))
        output("\n  Try:\n")
        for line in lines:
            # not wrapped, so that a copied line runs
            self._console.out(f"  {line}", highlight=False)
        output("\n  Ctrl-C stops the server.\n")


def _progress(console: Console) -> Progress:
    """Bars for all models; they draw nothing without a terminal."""
    return Progress(
        TextColumn("  [bold]{task.description}[/]"),
        TextColumn("{task.fields[stage]:<22}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _models_table(engine: EngineClient) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name in engine.names:
        stats = engine.endpoint(name).snapshot()
        if stats.state is ModelState.READY:
            progress = stats.progress
            done = f"{progress.buckets_done} buckets verified in {progress.elapsed_s:.1f} s"
            table.add_row(f"  {name}", f"[green]{stats.state.value}[/]", done)
        else:
            table.add_row(f"  {name}", f"[red]{stats.state.value}[/]", escape(stats.reason or ""))
    return table


def _commands(engine: EngineClient, url: str) -> list[str]:
    """Three curl commands: readiness, then inference for up to two models."""
    curl = f"curl -s {url}"
    if url.startswith(UNIX):
        curl = f"curl -s --unix-socket {url.removeprefix(UNIX)} http://localhost"
    lines = [f"{curl}/readyz"]
    endpoints = {name: engine.endpoint(name) for name in engine.names}
    ready = [n for n, each in endpoints.items() if each.snapshot().state is ModelState.READY]
    bodies = [(name, example_body(endpoints[name].interface.signature)) for name in ready]
    lines += [f"{curl}/v2/models/{n}/infer -d '{body}'" for n, body in bodies if body]
    if ready:
        lines += [f"{curl}/v2/models/{ready[0]}", f"{curl}/metrics"]
    return lines[:3]


def example_body(signature: Signature) -> str | None:
    """The model's example as a request body; None without one that fits on a line."""
    example = example_request(signature)
    if example is None:
        return None
    values = [value for tensor in example["inputs"] for value in tensor["data"]]
    if len(values) > INLINE_VALUES or any("'" in str(value) for value in values):
        return None
    return json.dumps(example, separators=(",", ":"))

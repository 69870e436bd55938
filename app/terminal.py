"""What a person sees who started the server in a terminal.

May touch: rich, a stream. An observer: a progress bar over the buckets while they compile and are
proven, then where the server is and what to try. Where nobody looks (no terminal), one log line a
model instead.
"""

from __future__ import annotations

import json
import logging

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.example import example_request
from app.services import VERSION
from app.settings import Settings
from engine.buckets import Bucket
from engine.engine import Engine
from engine.model import Model
from engine.observer import Observer
from engine.state import ModelState

log = logging.getLogger("brim.app")

INLINE_VALUES = 64
"""An example with more numbers than this does not fit a line that people copy."""


class Terminal(Observer):
    """Shows the start-up of all models, and when it is over says where the server is."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._grids = {config.name: config.grid for config in settings.models}
        self._engine: Engine | None = None
        self._progress: Progress | None = None
        self._tasks = {}
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("  [bold]{task.description}[/]"),
                TextColumn("{task.fields[stage]:<22}"),
                BarColumn(bar_width=32),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            width = max(len(name) for name in self._grids)
            # a bucket counts twice: compiled, then proven
            self._tasks = {
                name: self._progress.add_task(
                    name.ljust(width), start=False, total=2 * len(grid.buckets), stage="waiting"
                )
                for name, grid in self._grids.items()
            }

    def attach(self, engine: Engine) -> None:
        """Tell it whom to ask for details, and start drawing."""
        self._engine = engine
        if self._progress is not None:
            self._progress.start()

    def compiled(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._advance(model, f"compiled {bucket}")

    def proved(self, model: str, bucket: Bucket, seconds: float) -> None:
        self._advance(model, f"proved {bucket}, {seconds * 1e3:.3g} ms")

    def _advance(self, model: str, stage: str) -> None:
        if self._progress is not None:
            self._progress.update(self._tasks[model], advance=1, stage=stage)

    def state_changed(self, model: str, state: ModelState, reason: str | None) -> None:
        if self._progress is None:
            log.info("model %s is %s%s", model, state.value, f": {reason}" if reason else "")
        elif state is ModelState.COMPILING:
            self._progress.start_task(self._tasks[model])

    def settled(self) -> None:
        """The bars go; the hello comes, unless the start was interrupted."""
        if self._progress is not None:
            self._progress.stop()
        engine = self._engine
        if engine is None:
            return
        ends = {engine.stats(name).state for name in engine.names}
        if ends <= {ModelState.READY, ModelState.FAILED}:
            self._say_hello(engine)

    def _say_hello(self, engine: Engine) -> None:
        """The models, the URL, and three lines to try."""
        lines = _things_to_try(engine, self._settings.url)
        if not self._console.is_terminal:
            log.info("listening on %s; try: %s", self._settings.url, lines[min(1, len(lines) - 1)])
            return
        say = self._console.print
        word = "ready" if engine.ready else "[bold red]not ready[/]"
        say(f"\n  [bold]Brim {VERSION}[/] is {word} on [bold]{self._settings.url}[/]\n")
        say(_models_table(engine))
        say("\n  Try:\n")
        for line in lines:
            # not wrapped: what is copied must run
            self._console.out(f"  {line}", highlight=False)
        say("\n  Ctrl-C stops it.\n")


def _models_table(engine: Engine) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name in engine.names:
        stats = engine.stats(name)
        bad = stats.state is not ModelState.READY
        state = f"[red]{stats.state.value}[/]" if bad else f"[green]{stats.state.value}[/]"
        done = f"{stats.progress.buckets_done} buckets proven, {stats.progress.elapsed_s:.1f} s"
        table.add_row(f"  {name}", state, escape(stats.reason or "") if bad else done)
    return table


def _things_to_try(engine: Engine, url: str) -> list[str]:
    """Three curl lines: is it ready, and up to two models."""
    lines = [f"curl -s {url}/readyz"]
    serving = [name for name in engine.names if engine.stats(name).state is ModelState.READY]
    for name in serving:
        body = example_body(engine.model(name))
        if body is not None:
            lines.append(f"curl -s {url}/v2/models/{name}/infer -d '{body}'")
    if serving:
        lines += [f"curl -s {url}/v2/models/{serving[0]}", f"curl -s {url}/metrics"]
    return lines[:3]


def example_body(model: Model) -> str | None:
    """The model's own example as a request body, if it has one that fits a line."""
    example = example_request(model)
    if example is None:
        return None
    values = [value for tensor in example["inputs"] for value in tensor["data"]]
    if len(values) > INLINE_VALUES or any("'" in str(value) for value in values):
        return None
    return json.dumps(example, separators=(",", ":"))

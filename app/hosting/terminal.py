"""What the start prints: where the server listens, how the models come up, and requests to try.

gunicorn's master prints `greeting` as soon as the server listens. Then each model has a progress
bar, and, as soon as it serves, a request to try; without a terminal, one log line for each change
of its state instead.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typing_extensions import override

from app.http.openapi.parts import example_request
from app.http.services import VERSION
from app.settings import UNIX, Settings
from engine.api import BrimError, Bucket, EngineClient, ModelState, Observer, Signature

log = logging.getLogger("brim.app")

INLINE_VALUES: Final = 64
"""An example request with more numbers than this is too long to copy from a terminal."""


def greeting(url: str) -> list[str]:
    """The lines for a server that listens on `url` and whose models are not loaded yet."""
    page = "" if url.startswith(UNIX) else f"; a page to try every route: {url}/docs"
    return [
        f"Brim {VERSION} listens on {url}{page}",
        f"its models load now; their progress: {curl(url)}/readyz",
    ]


def curl(url: str) -> str:
    """The command for a request, up to the path."""
    if url.startswith(UNIX):
        return f"curl -s --unix-socket {url.removeprefix(UNIX)} http://localhost"
    return f"curl -s {url}"


class StartupDisplay(Observer):
    """Shows how the models come up, and the request to try of each one that serves."""

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
        """Give it the engine whose models it shows, and start drawing."""
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
        terminal = self._console.is_terminal
        if terminal and state is ModelState.COMPILING:
            self._progress.start_task(self._tasks[model])
        elif state is ModelState.READY:
            command = self._command(model)
            if terminal:
                self._print(f"[bold]{escape(model)}[/] is [green]ready[/]; try:")
                # not wrapped, so that a copied line runs
                self._console.out(f"  {command}\n", highlight=False)
            else:
                log.info("model %s is ready; try: %s", model, command)
        elif terminal and state is ModelState.FAILED:
            self._print(f"[bold]{escape(model)}[/] has [red]failed[/]: {escape(str(reason))}\n")
        elif not terminal:
            log.info("model %s is %s%s", model, state.value, f": {reason}" if reason else "")

    @override
    def startup_finished(self) -> None:
        self._progress.stop()
        engine = self._engine
        if engine is None:
            return
        states = {engine.endpoint(name).snapshot().state for name in engine.names}
        if not states <= {ModelState.READY, ModelState.FAILED}:
            return  # the start was interrupted
        outcome = f"{'ready' if engine.ready else 'not ready'} on {self._url}"
        if self._console.is_terminal:
            self._print(f"Brim is [bold]{outcome}[/]. Ctrl-C stops it.\n")
        else:
            log.info("Brim is %s", outcome)

    def _print(self, text: str) -> None:
        """A line above the progress bars."""
        self._console.print(f"  {text}", soft_wrap=True)

    def _command(self, model: str) -> str:
        """A request for a model that serves: its example, or without a short one its metadata."""
        path = f"{curl(self._url)}/v2/models/{model}"
        body = None
        if self._engine is not None:
            with suppress(BrimError):  # it ends already
                body = example_body(self._engine.endpoint(model).interface.signature)
        return path if body is None else f"{path}/infer -d '{body}'"


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


def example_body(signature: Signature) -> str | None:
    """The model's example as a request body; None without one that fits on a line."""
    example = example_request(signature)
    if example is None:
        return None
    values = [value for tensor in example["inputs"] for value in tensor["data"]]
    if len(values) > INLINE_VALUES or any("'" in str(value) for value in values):
        return None
    return json.dumps(example, separators=(",", ":"))

"""What a server with many cores and a GPU does; it runs on a CPU by the same path.

    python -m benchmarks.gpu [--workers 1,4,8,12] [--models null,mlp,minilm,bert-base]
                             [--clients 64,256] [--seconds 5] [--budget 480] [--json PATH]

For each model first the bare rate (`benchmarks/bare.py`), then one `brim serve` for each number of
HTTP processes, loaded by a closed loop of one-row requests from several generator processes.
Latency and requests/s are those of the generators; rows/s, rows a batch and fill are from the
model's `/stats`; CPU is from /proc, of all HTTP processes together and of the engine's process:
microseconds a request, and cores.

The command is made for a machine that is lent for minutes. Each model gets an equal part of what is
left of `--budget`, and cells that do not fit are skipped and said to be skipped. Compiled programs
are kept in JAX's persistent cache, so only a model's first start compiles. Without the demo's
package on that machine, bring its tokenizer.json: `--tokenizer PATH`. The bare rate is measured
once, before the servers: on a machine that others use too, a share of it may exceed 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from app.cli.bench.plan import BenchError, Settings
from app.hosting.workers import usable_cores
from benchmarks import loads
from benchmarks.gpu_models import NAMES, Skipped, Subject, prepare
from benchmarks.gpu_server import DEVICES, look, python, served
from benchmarks.loads import Load
from benchmarks.servers import Server

GIVE_UP_S: Final = 30.0
"""For a request."""
OVERHEAD_S: Final = 3.0
"""Of one load: generators start, and wait for what is in flight at the end."""
FIRST_START_S: Final = 20.0
"""The guess, before a start was seen; the first may take longer, because it compiles."""
HEADINGS: Final = (
    "HTTP processes",
    "clients",
    "requests/s",
    "rows/s",
    "of bare",
    "of bare, 2 in flight",
    "p50 ms",
    "p99 ms",
    "rows a batch",
    "fill",
    "HTTP us",
    "engine us",
    "HTTP cores",
    "engine cores",
    "generator cores",
    "failed",
)
say = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Bare:
    """The highest rows/s of any bucket, with one and with two batches in flight."""

    rows_per_s: float
    rows_per_s_in_flight: float
    buckets: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement."""

    model: str
    workers: int
    clients: int
    load: Load
    rows_per_s: float
    batch_rows: float
    fill: float
    http_us: float
    engine_us: float
    http_cores: tuple[float, ...]
    engine_cores: float
    counted_s: float

    @property
    def doubt(self) -> str | None:
        """Why the numbers may not be the server's; None if nothing is known."""
        if self.counted_s < self.load.sent_s / 2:
            return f"the server was counted in {self.counted_s:.1f} s of {self.load.sent_s:g} only"
        return self.load.doubts[0] if self.load.doubts else None

    def line(self, bare: Bare) -> str:
        """The row of the table."""
        load = self.load
        columns = (
            f"{self.workers}",
            f"{self.clients}",
            f"{load.per_s:.0f}",
            f"{self.rows_per_s:.0f}",
            f"{self.rows_per_s / bare.rows_per_s:.3f}",
            f"{self.rows_per_s / bare.rows_per_s_in_flight:.3f}",
            f"{load.p50_ms:.2f}",
            f"{load.p99_ms:.2f}",
            f"{self.batch_rows:.1f}",
            f"{self.fill:.2f}",
            f"{self.http_us:.0f}",
            f"{self.engine_us:.0f}",
            f"{sum(self.http_cores):.2f}",
            f"{self.engine_cores:.2f}",
            f"{sum(load.cores):.2f}",
            f"{load.failed}" + (" (!)" if self.doubt else ""),
        )
        return f"| {' | '.join(columns)} |"


@dataclass(slots=True)
class Budget:
    """The time that is left, for the whole run and for the model at hand."""

    until: float
    model_until: float = 0.0
    start_s: float = FIRST_START_S

    def next_model(self, models_left: int) -> None:
        """Give a model its part of what is left."""
        now = time.monotonic()
        self.model_until = now + (self.until - now) / models_left
        self.start_s = FIRST_START_S

    def fits(self, seconds: float) -> bool:
        """Whether the model's part is long enough."""
        return time.monotonic() + seconds <= self.model_until

    @property
    def left(self) -> float:
        """Seconds of the whole run, at least one."""
        return max(1.0, self.until - time.monotonic())


@dataclass(slots=True)
class Run:
    """The options, the time, and what has been seen so far."""

    options: argparse.Namespace
    budget: Budget
    log: Path
    seen: list[dict[str, Any]] = field(default_factory=list)
    device: str = ""

    def keep(self, kind: str, found: Bare | Cell, **more: Any) -> None:
        """Add to the JSON file, which is complete after each measurement."""
        self.seen.append({"kind": kind} | more | asdict(found))
        if self.options.json is not None:
            content = {"device": self.device, "cores": usable_cores(), "seen": self.seen}
            self.options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @property
    def cell_s(self) -> float:
        """How long one cell takes."""
        return float(self.options.seconds) * 1.25 + OVERHEAD_S


def closed_loop(url: str, clients: int, seconds: float) -> Settings:
    """Settings of a load; its warm-up is a quarter of its time."""
    return Settings(
        url, clients=clients, duration_s=seconds, warmup_s=seconds / 4, give_up_s=GIVE_UP_S
    )


def cell(run: Run, subject: Subject, server: Server, workers: int, clients: int) -> Cell:
    """One load. Raises `Skipped`."""
    how = closed_loop(server.url, clients, run.options.seconds)
    request = subject.request(how)
    try:
        load, first, second = loads.run(
            request, how, run.options.generators, lambda: look(server, subject.name)
        )
    except (BenchError, OSError, psutil.Error) as error:
        raise Skipped(str(error)) from None
    if first.http_s.keys() != second.http_s.keys():
        raise Skipped("HTTP processes have been replaced during the load")
    counts = {key: count - first.counts[key] for key, count in second.counts.items()}
    seconds = second.at - first.at
    http = tuple(second.http_s[pid] - spent for pid, spent in first.http_s.items())
    engine = second.engine_s - first.engine_s
    return Cell(
        model=subject.name,
        workers=workers,
        clients=clients,
        load=load,
        rows_per_s=ratio(counts["rows_answered"] or math.nan, seconds),
        batch_rows=ratio(counts["rows"], counts["batches"]),
        fill=ratio(counts["rows"], counts["rows"] + counts["padded_rows"]),
        http_us=ratio(sum(http) * 1e6, counts["succeeded"]),
        engine_us=ratio(engine * 1e6, counts["succeeded"]),
        http_cores=tuple(ratio(one, seconds) for one in http),
        engine_cores=ratio(engine, seconds),
        counted_s=seconds,
    )


def ratio(part: float, whole: float) -> float:
    """NaN where nothing happened."""
    return part / whole if whole > 0 else math.nan


def measure_bare(run: Run, subject: Subject) -> Bare:
    """Print the table of the buckets. Raises `Skipped`."""
    buckets = python(
        run.log, run.budget.left, "-m", "benchmarks.bare", str(subject.config), subject.name
    )
    say("| bucket | bare ms | rows/s | rows/s, 2 in flight |\n|---|--:|--:|--:|")
    for each in buckets:
        rates = f"{each['rows_per_s']:.0f} | {each['rows_per_s_in_flight']:.0f}"
        say(f"| {each['bucket']} | {each['ms']:.3f} | {rates} |")
    one, two = (
        max(each[key] for each in buckets) for key in ("rows_per_s", "rows_per_s_in_flight")
    )
    say(f"\nBare: {one:.0f} rows/s, {two:.0f} with two batches in flight.\n")
    bare = Bare(one, two, buckets)
    run.keep("bare", bare, model=subject.name)
    return bare


def measure_server(run: Run, subject: Subject, bare: Bare, workers: int) -> list[str]:
    """One server and its loads, one row each. Returns which of them are doubtful, and why."""
    clients = list(run.options.clients)
    doubts: list[str] = []
    began = time.monotonic()
    needed = run.budget.start_s + run.options.warmup + OVERHEAD_S + run.cell_s
    try:
        if not run.budget.fits(needed):
            raise Skipped("no time is left for it")
        with served(subject, workers, run.log, run.budget.left) as server:
            # the later starts of a model compile nothing
            run.budget.start_s = min(time.monotonic() - began, FIRST_START_S)
            warm_up(run, subject, server)
            while clients:
                if not run.budget.fits(run.cell_s):
                    raise Skipped("no time is left for it")
                found = cell(run, subject, server, workers, clients[0])
                say(found.line(bare))
                run.keep("served", found)
                if found.doubt is not None:
                    doubts.append(f"{workers} and {clients[0]}: {found.doubt}")
                clients.pop(0)
    except Skipped as error:
        reason = str(error).replace("|", "/")  # a bar would begin another column
        for count in clients:
            say(f"| {workers} | {count} | skipped: {reason} |" + " |" * (len(HEADINGS) - 3))
    return doubts


def warm_up(run: Run, subject: Subject, server: Server) -> None:
    """Load it once with the most clients, and look at nothing."""
    how = closed_loop(server.url, max(run.options.clients), run.options.warmup / 1.25)
    try:
        loads.run(subject.request(how), how, run.options.generators, lambda: None)
    except BenchError as error:
        raise Skipped(str(error)) from None


def measure(run: Run, name: str, folder: Path, *, gpu: bool) -> None:
    """One model: its bare table, and the table of its servers."""
    subject = prepare(name, folder, gpu=gpu, tokenizer=run.options.tokenizer)
    say(f"\n## {name}" + (f" ({subject.note})" if subject.note else "") + "\n")
    bare = measure_bare(run, subject)
    say(f"| {' | '.join(HEADINGS)} |\n|" + "--:|" * len(HEADINGS))
    doubts = [
        doubt
        for workers in run.options.workers
        for doubt in measure_server(run, subject, bare, workers)
    ]
    if doubts:
        say("\n(!) HTTP processes and clients of doubtful loads: " + "; ".join(doubts) + ".")


def numbers(text: str) -> list[int]:
    """From `1,4,8`."""
    return [int(number) for number in text.split(",")]


def models(text: str) -> list[str]:
    """From `null,mlp`."""
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"got {sorted(unknown)}, expected {', '.join(NAMES)}")
    return names


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=numbers, default=[1, 4, 8, 12], help="HTTP processes")
    parser.add_argument("--models", type=models, default=list(NAMES))
    parser.add_argument("--clients", type=numbers, default=[64, 256])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell")
    parser.add_argument("--warmup", type=float, default=4.0, help="seconds, once for each server")
    parser.add_argument(
        "--generators",
        type=int,
        default=max(1, min(4, usable_cores() // 4)),
        help="processes that send the load; default: a quarter of the cores, at most 4",
    )
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, without the demo's package")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    return parser.parse_args()


def main() -> None:
    """Print the tables as they come."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server ends with it
    with tempfile.TemporaryDirectory(prefix="brim-gpu-") as name:
        folder = Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        began = time.monotonic()
        run = Run(options, Budget(began + options.budget), folder / "log")
        try:
            platform, run.device = python(run.log, run.budget.left, "-c", DEVICES)
        except Skipped as reason:
            raise SystemExit(f"JAX finds no device: {reason}") from None
        say(f"Device: {run.device}; cores: {usable_cores()}; generators: {options.generators}.")
        for place, each in enumerate(options.models):
            run.budget.next_model(len(options.models) - place)
            try:
                measure(run, each, folder, gpu=platform != "cpu")
            except Skipped as reason:
                say(f"\n{each} is skipped: {reason}")
        say(f"\n{time.monotonic() - began:.0f} of {options.budget:.0f} seconds were used.")


if __name__ == "__main__":
    main()

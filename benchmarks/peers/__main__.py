"""Brim beside mosec, LitServe, Triton, Flask and FastAPI: same functions, same buckets, same load.

    make peers                      # installs the others, each into its own environment; then this
    python -m benchmarks.peers [--servers brim,mosec] [--models null,mlp] [--encodings json]
                               [--clients 1,8,64] [--seconds 3] [--rounds 3]

Equal for all servers: the functions, compiled ahead of time in the buckets 1 to 64 and padded with
zeros (`functions.py`); the versions of JAX and numpy; one process that computes; a batching window
of 0 where a server has one, for some also their usual one; requests of one row; keep-alive
connections; the load generator; and the machine, which each server shares with the generator only.
Different: the protocols; Flask and FastAPI do not batch; the output lists the other settings.

One server runs at a time, for one model and one encoding. It is started, must answer sixteen
concurrent rows with the right values, and then gets all loads. Each round measures all servers and
starts with another one; the output has the medians of the rounds. CPU is that of all processes of
the server. A server that cannot be installed or started, answers wrongly, or answers anything but
200 is skipped, and the output has the reason.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import jax
import psutil

from app import settings as files
from benchmarks.peers import encoder, measure, tables
from benchmarks.peers.bodies import Encoding
from benchmarks.peers.functions import MODELS, ROWS
from benchmarks.peers.measure import Job, Seen
from benchmarks.peers.running import Skipped, running
from benchmarks.peers.servers import ROOT, SERVERS
from benchmarks.peers.tables import Cell, Results
from engine.errors import ConfigError
from engine.models.families.bert import checkpoint
from engine.models.families.bert.directory import read_directory


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to measure."""

    servers: tuple[str, ...]
    models: tuple[str, ...]
    encodings: tuple[Encoding, ...]
    clients: tuple[int, ...]
    seconds: float
    rounds: int


def parse(arguments: Sequence[str]) -> Wanted:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__.splitlines()[0])
    encodings: tuple[Encoding, ...] = get_args(Encoding)

    def several(option: str, known: Sequence[str], default: Sequence[str]) -> None:
        def names(text: str) -> tuple[str, ...]:
            chosen = tuple(text.split(","))
            if not set(chosen) <= set(known):
                raise argparse.ArgumentTypeError(f"got {text}, expected of {','.join(known)}")
            return chosen

        parser.add_argument(option, type=names, default=tuple(default), help=",".join(known))

    several("--servers", tuple(SERVERS), tuple(SERVERS))
    several("--models", tuple(MODELS), ("null", "mlp"))
    several("--encodings", encodings, encodings)
    parser.add_argument(
        "--clients", type=lambda text: tuple(int(n) for n in text.split(",")), default=(1, 8, 64)
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="a load, beside its warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    return Wanted(**vars(parser.parse_args(arguments)))


def main() -> None:
    """Measure and print."""
    wanted = parse(sys.argv[1:])
    results = Results()
    jobs = prepare(wanted.models, results)
    print(
        f"{platform.machine()}, {psutil.cpu_count()} cores, Python {platform.python_version()}, "
        f"jax {jax.__version__}; buckets {ROWS}; {wanted.rounds} rounds of {wanted.seconds:g} s\n"
    )
    for number in range(wanted.rounds):
        first = number % len(wanted.servers)
        for name in (*wanted.servers[first:], *wanted.servers[:first]):
            for job in jobs:
                for encoding in wanted.encodings:
                    if encoding in SERVERS[name].encodings:
                        measure_server(name, job, encoding, wanted, results)
    print(tables.settings(wanted.servers))
    for job in jobs:
        for encoding in wanted.encodings:
            print(tables.speeds(results, job.name, encoding))
            print(tables.ratios(results, job.name, encoding))
    print(tables.remarks(results))


def prepare(models: Sequence[str], results: Results) -> list[Job]:
    """Create the jobs. The encoder is skipped if the demo has no weights."""
    jobs = []
    for name in models:
        try:
            if name == "encoder":
                save_encoder()
            jobs.append(Job(name))
        except ConfigError as error:
            results.skip(name, str(error))
    return jobs


def measure_server(
    name: str, job: Job, encoding: Encoding, wanted: Wanted, results: Results
) -> None:
    """Start one server and run all loads on it."""
    server = SERVERS[name]
    print(f"{name}, {job.name}, {encoding}", file=sys.stderr, flush=True)
    try:
        first = job.plan(server, encoding, measure.settings_of("http://127.0.0.1:1", encoding))
        with running(server, job.name, encoding, first.requests[0].message) as at:
            measure.check(server, job, encoding, at)
            for clients in wanted.clients:
                seen: Seen = measure.load(server, job, encoding, at, clients, wanted.seconds)
                results.add(Cell(job.name, encoding, clients, name), seen)
    except Skipped as why:
        results.skip(f"{name}, {job.name}, {encoding}", str(why))


def save_encoder() -> None:
    """Save the demo's weights for every environment. Raises `ConfigError` if there are none."""
    (config,) = (
        each for each in files.load(ROOT / "configs" / "demo.toml").models if each.name == "minilm"
    )
    directory = read_directory(config)
    encoder.save_weights(checkpoint.load(config, directory))


if __name__ == "__main__":
    main()

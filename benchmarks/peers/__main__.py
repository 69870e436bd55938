"""Brim beside other model servers: the same functions, buckets and load, one after the other.

    make peers                    # makes the environments in .peers/, then runs
    python -m benchmarks.peers [--servers brim,triton,...] [--models null,mlp] [--clients 1,8,64]
                               [--encodings json,binary] [--seconds 3] [--rounds 3]

Equal for all: JAX's executables of `functions.py`, compiled ahead of time for 1 to 64 rows; one
process that computes; requests of one row over kept connections; no window where one can be set to
none (mosec's shortest is 1 ms; Triton is measured with its usual 2 ms, too); logs off; two shared
cores, on which the load generator runs, too. Each body is what the server takes by nature: Triton's
and Brim's are the Open Inference Protocol, JSON or its binary tensors; the others take
`{"x": [...]}` through orjson, or raw floats. Every server has the machine to itself while it is
measured. Its first answer is compared with numpy's; a server that answers wrongly, or with anything
but 200 under load, is no result. What cannot be started is skipped and said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from app.bench import process
from app.bench.plan import Plan, Settings, Shot
from benchmarks.peers import servers
from benchmarks.peers.functions import WIDTHS, Compiled
from benchmarks.peers.servers import Case, Peer, Skipped
from benchmarks.servers import ROOT, Server, free_port
from benchmarks.serving import Seen, middle

START_S = 120.0


@contextlib.contextmanager
def running(peer: Peer, case: Case) -> Iterator[Server]:
    """Started and ready. Raises `Skipped`."""
    missing = peer.missing()
    if missing is not None:
        raise Skipped(missing)
    with tempfile.TemporaryDirectory(prefix="peer") as scratch, tempfile.TemporaryFile() as log:
        port = free_port()
        start = peer.start(case, port, Path(scratch))
        server = subprocess.Popen(
            start.command,
            env=os.environ | dict(start.environment),
            cwd=ROOT if peer.name == "brim" else servers.HERE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if not ready(server, f"http://127.0.0.1:{port}{start.ready}"):
                log.seek(0)
                last = log.read().decode(errors="replace").strip().splitlines()[-3:]
                raise Skipped(f"it did not start: {' / '.join(last)}")
            yield Server(f"http://127.0.0.1:{port}", server)
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # some leave their children behind
            server.wait()


def ready(server: subprocess.Popen[bytes], url: str) -> bool:
    """Does it answer in time?"""
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).read()
            return True
        time.sleep(0.2)
    return False


def check(peer: Peer, server: Server, shot: Shot, case: Case, expected: np.ndarray) -> None:
    """Raises `Skipped` unless the first answer is right."""
    head, _, body = shot.request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(each.split(": ", 1) for each in lines)
    asked = urllib.request.Request(server.url + line.split()[1], body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:
            said = {name.lower(): value for name, value in response.headers.items()}
            got = peer.read(said, response.read(), case)
    except (OSError, ValueError, KeyError) as error:
        raise Skipped(f"its first answer was none: {error}") from None
    if got.shape != expected.shape or not np.allclose(got, expected, atol=1e-3):
        raise Skipped(f"it answers {got[:4]}, not {expected[:4]}")


def measure(server: Server, shot: Shot, how: Settings) -> Seen:
    """One load. Raises `Skipped` if not everybody got a 200."""
    before = server.cpu_s()
    load = process.run(Plan(how, (shot,)))
    spent = server.cpu_s() - before
    if set(load.statuses) != {200}:
        raise Skipped(f"statuses {load.statuses}, failures {load.failures}")
    whole = load.ok_per_s * (how.duration_s + how.warmup_s)
    return Seen(load.ok_per_s, load.ok.p50_ms, load.ok.p99_ms, spent / whole * 1e3, 0)


def once(peer: Peer, case: Case, counts: Sequence[int], seconds: float) -> dict[int, Seen]:
    """One server, started for this, with every number of clients."""
    model = Compiled(case.model)
    with running(peer, case) as server:
        seen = {}
        for clients in counts:
            how = Settings(
                server.url,
                clients=clients,
                duration_s=seconds,
                warmup_s=seconds / 3,
                binary=case.binary,
            )
            shot = peer.shot(how, case)
            check(peer, server, shot, case, model(case.row[None])[0])
            seen[clients] = measure(server, shot, how)
        return seen


def main() -> None:
    """Measure and print, one table for each model and encoding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", default=";".join(peer.name for peer in servers.ALL))
    parser.add_argument("--models", default="null,mlp")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--encodings", default="json,binary")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    counts = [int(count) for count in options.clients.split(",")]
    chosen = [peer for peer in servers.ALL if peer.name in options.servers.split(";")]
    for model in options.models.split(","):
        row = np.random.default_rng(1).random(WIDTHS[model], np.float32)
        for encoding in options.encodings.split(","):
            case = Case(model, encoding == "binary", row)
            print(f"\n## {model}, {encoding}\n")
            show(compare(chosen, case, counts, options.seconds, options.rounds), counts)


def compare(
    peers: Sequence[Peer], case: Case, counts: Sequence[int], seconds: float, rounds: int
) -> dict[str, dict[int, Seen]]:
    """Every server in turn, several times; the medians of those that could be measured."""
    seen: dict[str, list[dict[int, Seen]]] = {}
    skipped: set[str] = set()
    for _ in range(rounds):
        for peer in peers:
            if peer.name in skipped:
                continue
            try:
                seen.setdefault(peer.name, []).append(once(peer, case, counts, seconds))
            except Skipped as reason:
                skipped.add(peer.name)
                seen.pop(peer.name, None)
                print(f"SKIPPED {peer.name}: {reason}\n", flush=True)
    return {
        name: {clients: middle([one[clients] for one in several]) for clients in counts}
        for name, several in seen.items()
    }


def show(seen: dict[str, dict[int, Seen]], counts: Sequence[int]) -> None:
    """Rates and latencies, and what Brim's are of them."""
    ours = seen.get("brim")
    print("| clients | server | requests/s | Brim's of it | p50 ms | p99 ms | CPU ms |")
    print("|--:|---|" + "--:|" * 5)
    for clients in counts:
        for name, by in seen.items():
            one = by[clients]
            ratio = f"{ours[clients].rate / one.rate:.2f}" if ours else ""
            print(
                f"| {clients} | {name} | {one.rate:.0f} | {ratio} | {one.p50_ms:.2f} "
                f"| {one.p99_ms:.2f} | {one.cpu_ms:.3f} |"
            )


if __name__ == "__main__":
    main()

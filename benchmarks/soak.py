"""Shows that no answer is lost, doubled, stale or another client's, and that no memory leaks.

    python -m benchmarks.soak [--requests 1000000] [--workers 2] [--seed 1]

Starts a real `brim serve` with the null model and sends requests from clients in two processes:
1 to 200 rows with values of their own; JSON and binary; one at a time or pipelined; in chunks, or
in pieces that drip; with deadlines of some milliseconds; and some clients hang up. Meanwhile the
youngest HTTP process is killed every few seconds. Only requests on its own connections may be lost,
so the process is stopped first, and its connections are listed. The oldest HTTP process lives to
the end: its memory is compared.

At the end the engine's process is stopped, and more large requests are sent than the shared memory
of the HTTP processes holds. As many as it holds are answered, twice in a row: a block that leaked,
however small, takes the place of one of them. The others are refused with 429. The exit status is 1
if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import resource
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import soak_clients, soak_messages
from benchmarks.servers import BIN, Server, free_port, running
from benchmarks.soak_clients import Break, Plan, Report
from engine.telemetry.snapshots import OUTCOMES as ENDS
from engine.transport.client.link import SLAB_ORDER

CONFIG: Final = Path(__file__).parent / "null" / "soak.toml"
TICK_S: Final = 0.25
QUIET_S: Final = 2.0
"""How long after the last request the queue must be empty."""
BURST_ORDER: Final = 15
"""The largest request takes 2**15 bytes of shared memory: 200 rows of 16 inputs and outputs."""
BURST_SHARE: Final = 1.25
"""Requests of a burst for each that finds room: connections do not spread evenly."""
OUTCOMES: Final = (
    "sent",
    "right",
    "late",
    "422",
    "429",
    "503",
    "504",
    "hung up",
    "lost",
    "unexplained",
)
FAULTS: Final = ("wrong", "doubled")


@dataclass(frozen=True, slots=True)
class Death:
    """One HTTP process was killed, and with it the connections from these ports."""

    at: float
    ports: frozenset[int]


@dataclass(frozen=True, slots=True)
class Use:
    """What one process holds; of the megabytes, `shared` are in shared memory."""

    pid: int
    megabytes: float
    shared: float
    files: int
    threads: int


# --- the server's processes -----------------------------------------------------------------------


def processes(server: Server) -> dict[str, psutil.Process]:
    """The master, the engine and the HTTP processes by their role, the oldest worker first."""
    master = psutil.Process(server.process.pid)
    found = {"master": master}
    workers: list[tuple[float, int, psutil.Process]] = []
    for process in master.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if "brim: engine" in title:
                found["engine"] = process
            elif "gunicorn: worker" in title:
                workers.append((process.create_time(), process.pid, process))
    for number, (_, _, process) in enumerate(sorted(workers), 1):
        found[f"worker {number}"] = process
    return found


def use(process: psutil.Process) -> Use:
    """The proportional set size, open files and threads of a process."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
    total, shared = (
        int(text.partition(f"\n{name}:")[2].split()[0]) / 1e3 for name in ("Pss", "Pss_Shmem")
    )
    return Use(process.pid, total, shared, process.num_fds(), process.num_threads())


def uses(server: Server) -> dict[str, Use]:
    """What each process holds. One that is being replaced is left out."""
    found = {}
    for role, process in processes(server).items():
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            found[role] = use(process)
    return found


def stop(process: psutil.Process) -> None:
    """Stop it; when this returns it runs no more."""
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)


def client_ports(pid: int) -> frozenset[int]:
    """The ports of the clients whose connections a stopped process holds."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        kind, _, inode = str(file.readlink()).partition(":")
        if kind == "socket":
            inodes.add(inode.strip("[]"))
    lines = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    fields = [line.split() for line in lines]
    return frozenset(int(one[2].partition(":")[2], 16) for one in fields if one[9] in inodes)


def kill_youngest(server: Server) -> Death | None:
    """Kill the youngest HTTP process; None where it is the only one at this moment."""
    found = [process for role, process in processes(server).items() if role.startswith("worker")]
    if len(found) < 2:
        return None
    victim = found[-1]
    stop(victim)
    ports = client_ports(victim.pid)
    death = Death(time.monotonic(), ports)
    victim.kill()
    return death


def stats(server: Server) -> dict[str, Any]:
    """The model's statistics."""
    with urllib.request.urlopen(f"{server.url}/v2/models/null/stats", timeout=30) as response:
        return dict(json.load(response))


# --- the load -------------------------------------------------------------------------------------


class Watch:
    """Kills, and measures memory, while the clients run."""

    def __init__(self, server: Server, requests: int, kill_every_s: float) -> None:
        self.deaths: list[Death] = []
        self.samples: list[dict[str, Use]] = []
        self._server = server
        self._requests = requests
        self._kill_every_s = kill_every_s
        self._kill_at = time.monotonic() + kill_every_s

    @property
    def next_share(self) -> float:
        """The part of the requests after which memory is measured next: each tenth."""
        return (len(self.samples) + 1) / 10

    def tick(self) -> None:
        """Do what is due."""
        counts = stats(self._server)["counts"]
        if counts["accepted"] + counts["refused"] >= self._requests * self.next_share:
            self.samples.append(uses(self._server))
        if time.monotonic() >= self._kill_at:
            death = kill_youngest(self._server)
            if death is not None:
                self.deaths.append(death)
                self._kill_at = time.monotonic() + self._kill_every_s


def load(port: int, watch: Watch, options: argparse.Namespace) -> Report:
    """Run the clients to their end."""
    share, more = divmod(options.requests, options.clients)
    plans = [
        Plan(port, client, share + (client < more), options.threads, options.seed)
        for client in range(options.clients)
    ]
    report = Report()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.clients, spawn) as pool:
        left = {pool.submit(soak_clients.run, plan) for plan in plans}
        while left:
            done, left = concurrent.futures.wait(left, timeout=TICK_S)
            for each in done:
                report.add(each.result())
            watch.tick()
    return report


def explained(one: Break, deaths: list[Death]) -> bool:
    """Whether the connection was one of a process that was killed after it was opened."""
    return any(one.opened_at < death.at and one.port in death.ports for death in deaths)


def room(workers: int) -> int:
    """How many of the largest requests the shared memory of so many HTTP processes holds."""
    return workers << (SLAB_ORDER - BURST_ORDER)


def burst(server: Server, client: int, options: argparse.Namespace) -> Counter[str]:
    """The outcomes of more large requests than there is room for, all of them at once."""
    engine = processes(server)["engine"]
    port, count = int(server.url.rpartition(":")[2]), int(room(options.workers) * BURST_SHARE)
    stop(engine)
    try:
        sent = soak_clients.burst(port, client, count, options.seed)
        time.sleep(QUIET_S)  # the HTTP processes hand them over
    finally:
        engine.resume()
    seen: Counter[str] = Counter()
    for connection, ask in zip(*sent, strict=True):
        answer = connection.read()
        try:
            soak_messages.check(ask, answer)
            seen["right"] += 1
        except soak_messages.Wrong as error:
            seen[str(answer.status) if answer.status != 200 else str(error)] += 1
        connection.finish()
    return seen


# --- the report -----------------------------------------------------------------------------------


def classify(report: Report, deaths: list[Death]) -> list[str]:
    """Count the requests of broken connections. Returns what no death explains."""
    unexplained = []
    for one in report.breaks:
        because = explained(one, deaths)
        report.counts[one.kind, "lost" if because else "unexplained"] += one.lost
        if not because:
            unexplained.append(f"{one.kind}, {one.lost} requests: {one.reason}")
    return unexplained


def print_counts(
    counts: Mapping[tuple[str, str], int], kinds: Iterable[str] = soak_clients.KINDS
) -> None:
    """Requests by kind and outcome."""
    names = (*OUTCOMES, *FAULTS)
    print(f"\n| requests | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    total: Counter[str] = Counter()
    for kind in (*kinds, "idle"):
        row = {name: counts.get((kind, name), 0) for name in names}
        total.update(row)
        print(f"| {kind} | {' | '.join(str(count) for count in row.values())} |")
    print(f"| all | {' | '.join(str(total[name]) for name in names)} |")


def print_uses(samples: Sequence[Mapping[str, Use]]) -> None:
    """What each process held after each tenth of the requests, and at the end."""
    early, late = samples[0], samples[-1]
    print("\n| process | MB after 10 % | at the end | grew by | shared | open files | threads |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for role in (role for role in late if role in early):
        before, now = early[role], late[role]
        new = "" if before.pid == now.pid else " (a new one)"
        print(
            f"| {role}{new} | {before.megabytes:.1f} | {now.megabytes:.1f} "
            f"| {now.megabytes - before.megabytes:+.1f} | {before.shared:.1f}, {now.shared:.1f} "
            f"| {before.files}, {now.files} | {before.threads}, {now.threads} |"
        )
    for role in ("engine", "worker 1"):
        series = [f"{one[role].megabytes:.1f}" for one in samples if role in one]
        print(f"\nMB of {role}, after each tenth and at the end: {', '.join(series)}")


def problems(
    report: Report, unexplained: list[str], seen: Mapping[str, Any], requests: int
) -> Iterator[str]:
    """What is not as it should be, in words."""
    yield from report.faults
    yield from unexplained[:50]
    totals = report.totals()
    for outcome in (*FAULTS, "unexplained"):
        if totals[outcome]:
            yield f"{outcome}: {totals[outcome]}"
    ended = sum(count for outcome, count in totals.items() if outcome not in ("sent", "doubled"))
    if not totals["sent"] == ended == requests:
        yield f"{totals['sent']} of {requests} requests were sent, and {ended} ended"
    counts = seen["counts"]
    outcomes = sum(counts[name] for name in ENDS)
    if counts["accepted"] != outcomes:
        yield f"the engine accepted {counts['accepted']} requests, and {outcomes} have an outcome"
    if counts["failed"] or counts["batches_failed"] or counts["succeeded"] < totals["right"]:
        yield f"the engine's counts do not fit: {counts}"
    for name in ("queue_depth", "queued_requests", "batches_in_flight"):
        if seen[name]:
            yield f"{name} is {seen[name]}, {QUIET_S:g} s after the end"


def soak(server: Server, options: argparse.Namespace) -> list[str]:
    """Send, wait, compare and print. Returns the problems."""
    watch = Watch(server, options.requests, options.kill_every)
    begin = time.monotonic()
    report = load(int(server.url.rpartition(":")[2]), watch, options)
    took = time.monotonic() - begin
    time.sleep(QUIET_S)
    seen, late = stats(server), uses(server)
    unexplained = classify(report, watch.deaths)
    print(f"{options.requests} requests in {took:.0f} s, {options.requests / took:.0f} a second")
    killed = f"{len(watch.deaths)} HTTP processes were killed"
    print(f"{killed}; {options.workers} at a time; seed {options.seed}")
    print_counts(report.counts)
    print(f"\nIdle connections that broke: {sum(not one.lost for one in report.breaks)}")
    print(f"The engine: {seen['counts']}; queue depth {seen['queue_depth']}")
    print_uses([*watch.samples, late])
    found = list(problems(report, unexplained, seen, options.requests))
    print()
    for number in range(2):
        at_once = burst(server, options.clients + number, options)
        print(f"A burst, with room for {room(options.workers)}: {dict(at_once)}")
        if at_once["right"] != room(options.workers) or set(at_once) != {"right", "429"}:
            found.append("the burst was not answered as it should be")
    return found


def main() -> None:
    """Start the server, send, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=2, help="processes with clients")
    parser.add_argument("--threads", type=int, default=24, help="connections of each of them")
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds")
    options = parser.parse_args()
    if options.requests > soak_messages.MOST_SERIAL:
        parser.error(f"at most {soak_messages.MOST_SERIAL} requests have numbers of their own")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        log, port = Path(folder) / "log", free_port()
        serve: list[str | Path] = [BIN / "brim", "serve", CONFIG, "--workers", str(options.workers)]
        command: list[str | Path] = [
            "sh",
            "-c",
            'exec "$@" 2>"$0"',
            log,
            *serve,
            "--bind",
            f"127.0.0.1:{port}",
        ]
        with running(command, f"http://127.0.0.1:{port}", "/v2/models/null/ready") as server:
            found = soak(server, options)
        said = log.read_text(encoding="utf-8", errors="replace")
    if server.process.returncode != 0:
        found.append(f"the server ended with {server.process.returncode}")
    if "Traceback" in said:
        at = said.index("Traceback")
        found.append(f"the server's log has {said.count('Traceback')} tracebacks, the first is")
        found.append(said[max(0, at - 500) : at + 3000])
    print("\n" + ("\n".join(["Not as it should be:", *found]) if found else "Everything is right."))
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

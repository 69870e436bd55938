"""Formats the results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from benchmarks.peers import measure
from benchmarks.peers.measure import Seen
from benchmarks.peers.servers import SERVERS

OURS: Final = ("brim", "brim-2", "brim-nohold")

DOUBT: Final = (
    "?: in most rounds the load generator took its whole core, or was itself late by more than a "
    "fifth of this p99."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """The load that a result belongs to."""

    model: str
    encoding: str
    clients: int
    server: str


class Results:
    """The results of every load and round, and the skipped servers with the reasons."""

    def __init__(self) -> None:
        self._seen: dict[Cell, list[Seen]] = {}
        self.skipped: dict[str, str] = {}

    def add(self, cell: Cell, seen: Seen) -> None:
        """Add the result of one round."""
        self._seen.setdefault(cell, []).append(seen)

    def skip(self, what: str, why: str) -> None:
        """Record a skipped server; the first reason is kept."""
        self.skipped.setdefault(what, why)

    def of(self, model: str, encoding: str) -> dict[int, dict[str, Seen]]:
        """Clients -> server -> medians, in the order of `SERVERS`."""
        found: dict[int, dict[str, Seen]] = {}
        for cell in sorted(self._seen, key=lambda c: (c.clients, list(SERVERS).index(c.server))):
            if (cell.model, cell.encoding) == (model, encoding):
                middle = measure.middle(self._seen[cell])
                found.setdefault(cell.clients, {})[cell.server] = middle
        return found


def settings(servers: Iterable[str]) -> str:
    """Return the table of the servers' settings."""
    lines = [f"| {name} | {SERVERS[name].settings} |" for name in servers]
    return "\n".join(("| server | settings |", "|---|---|", *lines, ""))


def speeds(results: Results, model: str, encoding: str) -> str:
    """Return all numbers of one model and encoding. A question mark marks a doubtful p99."""
    lines = [
        f"| {clients} | {server} | {one.rate:.0f} | {one.p50_ms:.2f} "
        f"| {one.p99_ms:.2f}{' ?' if one.doubtful else ''} | {one.cpu_us:.0f} |"
        for clients, servers in results.of(model, encoding).items()
        for server, one in servers.items()
    ]
    head = (
        f"## {model}, {encoding}\n",
        "| clients | server | requests/s | p50 ms | p99 ms | CPU us a request |",
        "|--:|---|--:|--:|--:|--:|",
    )
    return "\n".join((*head, *lines, ""))


def ratios(results: Results, model: str, encoding: str) -> str:
    """Return Brim's rate divided by that of each other server."""
    found = results.of(model, encoding)
    there = [name for name in SERVERS if any(name in seen for seen in found.values())]
    others = [name for name in there if name not in OURS]
    lines = []
    for clients, seen in found.items():
        for ours in (name for name in OURS if name in seen):
            quotients = (
                f"{seen[ours].rate / seen[name].rate:.2f}" if name in seen else "-"
                for name in others
            )
            lines.append(f"| {clients} | {ours} | {' | '.join(quotients)} |")
    if not others or not lines:
        return "No ratios: they need Brim and another server.\n"
    head = (
        f"| clients | requests/s by that of | {' | '.join(others)} |",
        f"|--:|---|{'--:|' * len(others)}",
    )
    return "\n".join((*head, *lines, ""))


def remarks(results: Results) -> str:
    """Return the meaning of the question mark, and the skipped servers."""
    lines = [f"SKIPPED {what}: {why}" for what, why in results.skipped.items()]
    return "\n".join((DOUBT, "", *(lines or ["No server was skipped."])))

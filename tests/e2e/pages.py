"""What a page shows: its blocks, and the commands in them.

A block says what it is behind its three backticks:

    sh       commands, run by bash in a checkout, one after the other
    console  `$ command`, and below it what is printed; `…` stands for anything
    python   a program, run by Python
    toml     a configuration, which `brim check` must accept
    csv      a trace; the page says what its file is called
    text     a picture; nothing is run
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KINDS: Final = frozenset({"sh", "console", "python", "toml", "csv", "text"})
_FENCE: Final = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_PROMPT: Final = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of its first line."""

    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command, and what it prints if the page says so."""

    text: str
    output: str | None = None

    def prints(self, printed: str) -> bool:
        """Whether that is what the page says."""
        expected = ".*".join(re.escape(part) for part in (self.output or "").strip().split("…"))
        return self.output is None or bool(re.fullmatch(expected, printed.strip(), re.DOTALL))


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start(2)) + 1, found[1], found[2])
        for found in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of `sh` or `console`."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    while lines:
        text = lines.pop(0)
        while not _whole(text):
            text += "\n" + lines.pop(0)
        if block.kind == "sh":
            yield Command(text)
            continue
        output = []
        while lines and not lines[0].startswith(_PROMPT):
            output.append(lines.pop(0))
        yield Command(text.removeprefix(_PROMPT), "\n".join(output))


def _whole(text: str) -> bool:
    """Neither a quote nor a backslash at the end goes on in the next line."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return not text.endswith("\\")

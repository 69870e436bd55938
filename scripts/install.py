"""`python install.py ARGUMENTS` is `pip install ARGUMENTS` with a line for each step.

pip's own bars need a terminal, and without one it is silent or prints hundreds of lines. Here a
minute of installing is some twenty lines, the same in a terminal and in a log. All that pip printed
comes out if it fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

COMMAND: Final = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input")
EVERY: Final = 15
"""A line each time so many more packages have been looked up."""
LARGE_MB: Final = 1.0
"""A file of at least so many megabytes has a line of its own."""

PULSE_S: Final = 5.0
"""pip says nothing while it unpacks: a line each time so many seconds have passed."""

_COLLECTING: Final = re.compile(r"Collecting ")
_FILE: Final = re.compile(r" *(?:Downloading|Using cached) ([^ ]+)\.whl \((\d+\.?\d*) MB\)")
_INSTALLING: Final = re.compile(r"Installing collected packages: (.*)")


def steps(lines: Iterable[str]) -> Iterator[str]:
    """What to say, given the lines of pip."""
    looked_up = 0
    for line in lines:
        if _COLLECTING.match(line):
            looked_up += 1
            if looked_up % EVERY == 0:
                yield f"{looked_up} packages looked up"
        elif file := _FILE.match(line):
            name, megabytes = file[1].rpartition("/")[2], float(file[2])
            if megabytes >= LARGE_MB:
                package, version, *_ = name.split("-")
                yield f"download {package} {version}, {megabytes:.0f} MB"
        elif packages := _INSTALLING.match(line):
            count = len(packages[1].split(","))
            yield f"unpack {count} package{'s' if count > 1 else ''}"


def main(arguments: list[str]) -> int:
    """Install. Returns pip's exit status."""
    started = time.monotonic()
    ended = threading.Event()
    pip = subprocess.Popen(
        [sys.executable, "-u", *COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    printed: list[str] = []

    def lines() -> Iterator[str]:
        for line in pip.stdout or ():
            printed.append(line)
            yield line

    for step in steps(lines()):
        say(f"  {step}")
        if step.startswith("unpack"):
            threading.Thread(target=pulse, args=(installed(), ended), daemon=True).start()
    status = pip.wait()
    ended.set()
    if status:
        sys.stderr.writelines(printed)
        say(f"pip has ended with status {status}; above is what it printed")
    else:
        say(f"  done in {time.monotonic() - started:.0f} s")
    return status


def installed() -> int:
    """How many packages this Python has."""
    return sum(1 for _ in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))


def pulse(before: int, ended: threading.Event) -> None:
    """Say how far the unpacking is, until it has ended."""
    while not ended.wait(PULSE_S):
        say(f"  {installed() - before} unpacked")


def say(text: str) -> None:
    """One line, at once."""
    sys.stderr.write(f"brim: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs a plan in a process of its own: nothing else runs there that could be late or make it late.

May touch: multiprocessing, signals. What the caller does meanwhile, drawing a progress bar or being
a benchmark, costs the load nothing but the other cores.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from app.bench import report, runner
from app.bench.plan import BenchError, Plan
from app.bench.report import Report
from app.bench.runner import Progress


def run(plan: Plan, progress: Callable[[Progress], object] = lambda _progress: None) -> Report:
    """Run to the end and report; `progress` is called four times a second. Raises `BenchError`."""
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_run, args=(plan, send), name="brim-bench", daemon=True)
    process.start()
    send.close()
    try:
        while True:
            said = receive.recv()
            if isinstance(said, Report):
                return said
            if isinstance(said, BenchError):
                raise said
            progress(said)
    except EOFError:
        process.join()
        raise BenchError(f"the load generator ended with {process.exitcode}") from None
    finally:
        process.terminate()
        process.join()
        receive.close()


def _run(plan: Plan, out: Connection) -> None:
    """The child. Ctrl-C is for the parent, who ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    try:
        out.send(report.make(plan, runner.run(plan, out.send)))
    except BenchError as error:
        out.send(error)
    except BrokenPipeError:
        return  # nobody waits for it any more

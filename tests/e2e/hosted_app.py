"""A plain WSGI app for the tests of the worker, and gunicorn's settings for it.

It runs inline what says so in its path. `/block` waits for a file, `/hang` blocks the loop's
thread, `/stream` and `/large` have answers of many parts and of one, `/odd/...` does what
WSGI allows and few do, or fails at a stage of its own. With HOOKS in the environment gunicorn's
hooks are there, with FILES as many open files are allowed.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.worker.limits.bounds import Bounds
from app.worker.limits.limits import Limits
from app.worker.suspension import Place

control_socket_disable = True
worker_class = os.environ.get("WORKER", "app.worker.worker.BrimWorker")
threads = 4
keepalive = 75
accesslog = "-"
access_log_format = "access %(m)s %(U)s %(s)s"


if "HOOKS" in os.environ:

    def pre_request(_worker: Any, request: Any) -> None:
        print(f"hook before {request.path}", flush=True)
        request.headers.append(("X-NUMBER", str(request.req_number)))

    def post_request(_worker: Any, request: Any, _environ: Any, response: Any) -> None:
        print(f"hook after {request.path} {response.status}", flush=True)


if "FILES" in os.environ:
    most = int(os.environ["FILES"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def worker_abort(_worker: Any) -> None:
    print("hook abort", flush=True)


class Hosted:
    """The app."""

    bounds = Bounds(Limits(max_body_bytes=100_000))

    def place(self, environ: Mapping[str, Any]) -> Place:
        return Place("hosted", inline=environ["PATH_INFO"].startswith(("/inline", "/hang")))

    def __call__(  # noqa: C901, PLR0911
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        match path.split("/")[1]:
            case "hang":
                time.sleep(60)
            case "block":
                print(f"{path} waits", flush=True)
                while not Path(os.environ["GATE"]).exists():
                    time.sleep(0.01)
            case "fail":
                raise RuntimeError("told to")
            case "pid":
                return answer(start_response, str(os.getpid()).encode())
            case "environ":
                kept = {k: repr(v) for k, v in sorted(environ.items()) if isinstance(v, str | bool)}
                kept |= {"all": repr(sorted(environ))}
                return answer(start_response, repr(kept).encode())
            case "number":
                return answer(start_response, environ["HTTP_X_NUMBER"].encode())
            case "odd":
                return Odd(path.split("/")[2], environ, start_response)
            case "unread":
                return answer(start_response, b"not read")
            case "large":
                return answer(start_response, b"7" * 5_000_000)
            case "stream":
                start_response("200 OK", [("Content-Type", "text/plain")])
                return (b"%d," % number for number in range(10_000))
            case "file":
                start_response("200 OK", [("Content-Type", "text/plain")])
                file = io.BytesIO(Path(__file__).read_bytes())
                wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
                return wrapped
        body = environ["wsgi.input"].read()
        return answer(start_response, path.encode() + b" " + body)


def answer(start_response: Callable[..., Any], body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


class Odd:
    """An answer whose every stage is what `how` says. It prints what happens to it."""

    def __init__(self, how: str, environ: dict[str, Any], start_response: Any) -> None:
        self.how, self.start_response = how, start_response
        if how == "exit":
            sys.exit(1)
        if how == "errors":
            environ["wsgi.errors"].write("a word for the log\n")
        if how == "call":
            start_response("200 OK", [])
            raise RuntimeError(how)
        if how in ("write", "short", "close", "later", "twice"):
            lengths = [("Content-Length", "9")] if how == "short" else []
            write = start_response("200 OK", lengths)
            if how == "write":
                write(b"written, ")
        if how == "twice":
            start_response("204 No Content", [])

    def __iter__(self) -> Iterator[bytes]:
        if self.how == "first":
            raise RuntimeError(self.how)
        if self.how in ("late", "first", "errors"):
            self.start_response("200 OK", [])
        yield b"one, "
        if self.how == "later":
            raise RuntimeError(self.how)
        yield b"two"

    def close(self) -> None:
        """Counted by the tests."""
        print(f"closed {self.how}", flush=True)
        if self.how == "close":
            raise RuntimeError(self.how)


app = Hosted()

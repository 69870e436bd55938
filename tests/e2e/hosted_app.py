"""A plain WSGI app for the tests of the worker, and gunicorn's settings for it.

It is quick for what says so in its path. `/block` waits for a file, `/hang` blocks the one thread
that others need, `/stream` and `/large` have answers of many parts and of one.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

control_socket_disable = True
worker_class = os.environ.get("WORKER", "app.worker.worker.BrimWorker")
threads = 4
keepalive = 75
accesslog = "-"
access_log_format = "access %(m)s %(U)s %(s)s"


def pre_request(_worker: Any, request: Any) -> None:
    print(f"hook before {request.path}", flush=True)


def post_request(_worker: Any, request: Any, _environ: Any, response: Any) -> None:
    print(f"hook after {request.path} {response.status}", flush=True)


def worker_abort(_worker: Any) -> None:
    print("hook abort", flush=True)


class Hosted:
    """The app."""

    config: Mapping[str, int] = {"MAX_CONTENT_LENGTH": 100_000}

    def quick(self, environ: Mapping[str, Any]) -> bool:
        return environ["PATH_INFO"].startswith(("/quick", "/hang"))

    def __call__(  # noqa: C901
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        match path.split("/")[1]:
            case "hang":
                time.sleep(60)
            case "block":
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


app = Hosted()

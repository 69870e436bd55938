"""CPU of one request over real sockets, and its latency: one row as JSON, `wrk` as the client.

    python -m benchmarks.cpu [--against DIR] [--models null,mlp,minilm] [--clients 1,64]
                             [--seconds 8] [--rounds 3]

`--against` is another checkout of Brim, served in the same run: its rounds alternate with those of
this one, because a shared machine's speed changes from minute to minute. Medians of all rounds. CPU
is user and system time of the server and its worker, divided by the requests that `wrk` counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from benchmarks.servers import Server, free_port, running

ROOT: Final = Path(__file__).parent.parent
TEXT: Final = " ".join(("a batch is best when it is full to the brim",) * 2)
"""20 words."""
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    # name -> the config, from the checkout's root, and the one input tensor
    "null": ("benchmarks/null/null.toml", {"name": "x", "shape": [1, 16], "datatype": "FP32"}),
    "mlp": ("benchmarks/mlp.toml", {"name": "x", "shape": [1, 784], "datatype": "FP32"}),
    "minilm": ("configs/demo.toml", {"name": "text", "shape": [1], "datatype": "BYTES"}),
}
WARMUP_S: Final = 14.0
Row: TypeAlias = tuple[float, ...]
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def lua(model: str) -> str:
    """The script that lets `wrk` post one row."""
    tensor = MODELS[model][1]
    data = [TEXT] if model == "minilm" else [n % 10 / 10 for n in range(tensor["shape"][1])]
    body = json.dumps({"inputs": [tensor | {"data": data}]}, separators=(",", ":"))
    return f"""
wrk.method = "POST"
wrk.body = [[{body}]]
wrk.headers["Content-Type"] = "application/json"
"""


@contextlib.contextmanager
def server_of(root: Path, model: str) -> Iterator[Server]:
    """The model, served by the checkout at `root`."""
    config = root / MODELS[model][0]
    module = "app.cli.main" if (root / "app/cli/main.py").exists() else "app.cli"
    url = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", f"from {module} import main; main()", "serve"]
    command += [str(config), "--bind", url]
    env = os.environ | {"PYTHONPATH": str(root)}
    ready = f"/v2/models/{model}/ready"
    with running(command, f"http://{url}", ready, cwd=root, env=env) as server:
        yield server


def measure(url: str, server: Server, script: Path, clients: int, seconds: float) -> Row:
    """CPU in us a request, requests a second, and latency in ms: p50 and p99."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script)]
    before = server.cpu_s()
    said = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    spent = server.cpu_s() - before
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    requests, took = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()  # type: ignore[union-attr]
    p50, p99 = (
        float(number) * _UNITS[unit]
        for number, unit in re.findall(r"(?:50|99)%\s+([\d.]+)(us|ms|s)", said)
    )
    return spent / int(requests) * 1e6, int(requests) / float(took), p50, p99


def compare(model: str, roots: dict[str, Path], options: argparse.Namespace) -> None:
    """Measure one model, and print one table."""
    seen: dict[tuple[int, str], list[Row]] = {}
    with contextlib.ExitStack() as stack:
        script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "post.lua"
        script.write_text(lua(model), encoding="utf-8")
        servers = {
            name: stack.enter_context(server_of(root, model)) for name, root in roots.items()
        }
        urls = {name: f"{each.url}/v2/models/{model}/infer" for name, each in servers.items()}
        for name, server in servers.items():
            # the bucket policy is solved anew some 10 s after the first batches correct the costs
            measure(urls[name], server, script, 64, WARMUP_S)
        for _ in range(options.rounds):
            for clients in map(int, options.clients.split(",")):
                for name, server in servers.items():
                    row = measure(urls[name], server, script, clients, options.seconds)
                    seen.setdefault((clients, name), []).append(row)
    print(f"\n| {model}: clients | checkout | CPU us a request | requests/s | p50 ms | p99 ms |")
    print("|--:|---|--:|--:|--:|--:|")
    for (clients, name), rows in seen.items():
        cpu, rate, p50, p99 = map(statistics.median, zip(*rows, strict=True))
        print(f"| {clients} | {name} | {cpu:.0f} | {rate:.0f} | {p50:.2f} | {p99:.2f} |")


def main() -> None:
    """Print one table per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout, measured in alternation")
    parser.add_argument("--models", default="null")
    parser.add_argument("--clients", default="1,64")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    roots = {"this": ROOT} | ({str(options.against): options.against} if options.against else {})
    for model in options.models.split(","):
        compare(model, roots, options)


if __name__ == "__main__":
    main()

"""Executes the `tritonserver` of the nvidia-pytriton wheel, with a repository of one model.

Its Python backend runs `triton_model.py` in one process of this environment. PyTriton's own proxy
is not used.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.functions import MODELS, ROWS

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {most}
input [ {{ name: "x" data_type: TYPE_{x.datatype} dims: {x_shape} }} ]
output [ {{ name: "y" data_type: TYPE_{y.datatype} dims: {y_shape} }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: {window_us} }}
"""


def main() -> None:
    """Lay out the repository in the current directory, and run."""
    name = os.environ["PEER_MODEL"]
    model = MODELS[name]()
    (x,), (y,) = model.signature.inputs, model.signature.outputs
    repository = Path("models").resolve()
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").symlink_to(Path(__file__).with_name("triton_model.py").resolve())
    (version.parent / "config.pbtxt").write_text(
        CONFIG.format(
            name=name,
            most=ROWS[-1],
            x=x,
            y=y,
            x_shape=list(x.shape),
            y_shape=list(y.shape),
            window_us=os.environ["PEER_WINDOW_US"],
        )
    )
    packages = Path(sysconfig.get_path("purelib"))
    server = packages / "pytriton" / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        stub.symlink_to(server / "python_backend_stubs" / python / stub.name)
    # the stub is a Python of its own: it finds this environment by the `python3` on the path
    libraries = (packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    command: list[str | Path] = [server / "bin" / "tritonserver", "--model-repository", repository]
    command += ["--backend-directory", server / "backends"]
    command += ["--http-address", "127.0.0.1", "--http-port", os.environ["PEER_PORT"]]
    command += ["--allow-grpc", "false", "--allow-metrics", "false"]
    os.execve(command[0], [str(part) for part in command], environment)


if __name__ == "__main__":
    main()

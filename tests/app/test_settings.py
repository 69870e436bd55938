"""Settings: what a config may contain, and the one line for each mistake in it."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import (
    ADDRESS_ALLOWED,
    BRIM_ONLY,
    MAX_CONNECTIONS,
    Limits,
    ModelTable,
    ServerTable,
    Settings,
    load,
)
from engine.errors import ConfigError
from engine.models.config import ModelConfig, Source

Write = Callable[[str], Path]

ROOT = Path(__file__).parents[2]
THREADS_ALLOWED = "a whole number from 2 to 100000; one is kept for probes"
WORKERS_ALLOWED = '"auto", or a whole number from 1 to 256'
PUPPET = '[[models]]\nname = "p"\nfactory = "engine.testing:puppet_model"\n'
DIGITS = '[[models]]\nname = "d"\nfamily = "digits"\n'
NO_MODEL_KEYS = (
    "name, family, path, sha256, factory, options, token_ids, dimensions, rows, lengths, "
    "max_wait_ms, max_queue_rows, max_request_rows, timeout_ms, slo_ms, weight, in_flight, "
    "tolerance, "
    "compile_threads, required"
)


def refusal(file: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load(file, environment)
    line = str(refused.value)
    assert "\n" not in line
    return line


# --- valid configs --------------------------------------------------------------------------------


def test_a_minimal_config_gets_the_defaults(write: Write) -> None:
    file = write(PUPPET)
    source = Source(factory="engine.testing:puppet_model")
    assert load(file) == Settings(
        file=str(file),
        models=(ModelConfig(name="p", source=source, base=file.parent),),
        bind="127.0.0.1:8000",
        worker="brim",
        workers="auto",
        threads=16,
        keepalive_s=75,
        graceful_timeout_s=30,
        log_level="info",
        limits=Limits(
            max_head_bytes=32 * 1024,
            max_body_bytes=16 * 1024 * 1024,
            max_decompressed_bytes=1024 * 1024,
            max_json_bytes=4 * 1024 * 1024,
            max_id_bytes=1024,
            max_bytes_in_flight=256 * 1024 * 1024,
            head_timeout_s=10,
            body_timeout_s=30,
            send_timeout_s=30,
            min_bytes_per_s=16 * 1024,
        ),
    )


def test_every_key_is_read_and_converted_to_its_unit(write: Write) -> None:
    file = write(
        """
        [server]
        bind = "0.0.0.0:9000"
        worker = "gthread"
        workers = 3
        threads = 8
        keepalive_s = 5
        graceful_timeout_s = 2
        log_level = "debug"

        [limits]
        max_body_bytes = 1024
        max_json_bytes = 512

        [[models]]
        name = "p"
        factory = "engine.testing:puppet_model"
        options = { a = 1 }
        rows = [1, 8]
        lengths = [16, 32]
        token_ids = true
        dimensions = [8, 16]
        max_wait_ms = 3
        weight = 2
        max_queue_rows = 7
        max_request_rows = 70
        timeout_ms = 250.0
        slo_ms = 20
        in_flight = 3
        tolerance = 0.5
        compile_threads = 1
        required = false
        """
    )
    model = ModelConfig(
        name="p",
        source=Source(factory="engine.testing:puppet_model", options={"a": 1}),
        rows=(1, 8),
        lengths=(16, 32),
        token_ids=True,
        dimensions=(8, 16),
        max_wait_s=0.003,
        weight=2.0,
        max_queue_rows=7,
        max_request_rows=70,
        timeout_s=0.25,
        slo_s=0.02,
        in_flight=3,
        tolerance=0.5,
        compile_threads=1,
        required=False,
        base=file.parent,
    )
    limits = Limits(max_body_bytes=1024, max_json_bytes=512)
    server = "0.0.0.0:9000", "gthread", 3, 8, 5, 2, "debug"
    expected = Settings(str(file), (model,), *server, limits)
    assert load(file) == expected


def test_the_demo_config_is_valid() -> None:
    demo = load(ROOT / "configs/demo.toml")
    assert [(model.name, model.required) for model in demo.models] == [
        ("digits", True),
        ("minilm", False),
    ]
    assert demo.url == "http://127.0.0.1:8000"


def test_the_example_config_is_valid() -> None:
    (iris,) = load(ROOT / "examples/iris/brim.toml").models
    assert iris.source.options == {"weights": "iris.safetensors", "hidden": 16}


def test_relative_paths_start_from_the_configs_directory(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ROOT / "examples/digits/digits.safetensors"
    file = write(DIGITS + 'path = "weights.safetensors"\n')
    (file.parent / "weights.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.chdir("/")
    assert load(file).models[0].base == file.parent


def test_a_model_that_is_not_required_may_have_no_weights(write: Write) -> None:
    (model,) = load(write(DIGITS + 'path = "gone"\nrequired = false\n')).models
    assert model.source.path == "gone"


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:1", "http://localhost:1"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        (":80", "http://127.0.0.1:80"),
        ("[::]:80", "http://127.0.0.1:80"),
        ("[::1]:80", "http://[::1]:80"),
        ("unix:/run/brim.sock", "unix:/run/brim.sock"),
    ],
    ids=["default", "a name", "everywhere", "no host", "everywhere, v6", "v6", "a file"],
)
def test_the_url_can_be_opened_on_this_machine(write: Write, bind: str, url: str) -> None:
    assert load(write(f'[server]\nbind = "{bind}"\n{PUPPET}')).url == url


@pytest.mark.parametrize(
    ("file", "environment", "flag", "host"),
    [
        (None, None, None, "127.0.0.1"),
        ("file:1", None, None, "file"),
        ("file:1", "env:1", None, "env"),
        ("file:1", None, "flag:1", "flag"),
        (None, "env:1", "flag:1", "flag"),
        ("file:1", "env:1", "flag:1", "flag"),
    ],
    ids=["default", "file", "environment", "flag over file", "flag over env", "all three"],
)
def test_flags_win_over_the_environment_which_wins_over_the_file(
    write: Write, file: str | None, environment: str | None, flag: str | None, host: str
) -> None:
    line = f'bind = "{file}"' if file else ""
    variables = {"BRIM_BIND": environment} if environment else {}
    settings = load(write(f"[server]\n{line}\n{PUPPET}"), variables)
    assert settings.with_flags(bind=flag).bind.partition(":")[0] == host


@pytest.mark.parametrize(
    ("worker", "threads", "limit"),
    [
        ("gthread", 2, 1),
        ("gthread", 8, 7),
        ("gthread", 32, 30),
        ("gthread", 256, 240),
        ("brim", 2, MAX_CONNECTIONS),
        ("brim", 256, MAX_CONNECTIONS),
    ],
    ids=[
        "one is kept free",
        "one is kept free of a few",
        "a sixteenth is two",
        "the default",
        "a request holds no thread",
        "for any number of threads",
    ],
)
def test_where_each_request_holds_a_thread_one_in_sixteen_stays_free(
    write: Write, worker: str, threads: int, limit: int
) -> None:
    file = write(f'[server]\nworker = "{worker}"\nthreads = {threads}\n{PUPPET}')
    assert load(file).max_concurrent_requests == limit


def test_the_worker_follows_the_same_order_and_sets_its_number_of_threads(write: Write) -> None:
    file = write(PUPPET)
    assert (load(file).worker, load(file).threads) == ("brim", 16)
    changed = load(file, {"BRIM_WORKER": "gthread"})
    assert (changed.worker, changed.threads) == ("gthread", 256)
    changed = load(file, {"BRIM_WORKER": "gthread"}).with_flags(worker="brim")
    assert (changed.worker, changed.threads) == ("brim", 16)
    both = load(file, {"BRIM_WORKER": "gthread", "BRIM_THREADS": "9"})
    assert (both.worker, both.threads) == ("gthread", 9)
    kept = load(write(f"[server]\nthreads = 9\n{PUPPET}"), {"BRIM_WORKER": "brim"})
    assert (kept.worker, kept.threads) == ("brim", 9)


def test_threads_follow_the_same_order(write: Write) -> None:
    file = write(f"[server]\nthreads = 2\n{PUPPET}")
    assert load(file).threads == 2
    assert load(file, {"BRIM_THREADS": "3"}).threads == 3
    assert load(file, {"BRIM_THREADS": ""}).threads == 2
    assert load(file, {"BRIM_THREADS": "3"}).with_flags(threads=4).threads == 4


def test_loading_a_config_imports_no_jax(write: Write) -> None:
    script = (
        "import sys; from app import settings; settings.load(sys.argv[1]);"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "configs/demo.toml")], cwd=ROOT, check=True
    )


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(
            f"[server]\nthread = 2\n{PUPPET}",
            "server.thread: got 2, expected a known key, one of bind, worker, workers, "
            "threads, keepalive_s, graceful_timeout_s, log_level, cors_origins; "
            "did you mean threads?",
            id="an unknown key of the server",
        ),
        pytest.param(
            f"{PUPPET}row = [1]\n",
            f"models[0].row: got [1], expected a known key, one of {NO_MODEL_KEYS}; "
            "did you mean rows?",
            id="an unknown key of a model",
        ),
        pytest.param(
            f"{PUPPET}zzz = 1\n",
            f"models[0].zzz: got 1, expected a known key, one of {NO_MODEL_KEYS}",
            id="an unknown key with no similar one",
        ),
        pytest.param(
            f"[sever]\n{PUPPET}",
            "sever: got {}, expected a known key, one of models, server, limits; "
            "did you mean server?",
            id="an unknown table",
        ),
        pytest.param(
            f'[server]\nthreads = "8"\n{PUPPET}',
            "server.threads: got '8', expected int",
            id="a number as text",
        ),
        pytest.param(
            f"[server]\nthreads = true\n{PUPPET}",
            "server.threads: got True, expected int",
            id="true is not a number",
        ),
        pytest.param(
            f"{PUPPET}rows = [1, 2.5]\n",
            "models[0].rows[1]: got 2.5, expected int",
            id="half a row",
        ),
        pytest.param(
            f"{PUPPET}rows = 3\n",
            "models[0].rows: got 3, expected array",
            id="a bucket that is no list",
        ),
        pytest.param(
            f"{PUPPET}required = 1\n",
            "models[0].required: got 1, expected bool",
            id="1 is not true",
        ),
        pytest.param(
            f"{PUPPET}options = 1\n", "models[0].options: got 1, expected object", id="no table"
        ),
        pytest.param(
            f"server = 3\n{PUPPET}",
            "server: got 3, expected object",
            id="a server that is no table",
        ),
        pytest.param(
            '[models]\nname = "p"\n',
            "models: got {'name': 'p'}, expected array",
            id="one pair of brackets too few",
        ),
        pytest.param(
            f'[server]\nworker = "sync"\n{PUPPET}',
            "server.worker: got 'sync', expected one of brim, gthread",
            id="an unknown worker",
        ),
        pytest.param(
            f"[server]\nthreads = 0\n{PUPPET}",
            "server.threads: got 0, expected int >= 2",
            id="no thread to serve",
        ),
        pytest.param(
            f"[limits]\nmax_bytes_in_flight = 1000000\n{PUPPET}",
            "limits.max_bytes_in_flight: got 1000000, "
            "expected at least 20372334: "
            "max_body_bytes + max_decompressed_bytes, and 1/7 more for small bodies",
            id="no room for one body",
        ),
        *(
            pytest.param(
                f'[server]\nworker = "gthread"\n[limits]\n{key} = 2000\n{PUPPET}',
                f"limits.{key}: got 2000, expected no such key: "
                "the worker gthread cannot honour it, brim can",
                id=f"{key} under gthread",
            )
            for key in BRIM_ONLY
        ),
        pytest.param(
            f"[limits]\nmax_body_bytes = 0\n{PUPPET}",
            "limits.max_body_bytes: got 0, expected int >= 1",
            id="no body fits",
        ),
        pytest.param(
            f"[server]\nkeepalive_s = -1\n{PUPPET}",
            "server.keepalive_s: got -1, expected int >= 0",
            id="a negative time of the server",
        ),
        pytest.param(
            f"[server]\nkeepalive_s = nan\n{PUPPET}",
            "server.keepalive_s: got nan, expected int",
            id="not a time",
        ),
        pytest.param(
            f"[server]\ngraceful_timeout_s = inf\n{PUPPET}",
            "server.graceful_timeout_s: got inf, expected int",
            id="an endless time",
        ),
        pytest.param(
            f'[server]\nbind = "nope"\n{PUPPET}',
            "server.bind: got 'nope', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
            id="no port",
        ),
        pytest.param(
            f'[server]\nbind = "a:65536"\n{PUPPET}',
            "server.bind: got 'a:65536', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
            id="no such port",
        ),
        pytest.param(
            f'[server]\nbind = "a:-1"\n{PUPPET}',
            "server.bind: got 'a:-1', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
            id="a negative port",
        ),
        pytest.param(
            f'[server]\nlog_level = "loud"\n{PUPPET}',
            "server.log_level: got 'loud', expected one of debug, info, warning, error",
            id="an unknown log level",
        ),
        pytest.param("", "models: got None, expected a value; the key is missing", id="empty file"),
        pytest.param("models = []\n", "models: got [], expected at least one [[models]]", id="[]"),
        pytest.param(
            '[[models]]\nfamily = "digits"\n',
            "models[0].name: got None, expected a value; the key is missing",
            id="a model without a name",
        ),
        pytest.param(
            '[[models]]\nname = "a/b"\nfactory = "a:b"\n',
            "models[0].name: got 'a/b', expected letters, digits, dots, dashes and underscores",
            id="a name that does not fit a URL",
        ),
        pytest.param(
            PUPPET + PUPPET,
            "models[1].name: got 'p', expected a name that no other model has",
            id="a name twice",
        ),
        pytest.param(
            '[[models]]\nname = "p"\n',
            "models[0].family: got {'family': None, 'factory': None}, "
            "expected exactly one of family and factory",
            id="neither family nor factory",
        ),
        pytest.param(
            f'{PUPPET}family = "digits"\n',
            "models[0].family: got {'family': 'digits', 'factory': 'engine.testing:puppet_model'}, "
            "expected exactly one of family and factory",
            id="both family and factory",
        ),
        pytest.param(
            f'{PUPPET}path = "w"\n',
            "models[0].path: got 'w', expected no path beside a factory; put it into options",
            id="a factory with a path",
        ),
        pytest.param(
            f'{PUPPET}sha256 = "{"0" * 64}"\n',
            f"models[0].sha256: got '{'0' * 64}', expected no sha256 beside a factory",
            id="a factory with a checksum",
        ),
        pytest.param(
            '[[models]]\nname = "d"\nfamily = "digitz"\npath = "w"\n',
            "models[0].family: got 'digitz', expected one of bert-embedding, digits",
            id="an unknown family",
        ),
        pytest.param(
            '[[models]]\nname = "d"\nfamily = "digitz"\npath = "w"\nrequired = false\n',
            "models[0].family: got 'digitz', expected one of bert-embedding, digits",
            id="an unknown family, required or not",
        ),
        pytest.param(
            DIGITS,
            "models[0].path: got None, expected where the weights of family 'digits' are",
            id="a family without a path",
        ),
        pytest.param(
            f'{DIGITS}path = "gone"\n',
            "models[0].path: got 'gone', "
            "expected an existing file or directory; {directory}/gone is not there",
            id="weights that are not there",
        ),
        pytest.param(
            f'{DIGITS}path = "package:no_such_package/model"\n',
            "models[0].path: got 'package:no_such_package/model', "
            "expected an installed package 'no_such_package'",
            id="a package that is not installed",
        ),
        pytest.param(
            f'{DIGITS}path = "w"\nsha256 = "ABC"\n',
            "models[0].sha256: got 'ABC', expected 64 hexadecimal digits in lower case",
            id="a malformed checksum",
        ),
        pytest.param(
            '[[models]]\nname = "p"\nfactory = "nocolon"\n',
            "models[0].factory: got 'nocolon', expected 'package.module:function'",
            id="a factory without a function",
        ),
        pytest.param(
            '[[models]]\nname = "p"\nfactory = "no_such_module:f"\n',
            "models[0].factory: got 'no_such_module:f', "
            "expected a module 'no_such_module' that can be imported",
            id="a factory in a missing module",
        ),
        pytest.param(
            f"{PUPPET}rows = [2, 1]\n",
            "models[0].rows: got [2, 1], expected whole numbers from 1 up, strictly increasing",
            id="buckets out of order",
        ),
        pytest.param(
            f"{PUPPET}lengths = [0]\n",
            "models[0].lengths: got [0], expected whole numbers from 1 up, strictly increasing",
            id="a bucket without length",
        ),
        pytest.param(
            f"{PUPPET}rows = []\n",
            "models[0].rows: got [], expected at least one bucket size",
            id="no bucket",
        ),
        pytest.param(
            f"{PUPPET}max_wait_ms = -1\n",
            "models[0].max_wait_ms: got -1.0, expected 0 or more milliseconds",
            id="a negative time",
        ),
        pytest.param(
            f"{PUPPET}weight = 0\n",
            "models[0].weight: got 0.0, expected more than 0",
            id="no weight at all",
        ),
        pytest.param(
            f"{PUPPET}timeout_ms = 0\n",
            "models[0].timeout_ms: got 0.0, expected more than 0 milliseconds",
            id="no time to respond",
        ),
        pytest.param(
            f"{PUPPET}slo_ms = inf\n",
            "models[0].slo_ms: got inf, expected more than 0 milliseconds",
            id="no objective",
        ),
        pytest.param(
            f"{PUPPET}tolerance = -0.1\n",
            "models[0].tolerance: got -0.1, expected 0 or more",
            id="a negative tolerance",
        ),
        pytest.param(
            f"{PUPPET}max_queue_rows = 0\n",
            "models[0].max_queue_rows: got 0, expected a whole number from 1 up",
            id="no queue",
        ),
        pytest.param(
            f"{PUPPET}max_request_rows = 0\n",
            "models[0].max_request_rows: got 0, expected a whole number from 1 up",
            id="no rows in a request",
        ),
        pytest.param(
            f"{PUPPET}in_flight = 0\n",
            "models[0].in_flight: got 0, expected a whole number from 1 up",
            id="no batch may run",
        ),
        pytest.param(
            f"{PUPPET}compile_threads = 0\n",
            "models[0].compile_threads: got 0, expected a whole number from 1 up",
            id="no thread to compile",
        ),
    ],
)
def test_a_wrong_config_is_reported_in_one_line_with_file_key_value_and_what_is_allowed(
    write: Write, text: str, line: str
) -> None:
    file = write(text)
    assert refusal(file) == f"{file}: {line.replace('{directory}', str(file.parent))}"


def test_weights_with_another_checksum_are_reported_with_both_checksums(write: Write) -> None:
    file = write(f'{DIGITS}path = "w"\nsha256 = "{"0" * 64}"\n')
    weights = file.parent / "w"
    weights.write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert refusal(file) == (
        f"{file}: models[0].sha256: got '{'0' * 64}', expected {empty}, which is that of {weights}"
    )


def test_a_file_that_is_not_toml_is_reported_with_the_place(write: Write) -> None:
    file = write("[[models]\n")
    assert refusal(file) == (
        f"{file}: got 'brim.toml', expected TOML: "
        "Expected ']]' at the end of an array declaration (at line 1, column 9)"
    )


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "brim.toml"
    file.write_bytes(b"\xff\xfe")
    assert refusal(file).startswith(f"{file}: got 'brim.toml', expected TOML: 'utf-8' codec")


def test_a_missing_file_is_reported_with_the_systems_reason(tmp_path: Path) -> None:
    gone = tmp_path / "gone.toml"
    assert refusal(gone) == f"got '{gone}', expected a readable file: No such file or directory"
    assert refusal(tmp_path) == f"got '{tmp_path}', expected a readable file: Is a directory"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"BRIM_BIND": "nope"},
            "BRIM_BIND: got 'nope', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
        ),
        ({"BRIM_THREADS": "many"}, f"BRIM_THREADS: got 'many', expected {THREADS_ALLOWED}"),
        ({"BRIM_THREADS": "0"}, f"BRIM_THREADS: got 0, expected {THREADS_ALLOWED}"),
        ({"BRIM_THREADS": "-1"}, f"BRIM_THREADS: got '-1', expected {THREADS_ALLOWED}"),
        ({"BRIM_WORKERS": "0"}, f"BRIM_WORKERS: got '0', expected {WORKERS_ALLOWED}"),
        ({"BRIM_WORKERS": "all"}, f"BRIM_WORKERS: got 'all', expected {WORKERS_ALLOWED}"),
    ],
    ids=["bind", "threads", "no threads", "negative threads", "no workers", "workers"],
)
def test_a_wrong_variable_is_reported_under_its_own_name(
    write: Write, environment: dict[str, str], line: str
) -> None:
    assert refusal(write(PUPPET), environment) == line


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"bind": "nope"},
            "--bind: got 'nope', expected HOST:PORT or unix:PATH, as in 127.0.0.1:8000",
        ),
        ({"threads": 0}, f"--threads: got 0, expected {THREADS_ALLOWED}"),
        ({"bind": "unix:"}, f"--bind: got 'unix:', expected {ADDRESS_ALLOWED}"),
        ({"worker": "sync"}, "--worker: got 'sync', expected one of brim, gthread"),
        ({"workers": "257"}, f"--workers: got '257', expected {WORKERS_ALLOWED}"),
    ],
    ids=["bind", "threads", "a file without a name", "worker", "workers"],
)
def test_a_wrong_flag_is_reported_under_its_own_name(
    write: Write, flags: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(write(PUPPET)).with_flags(**flags)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("file", "environment", "flag", "workers"),
    [
        (None, None, None, "auto"),
        ('"auto"', None, None, "auto"),
        ("3", None, None, 3),
        ("3", "4", None, 4),
        ("3", "4", "5", 5),
        ("3", "4", "auto", "auto"),
        ("3", "", None, 3),
    ],
)
def test_the_number_of_workers_is_the_one_said_last(
    write: Write, file: str | None, environment: str | None, flag: str | None, workers: object
) -> None:
    line = f"workers = {file}" if file else ""
    variables = {"BRIM_WORKERS": environment} if environment is not None else {}
    settings = load(write(f"[server]\n{line}\n{PUPPET}"), variables)
    assert settings.with_flags(workers=flag).workers == workers


KEYS = st.sampled_from(["models", "server", "bind", "threads", "name", "rows", "family", "x"])
VALUES = st.sampled_from(["1", "-1", "true", "'a'", "[1]", "{}", "nan", "[{}]", "[{name='p'}]"])


@given(st.lists(st.sampled_from(["[server]", "[[models]]", "[models]"]) | st.tuples(KEYS, VALUES)))
def test_any_file_loads_or_is_reported_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str | tuple[str, str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    text = "\n".join(line if isinstance(line, str) else " = ".join(line) for line in lines)
    file.write_text(text)
    line = f"{file}: it loads"
    try:
        load(file)
    except ConfigError as error:
        line = str(error)
    assert line.startswith(f"{file}: ")
    assert "\n" not in line


# --- one place for each default -------------------------------------------------------------------


def test_each_default_is_defined_in_one_place() -> None:
    # a default in both the file's table and the engine's config could diverge
    for field in msgspec.structs.fields(ModelTable):
        if field.name in ModelConfig.__dataclass_fields__ and field.name != "name":
            assert field.default is msgspec.UNSET, field.name


def documented(table: str) -> dict[str, Any]:
    """Key -> default, as the README's table of this name has them."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"| `{table}` |"))
    found: dict[str, Any] = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]):
        _, keys, default, *_ = re.split(r"\s*\|\s*", line)
        found |= dict.fromkeys(re.findall("`(.+?)`", keys), _value(default.strip("`")))
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@pytest.mark.parametrize(
    ("table", "struct"), [("[server]", ServerTable), ("[[models]]", ModelTable)]
)
def test_the_readme_lists_exactly_the_keys_that_exist(
    table: str, struct: type[msgspec.Struct]
) -> None:
    assert sorted(documented(table)) == sorted(struct.__struct_fields__)


def test_the_readme_has_the_right_defaults() -> None:
    written = documented("[server]") | documented("[[models]]")
    actual = {field.name: field.default for field in msgspec.structs.fields(ServerTable)}
    actual |= {field.name: field.default for field in dataclasses.fields(ModelConfig)}
    actual |= {key: actual[f"{key[:-2]}s"] * 1e3 for key in written if key.endswith("_ms")}
    without = {key for key, default in written.items() if default in ("", "none", "required")}
    assert without == {
        "name",
        "family",
        "path",
        "sha256",
        "factory",
        "options",
        "lengths",
        "dimensions",
        "threads",
    }
    for key in written.keys() - without:
        default = actual[key]
        assert written[key] == (list(default) if isinstance(default, tuple) else default), key


@pytest.mark.parametrize("origin", ["*", "https://a.example", "http://127.0.0.1:3000", "app://x"])
def test_an_origin_is_taken(origin: str, write: Write) -> None:
    text = f'[server]\ncors_origins = ["https://first", "{origin}"]\n{PUPPET}'
    assert load(write(text)).cors_origins == ("https://first", origin)


@pytest.mark.parametrize(
    "origin", ["", "a.example", "https://", "https://a/", "https://A", "null", "https://*.a b"]
)
def test_what_a_browser_would_never_send_is_no_origin(origin: str, write: Write) -> None:
    text = f'[server]\ncors_origins = ["https://first", "{origin}"]\n{PUPPET}'
    with pytest.raises(ConfigError, match=r"server\.cors_origins\[1\]: got .*, expected SCHEME"):
        load(write(text))

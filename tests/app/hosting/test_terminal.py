"""What the terminal shows at start-up: the URL, progress, and each model's request to try."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from rich.console import Console

from app.hosting.terminal import INLINE_VALUES, StartupDisplay, example_body, greeting
from app.http.codecs import oip
from app.http.services import VERSION
from engine.models.config import ModelConfig
from engine.models.model import Model, ModelState, Prepared
from engine.models.tensors import LENGTH, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.serving.client import InProcessClient
from engine.telemetry.events import Observers
from engine.testing import (
    PUPPET_SPEC_IN,
    PuppetCompiler,
    RecordingObserver,
    puppet_config,
    puppet_model,
)
from tests.app.conftest import PATIENCE_S, settings_of

EXAMPLE = {"x": [[1.0, -1.0]]}
URL = "http://127.0.0.1:8000"
SOCKET = "curl -s --unix-socket /run/brim.sock http://localhost"


def load(config: ModelConfig) -> Model:
    if config.name == "broken":
        raise FileNotFoundError("[/tmp/weights] is empty")  # which is also markup
    return puppet_model(example=None if config.name == "plain" else EXAMPLE)


@dataclass(frozen=True)
class Shown:
    """A finished start-up and what it printed."""

    engine: InProcessClient
    display: StartupDisplay
    screen: io.StringIO

    @property
    def text(self) -> str:
        return self.screen.getvalue()

    @property
    def curls(self) -> list[str]:
        return re.findall("curl .*", self.text)


Show = Callable[..., Shown]


@pytest.fixture
def show() -> Iterator[Show]:
    """Start models with these names and record what is printed."""
    engines: list[InProcessClient] = []

    def start(
        *names: str, tty: bool = True, required: bool = True, url: str | None = None
    ) -> Shown:
        configs = [puppet_config(name=name, rows=(2, 4), required=required) for name in names]
        screen = io.StringIO()
        console = Console(
            file=screen,
            force_terminal=tty,
            width=200,
            color_system=None,
            _environ={"TERM": "xterm"},
        )
        display = StartupDisplay(settings_of(*configs), console, url)
        engine = InProcessClient(
            configs,
            display,
            load=load,
            compiler=PuppetCompiler(),
            watch_compiles=lambda _alarm: lambda: None,
        )
        engines.append(engine)
        display.attach(engine)
        engine.start()
        assert engine.wait_startup_finished(PATIENCE_S)
        return Shown(engine, display, screen)

    yield start
    for engine in engines:
        engine.close()


BODY = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,-1.0]}]}'


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        (
            URL,
            [
                f"Brim {VERSION} listens on {URL}; a page to try every route: {URL}/docs",
                f"its models load now; their progress: curl -s {URL}/readyz",
            ],
        ),
        (
            "unix:/run/brim.sock",
            [
                f"Brim {VERSION} listens on unix:/run/brim.sock",
                f"its models load now; their progress: {SOCKET}/readyz",
            ],
        ),
    ],
    ids=["http", "unix-socket"],
)
def test_the_first_lines_have_the_url_the_page_and_a_command(url: str, lines: list[str]) -> None:
    assert greeting(url) == lines


def test_progress_comes_first_and_then_that_the_server_is_ready(show: Show) -> None:
    text = show("puppet").text
    # the last state of the bar: two buckets, each compiled and verified
    assert "verified 4, " in text
    assert "4/4" in text
    assert text.index("4/4") < text.index(f"Brim is ready on {URL}")
    assert "Ctrl-C stops it." in text


def test_a_model_that_serves_has_a_request_to_copy(show: Show) -> None:
    shown = show("puppet")
    assert shown.curls == [f"curl -s {URL}/v2/models/puppet/infer -d '{BODY}'"]


def test_a_models_request_is_printed_when_it_serves_and_not_after_the_slowest(
    show: Show,
) -> None:
    text = show("a", "b").text
    steps = ["a is ready; try:", "models/a/infer", "b is ready; try:", "models/b/infer", "Brim is"]
    positions = [text.index(step) for step in steps]
    assert positions == sorted(positions)


def test_the_address_is_the_one_that_gunicorn_listens_on(show: Show) -> None:
    shown = show("puppet", url="https://[::1]:9")
    assert "Brim is ready on https://[::1]:9" in shown.text
    assert shown.curls[0].startswith("curl -s https://[::1]:9/v2/models/puppet/infer ")


def test_for_a_unix_socket_the_commands_name_its_file(show: Show) -> None:
    shown = show("puppet", url="unix:/run/brim.sock")
    assert "ready on unix:/run/brim.sock" in shown.text
    assert shown.curls[0].startswith(f"{SOCKET}/v2/models/puppet/infer ")


def test_without_an_example_the_metadata_of_the_model_is_suggested(show: Show) -> None:
    assert show("plain").curls == [f"curl -s {URL}/v2/models/plain"]


def test_the_end_of_the_start_up_comes_once_after_the_last_model(show: Show) -> None:
    shown = show("a", "broken", "b")
    shown.engine.drain()
    assert shown.text.count("Brim ") == 1
    assert shown.text.index("Brim ") > shown.text.rindex("4/4")


def test_a_failed_model_is_shown_with_its_reason_and_not_suggested(show: Show) -> None:
    shown = show("broken", "good", required=False)
    assert f"Brim is ready on {URL}" in shown.text
    assert "broken has failed: FileNotFoundError: [/tmp/weights] is empty" in shown.text
    assert not [line for line in shown.curls if "broken" in line]


def test_a_server_whose_required_model_failed_reports_not_ready(show: Show) -> None:
    shown = show("broken")
    assert f"Brim is not ready on {URL}" in shown.text
    assert shown.curls == []


def drawing() -> set[threading.Thread]:
    """The threads that draw progress bars."""
    return {thread for thread in threading.enumerate() if type(thread).__name__ == "_RefreshThread"}


def test_an_interrupted_start_prints_no_summary_and_removes_its_bars() -> None:
    configs = [puppet_config(rows=(2, 4))]
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, _environ={"TERM": "xterm"})
    display, recorder = StartupDisplay(settings_of(*configs), console), RecordingObserver()
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    engine = InProcessClient(
        configs,
        Observers([display, recorder]),
        load=load,
        compiler=compiler,
        watch_compiles=lambda _alarm: lambda: None,
    )
    before = drawing()
    display.attach(engine)
    (bars,) = drawing() - before
    engine.start()
    recorder.wait_for("state_changed")  # it compiles
    engine.drain()
    compiler.gate.release(2)
    engine.close()
    assert recorder.named("startup_finished")
    assert "Brim" not in screen.getvalue()
    bars.join(PATIENCE_S)  # rich signals the thread to end but does not join it
    assert not bars.is_alive()


def test_without_an_engine_nothing_is_printed() -> None:
    screen = io.StringIO()
    StartupDisplay(settings_of(), Console(file=screen)).startup_finished()
    assert screen.getvalue() == ""


# --- without a terminal ---------------------------------------------------------------------------


def test_without_a_terminal_there_is_one_log_line_for_each_state(
    show: Show, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "brim.app")
    shown = show("puppet", "broken", tty=False)
    assert shown.text == ""
    assert [record.message for record in caplog.records if record.name == "brim.app"] == [
        "model puppet is compiling",
        "model puppet is warming",
        f"model puppet is ready; try: curl -s {URL}/v2/models/puppet/infer -d '{BODY}'",
        "model broken is failed: FileNotFoundError: [/tmp/weights] is empty",
        f"Brim is not ready on {URL}",
    ]


def test_a_model_that_fails_later_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "brim.app")
    display = StartupDisplay(settings_of(), Console(file=io.StringIO()))
    display.compiled("puppet", Bucket(4), 0.1)
    display.state_changed("puppet", ModelState.READY, None)
    display.state_changed("puppet", ModelState.FAILED, "a thread died")
    assert [record.message for record in caplog.records] == [
        f"model puppet is ready; try: curl -s {URL}/v2/models/puppet",
        "model puppet is failed: a thread died",
    ]


# --- the example ----------------------------------------------------------------------------------


def with_preprocess(**changes: object) -> Model:
    return puppet_model(
        preprocess=lambda inputs: Prepared({"x": np.zeros((1, 2), np.float32)}),
        device_inputs=(PUPPET_SPEC_IN,),
        **changes,
    )


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(puppet_model(example=EXAMPLE), id="one row"),
        pytest.param(puppet_model(example={"x": [[1.0, 2.0], [3.0, 4.0]]}), id="two rows"),
        pytest.param(
            with_preprocess(
                inputs=(TensorSpec("text", "BYTES"),),
                example={"text": ['"full" to the brim: \\ \u00e9']},
            ),
            id="text that must be quoted",
        ),
        pytest.param(
            with_preprocess(
                inputs=(TensorSpec("ids", "INT64", (LENGTH,)), TensorSpec("n", "INT32")),
                example={"ids": [[1, 2, 3]], "n": [7]},
            ),
            id="a dynamic axis and a scalar a row",
        ),
        pytest.param(
            with_preprocess(
                inputs=(TensorSpec("image", "FP32", (8, 8)),), example={"image": [[[0] * 8] * 8]}
            ),
            id="an image",
        ),
    ],
)
def test_the_server_accepts_the_suggested_request(model: Model) -> None:
    body = example_body(model.signature)
    assert body is not None
    assert "'" not in body
    request = oip.decode(body.encode(), None, model.signature.inputs, model.signature.outputs)
    assert {name: array.tolist() for name, array in request.inputs.items()} == {
        name: [row.encode() if isinstance(row, str) else row for row in data]
        for name, data in (model.signature.example or {}).items()
    }


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(puppet_model(), id="no example"),
        pytest.param(
            puppet_model(example={"x": [[0.0, 0.0]] * (INLINE_VALUES // 2 + 1)}),
            id="too long for a line",
        ),
        pytest.param(
            with_preprocess(inputs=(TensorSpec("t", "BYTES"),), example={"t": ["it's"]}),
            id="a quote that would end the shell's string",
        ),
    ],
)
def test_a_request_that_does_not_fit_a_line_is_not_suggested(model: Model) -> None:
    assert example_body(model.signature) is None

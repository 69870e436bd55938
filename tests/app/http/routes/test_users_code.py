"""Whatever a user's code raises, its request is answered at once, and others are served."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from flask import Blueprint

from engine.models.processor import Prepared
from engine.models.tensors import Arrays, TensorSpec
from engine.testing import PUPPET_SPEC_IN, puppet_model
from tests.app.conftest import Serve, Served, error_of

OUT = (TensorSpec("y", "FP32", (2,)),)
SECRET = "/srv/secret/weights.py"
RAISED = [SystemExit(SECRET), KeyboardInterrupt(SECRET), GeneratorExit(), ValueError(SECRET)]
FAILURE = re.compile(r" \(failure [0-9a-f]{8}\); the log has request seven")


def raises(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*_arguments: Any, **_named: Any) -> NoReturn:
        raise error

    return fail


def answered(served: Served, path: str = "/v2/models/puppet/infer") -> str:
    """The error of a request to `path`, which is a 500 with its id and without any internals."""
    headers = {"X-Request-Id": "seven"}
    response = served.infer(1.0, headers=headers) if "infer" in path else None
    response = response or served.client.get(path, headers=headers)
    assert (response.status_code, response.headers["X-Request-Id"]) == (500, "seven")
    assert SECRET not in response.text
    return error_of(response)


def both_hooks(served: Serve, **hooks: Any) -> Served:
    hooks = {"device_inputs": (PUPPET_SPEC_IN,), "device_outputs": OUT} | hooks
    return served(model=lambda _config: puppet_model(**hooks))


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("hook", ["preprocess", "postprocess"])
def test_a_hook_may_raise_anything(
    serve: Serve, hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    said = [error]  # raised once: its model verifies without hooks, and then goes on

    def fail_once(arrays: Arrays) -> Any:
        if said:
            raise said.pop()
        return arrays if hook == "postprocess" else prepared(arrays)

    served = both_hooks(serve, **{hook: fail_once})
    words = answered(served)
    assert words.startswith(f"the model's {hook} failed")
    assert FAILURE.search(words)
    reference = words.split("failure ")[1][:8]
    assert f"failure {reference}: the model's {hook} failed" in caplog.text
    assert f"request seven failed: the model's {hook} failed (failure {reference})" in caplog.text
    assert type(error).__name__ in caplog.text
    assert served.infer(1.0).status_code == 200


def prepared(arrays: Arrays) -> Any:

    return Prepared(arrays)


@pytest.mark.parametrize("at", ["launch", "result"])
def test_the_words_of_a_program_that_fails_are_for_the_log(
    served: Served, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    # whatever a callback raises, JAX makes a RuntimeError of it, with the traceback as its message
    error = RuntimeError(f"Traceback (most recent call last): {SECRET}")
    setattr(served.device, f"fail_{at}", error)
    words = answered(served)
    assert words.startswith("a batch of model 'puppet' failed on the device")
    assert FAILURE.search(words)
    assert SECRET in caplog.text
    setattr(served.device, f"fail_{at}", None)
    assert served.infer(1.0).status_code == 200


class Registered:
    """Registers a view by a blueprint."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, view: Any) -> Any:
        mine = Blueprint("mine", __name__)
        mine.get("/mine")(view)
        self.app.register_blueprint(mine)


WHERE: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "a view": lambda app: app.get("/mine"),
    "before_request": lambda app: app.before_request,
    "url_value_preprocessor": lambda app: app.url_value_preprocessor,
    "an error handler": lambda app: app.errorhandler(404),
    "a view of a blueprint": Registered,
}


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", WHERE)
def test_a_view_or_a_hook_of_flask_may_raise_anything(
    serve: Serve, where: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    fail = raises(error)
    fail.__name__ = "fail"
    WHERE[where](served.app)(fail)
    path = "/mine" if "view" in where or "pre" in where else "/nowhere"
    assert answered(served, path) == "internal error; the log has request seven"
    assert "request seven failed unexpectedly" in caplog.text
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("error", RAISED[:3], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["after_request", "teardown_request"])
def test_what_flask_does_not_handle_is_an_exception_for_the_worker(
    serve: Serve, where: str, error: BaseException
) -> None:
    # the worker answers it; SystemExit itself would end a thread of other servers
    served = serve()
    getattr(served.app, where)(raises(error))
    with pytest.raises(RuntimeError, match=f"{type(error).__name__} in a view or a hook"):
        served.client.get("/healthz")

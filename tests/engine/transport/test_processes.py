"""Several processes: readiness, loss of either side, broken protocols, the end."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import types
from collections.abc import Iterator

import pytest

from engine.errors import (
    EngineLost,
    LoadError,
    ModelFailed,
    NotReady,
    QueueFull,
    ShuttingDown,
    UnknownModel,
    UnknownVersion,
)
from engine.models.config import Source
from engine.models.model import ModelState
from engine.models.processor import HostProcessor, Prepared
from engine.models.tensors import TensorSpec
from engine.serving import endpoint
from engine.testing import PUPPET_SPEC_IN, PuppetCompiler, puppet_config, puppet_model, rows, texts
from engine.transport.client import link as links
from engine.transport.client import shared_memory_client
from engine.transport.client.wakeups import Wakeups
from engine.transport.protocol import messages
from engine.transport.protocol.messages import MessageSocket
from engine.transport.protocol.rings import OUTPUTS
from engine.transport.server import engine_server, reporter
from engine.transport.server.requests import RemoteRequest
from tests.engine.transport.conftest import MakeRig
from tests.engine.transport.test_requests import error_of
from tests.shared_memory import PATIENCE_S, Rig


def accepted(rig: Rig) -> int:
    return rig.client.snapshot().models[0].activity.counts.accepted


# --- several clients ------------------------------------------------------------------------------


def test_every_client_gets_its_own_answers_from_shared_batches(rig: Rig) -> None:
    other = rig.connect()
    rig.hold()
    results = [
        (value, rig.submit(float(value), client=client))
        for value, client in enumerate([rig.client, other] * 8)
    ]
    rig.release()
    for value, result in results:
        assert result.result()["y"].tolist() == [[2 * value + 1, 1 - 2 * value]]
        result.release()
    assert accepted(rig) == 16
    assert other.snapshot().models[0].activity.counts == (
        rig.client.snapshot().models[0].activity.counts
    )


def test_a_client_that_is_gone_takes_its_requests_with_it_and_no_others(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(puppet_config(rows=(1,), in_flight=1))
    other = rig.connect()
    rig.hold()
    mine = [rig.submit(1.0)]
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    theirs = [rig.submit(float(value), client=other) for value in (2, 3)]
    mine.append(rig.submit(4.0))
    rig.until(lambda: rig.engine.status().models[0].load.queued_rows == 3)
    other.close(0.0)
    for result in theirs:
        assert type(error_of(result)) is ShuttingDown
    rig.until(lambda: rig.engine.status().models[0].load.queued_rows == 1)
    rig.release()
    assert [result.result()["y"].tolist() for result in mine] == [[[3.0, -1.0]], [[9.0, -7.0]]]
    for result in mine:
        result.release()
    assert rig.client.snapshot().models[0].activity.counts.cancelled == 2


def test_a_later_client_serves_from_its_start(rig: Rig) -> None:
    late = rig.connect(wait=False)
    assert late.ready, "`start` has waited for the offer"
    assert rig.client.ready, "all the time"
    assert rig.ask(1.0, client=late) == {"y": [[3.0, -1.0]]}


def test_ready_means_that_every_client_can_serve(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, arrived = threading.Event(), threading.Semaphore(0)
    original = shared_memory_client.interface_of

    def slow(*arguments: object) -> object:
        arrived.release()
        if threading.current_thread() is slow_one._thread:
            assert gate.wait(PATIENCE_S)
        return original(*arguments)  # type: ignore[arg-type]

    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    rig = make_rig(compiler=compiler, wait=False)
    slow_one = rig.connect(wait=False)
    rig.until(lambda: len(rig.server._offers.channels) == 2)
    monkeypatch.setattr(shared_memory_client, "interface_of", slow)
    rig.release()
    assert arrived.acquire(timeout=PATIENCE_S)
    assert arrived.acquire(timeout=PATIENCE_S)
    rig.until(lambda: rig.client.endpoint("puppet").offered is not None)
    for client in rig.clients:
        assert client.status().models[0].state is not ModelState.READY
        assert not client.ready
    with pytest.raises(NotReady):
        rig.client.endpoint("puppet").admit()
    gate.set()
    rig.until(lambda: rig.client.ready and slow_one.ready)


def test_names_and_versions_are_those_of_the_configuration(make_rig: MakeRig) -> None:
    rig = make_rig(puppet_config(name="b"), puppet_config(name="a"))
    assert rig.client.names == ("b", "a")
    assert rig.client.endpoint("a", "1").name == "a"
    with pytest.raises(UnknownModel, match="unknown model 'c'; this server has b, a"):
        rig.client.endpoint("c")
    with pytest.raises(UnknownVersion, match="no version '2'"):
        rig.client.endpoint("a", "2")
    assert rig.ask(1.0, model="a") == {"y": [[3.0, -1.0]]}


# --- an engine that cannot serve any more ends --------------------------------------------------


def test_a_thread_that_dies_ends_the_engine_with_its_reason(make_rig: MakeRig) -> None:
    """Its supervisor starts another one; a model that fails for good would stay so."""
    rig = make_rig(puppet_config(name="a", rows=(4,)), puppet_config(name="b", rows=(2,)))
    threads = rig.engine.endpoint("a")._threads
    assert threads is not None
    rig.hold()
    waiting = rig.submit(1.0, model="a")
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    threads._die(ZeroDivisionError("on purpose"))
    assert type(error_of(waiting)) is ModelFailed
    rig.thread.join(PATIENCE_S)
    assert not rig.thread.is_alive()
    reason = f"{threading.current_thread().name} died: ZeroDivisionError('on purpose')"
    assert rig.server.broken_reason == f"model a: {reason}"


def test_a_batch_that_hangs_ends_the_engine(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.hold()
    waiting = rig.submit(1.0)
    monkeypatch.setattr(reporter, "SURE_S", 0.0)
    monkeypatch.setattr(endpoint, "STALL_S", -1000.0)  # now every batch has been there for too long
    rig.thread.join(PATIENCE_S)
    assert not rig.thread.is_alive()
    assert "a batch has been on the device for" in rig.server.broken_reason
    assert type(error_of(waiting)) in (EngineLost, ShuttingDown)


def test_what_the_engine_has_answered_before_its_end_is_an_answer(make_rig: MakeRig) -> None:
    """The thread that receives messages may see the end before outcomes are taken."""
    rig = make_rig()
    rig.client.watch()  # and so no thread takes outcomes
    answered = rig.submit(1.0)
    rig.until(lambda: rig.engine.snapshot().models[0].activity.counts.succeeded == 1)
    rig.hold()
    waiting = rig.submit(2.0)
    rig.stop_engine()
    assert answered.wait(PATIENCE_S)
    assert answered.result()["y"].tolist() == [[3.0, -1.0]]
    assert type(error_of(waiting)) is EngineLost


def test_an_outcome_of_an_unknown_request_costs_no_other_its_own(rig: Rig) -> None:
    rig.hold()
    waiting = rig.submit(1.0)
    (channel,) = rig.server._offers.channels
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    taken = channel.open[waiting.number]
    assert isinstance(taken, RemoteRequest)
    with channel.lock:
        channel._put_error(taken.number, taken.place, QueueFull("on purpose", 1.0))
        channel._put_outcome(12345, OUTPUTS)
        channel._publish()
    assert type(error_of(waiting)) is QueueFull
    rig.release()
    rig.until(lambda: rig.server._offers.channels != {channel})
    rig.until(lambda: rig.client.ready)


def test_a_connection_that_fails_in_any_way_is_made_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig(connect=False)
    errors: list[Exception] = [MemoryError(), RuntimeError("unforeseen"), OSError("no descriptor")]
    real = links.MessageSocket

    def fail_at_first(sock: socket.socket) -> MessageSocket:
        if errors:
            raise errors.pop()
        return real(sock)

    monkeypatch.setattr(shared_memory_client, "MessageSocket", fail_at_first)
    rig.connect()
    assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}
    assert "the connection to the engine has failed; another one is made" in caplog.messages


# --- the engine is lost ---------------------------------------------------------------------------


def test_when_the_engine_dies_every_waiting_request_is_told_and_the_next_engine_serves(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.hold()
    waiting = [rig.submit(float(value)) for value in range(3)]
    rig.stop_engine()
    for result in waiting:
        assert result.wait(PATIENCE_S)
        error = error_of(result)
        assert type(error) is EngineLost
        assert error.retry_after_s == 1.0
    rig.until(lambda: not rig.client.ready)
    with pytest.raises(NotReady, match=r"loading: .* has ended; it is started again"):
        rig.client.endpoint("puppet").admit()
    with pytest.raises(EngineLost):
        rig.client.endpoint("puppet").submit(waiting[0].request)
    rig.compiler.executables.clear()
    rig.start_engine()
    rig.until(lambda: rig.client.ready)
    assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}
    assert "the engine's process has ended; waiting for the next one" in caplog.messages


def test_statistics_are_remembered_while_there_is_no_engine(rig: Rig) -> None:
    rig.ask(1.0)
    assert accepted(rig) == 1
    rig.stop_engine()
    rig.until(lambda: not rig.client.ready)
    snapshot = rig.client.snapshot()
    assert snapshot.models[0].activity.counts.accepted == 1
    assert snapshot.models[0].state is not ModelState.READY
    assert rig.client.endpoint("puppet").snapshot() == snapshot.models[0]
    rig.start_engine()


def test_before_the_first_engine_everything_is_zero(make_rig: MakeRig) -> None:
    rig = make_rig(connect=False)
    rig.stop_engine()
    rig.page = type(rig.page).create()
    client = rig.connect(wait=False)
    (model,) = client.snapshot().models
    assert (model.state, model.activity.counts.accepted) == (ModelState.LOADING, 0)
    assert (model.cost_table, model.memory, model.progress.buckets_total) == ((), None, 3)
    with pytest.raises(NotReady, match="loading: 0 of 3 buckets"):
        client.endpoint("puppet").admit()
    rig.start_engine()
    rig.until(lambda: client.ready)
    rig.until(lambda: client.snapshot().models[0].activity.counts.refused == 1)


def test_an_engine_that_is_silent_is_not_ready(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rig.client.ready
    monkeypatch.setattr(shared_memory_client, "SILENT_S", -1.0)
    assert not rig.client.ready
    assert rig.client.status().models[0].load.stalled_s > 0
    assert rig.client.endpoint("puppet").admit(), "its requests wait; it may only be stopped"


def test_the_page_is_written_while_nothing_happens(rig: Rig) -> None:
    before = rig.page.beaten_at
    rig.until(lambda: rig.page.beaten_at > before)
    assert reporter.IDLE_S < shared_memory_client.SILENT_S


def test_a_model_that_fails_later_is_failed_everywhere(rig: Rig) -> None:
    rig.engine.endpoint("puppet").fail("the device is gone")
    rig.until(lambda: rig.client.status().models[0].state is ModelState.FAILED)
    with pytest.raises(ModelFailed, match="the device is gone"):
        rig.client.endpoint("puppet").admit()


def test_a_reason_of_megabytes_does_not_fill_the_page(make_rig: MakeRig) -> None:
    def fail(_config: object) -> None:
        raise LoadError("x" * 1_000_000)

    rig = make_rig(load=fail, wait=False)
    rig.until(lambda: rig.client.status().models[0].state is ModelState.FAILED)
    reason = rig.client.status().models[0].reason
    assert reason is not None
    assert len(reason) == 1001


# --- hooks in the HTTP process --------------------------------------------------------------------


@pytest.fixture
def host_module() -> Iterator[types.ModuleType]:
    """A user's module of hooks."""
    module = types.ModuleType("host_of_a_test")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


HOSTED = puppet_config(source=Source(factory="engine.testing:puppet_model", options={"by": 3}))


def hosted_model(_config: object) -> object:
    return puppet_model(
        inputs=(TensorSpec("text", "BYTES"),),
        device_inputs=(PUPPET_SPEC_IN,),
        host="host_of_a_test:make",
    )


def test_hooks_that_a_host_makes_run_in_the_client(
    make_rig: MakeRig, host_module: types.ModuleType
) -> None:
    threads: list[str] = []

    def make(by: int) -> HostProcessor:
        def preprocess(inputs: object) -> Prepared:
            threads.append(threading.current_thread().name)
            return Prepared(rows(*[by * len(text) for text in inputs["text"]]))  # type: ignore[index]

        return HostProcessor(preprocess, lambda outputs: {"y": -outputs["y"]})

    host_module.make = make  # type: ignore[attr-defined]
    rig = make_rig(HOSTED, load=hosted_model)
    assert rig.ask(inputs=texts("ab")) == {"y": [[-13.0, 11.0]]}
    assert threads == [threading.current_thread().name]
    interface = rig.client.endpoint("puppet").interface
    assert (interface.hooked, interface.host) == (False, "host_of_a_test:make")


def test_a_postprocess_gets_arrays_of_its_own(
    make_rig: MakeRig, host_module: types.ModuleType
) -> None:
    kept: list[object] = []

    def make(**_options: object) -> HostProcessor:
        return HostProcessor(
            lambda inputs: Prepared(rows(*map(float, inputs["text"]))),
            lambda outputs: kept.append(outputs["y"]) or outputs,  # type: ignore[func-returns-value]
        )

    host_module.make = make  # type: ignore[attr-defined]
    rig = make_rig(HOSTED, load=hosted_model)
    for number in range(20):
        rig.ask(inputs=texts(str(number)))
    assert [array.tolist() for array in kept] == [[[2 * n + 1, 1 - 2 * n]] for n in range(20)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def make(by): raise SystemExit(3)", "SystemExit: 3"),
        ("def other(): pass", "LoadError: host: host_of_a_test has no function 'make'"),
        ("def make(by): return by", "LoadError: host_of_a_test:make returned int"),
        ("def make(): pass", "TypeError: make\\(\\) got an unexpected keyword argument 'by'"),
    ],
)
def test_a_host_that_fails_fails_its_model(
    make_rig: MakeRig, host_module: types.ModuleType, code: str, reason: str
) -> None:
    exec(code, vars(host_module))
    rig = make_rig(HOSTED, load=hosted_model, wait=False)
    rig.until(lambda: rig.client.status().models[0].state is ModelState.FAILED)
    with pytest.raises(ModelFailed, match=f"its host 'host_of_a_test:make' failed: {reason}"):
        rig.client.endpoint("puppet").admit()


def test_a_host_that_imports_jax_is_refused(
    make_rig: MakeRig, host_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "jax", raising=False)

    def make(**_options: object) -> HostProcessor:
        monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
        return HostProcessor()

    host_module.make = make  # type: ignore[attr-defined]
    rig = make_rig(HOSTED, load=hosted_model, wait=False)
    rig.until(lambda: rig.client.status().models[0].state is ModelState.FAILED)
    with pytest.raises(ModelFailed, match="imports JAX, and JAX belongs to the engine's process"):
        rig.client.endpoint("puppet").admit()


# --- broken protocols -----------------------------------------------------------------------------


def raw(rig: Rig) -> MessageSocket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(rig.listener.getsockname())
    return MessageSocket(sock)


@pytest.mark.parametrize(
    "data", [b"nonsense", messages.msgspec.msgpack.encode(messages.Accept("puppet"))]
)
def test_a_connection_without_a_hello_is_closed(rig: Rig, data: bytes) -> None:
    peer = raw(rig)
    peer.sock.send(data)
    assert peer.receive() is None
    peer.sock.close()
    assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}


def test_memory_of_another_size_is_refused(rig: Rig) -> None:
    peer = raw(rig)
    memory = links.SharedMemory.create("test", 4096)
    events = [os.eventfd(0), os.eventfd(0)]
    peer.send(messages.Hello(1, 8, 12), [memory.fd, *events])
    assert peer.receive() is None
    for fd in (memory.fd, *events):
        os.close(fd)
    peer.sock.close()


def test_another_user_cannot_connect(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_server, "same_user", lambda _sock: False)
    peer = raw(rig)
    assert peer.receive() is None
    peer.sock.close()


def broken_number(link: links.Link) -> None:
    link._writer._next += 5


def broken_model(link: links.Link) -> None:
    put = link._writer.put
    link._writer.put = lambda record: put((*record[:8], 99, *record[9:]))  # type: ignore[method-assign]


def broken_offset(link: links.Link) -> None:
    put = link._writer.put
    link._writer.put = lambda record: put((*record[:3], 1 << 40, *record[4:]))  # type: ignore[method-assign]


def broken_capacity(link: links.Link) -> None:
    put = link._writer.put
    link._writer.put = lambda record: put((*record[:7], 1, *record[8:]))  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "damage",
    [broken_number, broken_model, broken_offset, broken_capacity],
    ids=lambda f: f.__name__,
)
def test_a_client_that_breaks_the_protocol_loses_its_connection_and_no_other_does(
    rig: Rig, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "brim.engine")
    other = rig.connect()
    link = rig.client._link
    assert link is not None
    damage(link)  # type: ignore[operator]
    result = rig.submit(1.0)
    assert type(error_of(result)) is EngineLost
    assert rig.ask(2.0, client=other) == {"y": [[5.0, -3.0]]}
    rig.until(lambda: rig.client._link not in (None, link) and rig.client.ready)
    assert rig.ask(3.0) == {"y": [[7.0, -5.0]]}, "it has connected again"


# --- the end --------------------------------------------------------------------------------------


def test_a_draining_client_refuses_and_gets_what_it_waits_for(rig: Rig) -> None:
    rig.hold()
    waiting = rig.submit(1.0)
    rig.client.drain()
    assert not rig.client.ready
    with pytest.raises(ShuttingDown):
        rig.client.endpoint("puppet").admit()
    rig.release()
    rig.client.close(PATIENCE_S)
    assert waiting.result()["y"].tolist() == [[3.0, -1.0]]
    assert rig.server._end == "no"


def test_closing_answers_what_does_not_come_in_time(rig: Rig) -> None:
    rig.hold()
    waiting = rig.submit(1.0)
    rig.client.close(0.05)
    rig.client.close(0.05)
    error = error_of(waiting)
    assert (type(error), str(error)) == (ShuttingDown, "the server stopped before the answer")


def test_a_server_that_stops_answers_what_it_has_and_refuses_the_rest(rig: Rig) -> None:
    rig.hold()
    waiting = rig.submit(1.0)
    rig.until(lambda: rig.engine.status().models[0].load.batches_in_flight == 1)
    rig.server.stop()
    rig.until(lambda: rig.client.status().models[0].state is ModelState.DRAINING)
    with pytest.raises(ShuttingDown):
        rig.client.endpoint("puppet").admit()
    rig.release()
    assert waiting.result()["y"].tolist() == [[3.0, -1.0]]
    waiting.release()
    assert rig.thread.is_alive(), "until its clients have gone"
    rig.client.close()
    rig.thread.join(PATIENCE_S)
    assert not rig.thread.is_alive()


def test_a_server_that_retires_serves_its_clients_to_their_end(rig: Rig) -> None:
    rig.server.retire()
    assert rig.ask(1.0) == {"y": [[3.0, -1.0]]}
    assert rig.client.ready
    rig.client.close()
    rig.thread.join(PATIENCE_S)
    assert not rig.thread.is_alive()


def test_a_start_up_that_hangs_does_not_keep_the_server(make_rig: MakeRig) -> None:
    compiler = PuppetCompiler()
    compiler.gate = threading.Semaphore(0)
    rig = make_rig(compiler=compiler, wait=False)
    rig.until(lambda: rig.client.status().models[0].state is ModelState.COMPILING)
    rig.client.close()
    rig.server.stop()
    rig.thread.join(5.0)
    assert not rig.thread.is_alive()


def test_a_client_is_closed_once_whichever_threads_close_it() -> None:
    errors: list[BaseException] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the threads take turns between any two steps

    def close(wakeups: Wakeups, together: threading.Barrier) -> None:
        together.wait()
        try:
            wakeups.close()
        except OSError as error:
            errors.append(error)

    try:
        for _ in range(500):
            closing = Wakeups(lambda: None), threading.Barrier(2)
            threads = [threading.Thread(target=close, args=closing) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors

"""The disconnect watcher on real sockets: it reports disconnects, not data."""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from app.http.services import DisconnectWatcher
from tests.app.conftest import PATIENCE_S


@pytest.fixture
def watcher() -> Iterator[DisconnectWatcher]:
    watcher = DisconnectWatcher()
    yield watcher
    watcher.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Callback:
    """A callback that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._called = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._called.set()

    def wait(self) -> None:
        assert self._called.wait(PATIENCE_S)


def wait_for_events(watcher: DisconnectWatcher) -> None:
    """Return when the watcher has handled all events so far."""
    ours, theirs = socket.socketpair()
    seen = Callback()
    with ours:
        theirs.close()
        with watcher.watch(ours, seen):
            seen.wait()


Pair = tuple[socket.socket, socket.socket]


def test_a_disconnect_during_the_watch_is_reported(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    with watcher.watch(ours, gone):
        theirs.close()
        gone.wait()
    assert gone.calls == 1


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the client's, over TCP: only there a hang-up leaves open whether it has gone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


@pytest.mark.parametrize("before", [True, False])
def test_a_client_that_closes_its_connection_is_reported(
    watcher: DisconnectWatcher, tcp: Pair, before: bool
) -> None:
    ours, theirs = tcp
    gone = Callback()
    if before:
        theirs.close()
    with watcher.watch(ours, gone):
        theirs.close()
        gone.wait()
    assert gone.calls == 1


@pytest.mark.parametrize(
    ("protocol", "said"), [("HTTP/1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), ("HTTP/1.0", b"")]
)
def test_a_client_that_closes_its_sending_half_is_asked_and_stays(
    watcher: DisconnectWatcher, tcp: Pair, protocol: str, said: bytes
) -> None:
    ours, theirs = tcp
    gone = Callback()
    with watcher.watch(ours, gone, protocol):
        theirs.shutdown(socket.SHUT_WR)
        wait_for_events(watcher)
        wait_for_events(watcher)
    ours.sendall(b"the answer")
    ours.close()
    assert b"".join(iter(lambda: theirs.recv(100), b"")) == said + b"the answer"
    assert gone.calls == 0


def test_a_disconnect_before_the_watch_is_reported(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    theirs.close()
    with watcher.watch(ours, gone):
        gone.wait()
    assert gone.calls == 1


def test_a_disconnect_with_unread_data_is_reported(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with watcher.watch(ours, gone):
        theirs.close()
        gone.wait()


def test_a_pipelined_request_is_not_a_disconnect(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    with watcher.watch(ours, gone):
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_for_events(watcher)
    assert gone.calls == 0
    assert ours.recv(4) == b"GET "  # still unread


def test_a_disconnect_after_a_pipelined_request_is_reported(
    watcher: DisconnectWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Callback()
    with watcher.watch(ours, gone):
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_for_events(watcher)
        theirs.close()
        gone.wait()


def test_a_disconnect_after_the_watch_is_ignored(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    with watcher.watch(ours, gone):
        pass
    theirs.close()
    wait_for_events(watcher)
    assert gone.calls == 0


def test_a_connection_is_watched_again_for_its_next_request(
    watcher: DisconnectWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    first, second = Callback(), Callback()
    with watcher.watch(ours, first):
        pass
    with watcher.watch(ours, second):
        theirs.close()
        second.wait()
    assert first.calls == 0


def test_only_the_disconnected_client_is_reported(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, _theirs = pair
    stays = Callback()
    with watcher.watch(ours, stays):
        wait_for_events(watcher)
    assert stays.calls == 0


def test_a_watch_ends_when_its_request_fails(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Callback()
    with pytest.raises(ZeroDivisionError), watcher.watch(ours, gone):
        raise ZeroDivisionError
    theirs.close()
    wait_for_events(watcher)
    assert gone.calls == 0


def test_a_closed_socket_is_not_watched(watcher: DisconnectWatcher, pair: Pair) -> None:
    ours, _theirs = pair
    ours.close()
    gone = Callback()
    with watcher.watch(ours, gone):
        wait_for_events(watcher)
    assert gone.calls == 0


def test_closing_a_socket_during_its_watch_is_harmless(
    watcher: DisconnectWatcher, pair: Pair
) -> None:
    ours, _theirs = pair
    with watcher.watch(ours, Callback()):
        ours.close()
    wait_for_events(watcher)


def test_without_a_socket_nothing_is_watched(
    watcher: DisconnectWatcher,
) -> None:
    with watcher.watch(None, Callback()):
        pass


def test_close_ends_the_thread_and_is_idempotent() -> None:
    watcher = DisconnectWatcher()
    names = {thread.name for thread in threading.enumerate()}
    watcher.close()
    watcher.close()
    assert "brim-disconnects" in names
    assert "brim-disconnects" not in {thread.name for thread in threading.enumerate()}


def test_without_epoll_nothing_is_watched(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    monkeypatch.delattr(select, "epoll")
    watcher = DisconnectWatcher()
    ours, theirs = pair
    gone = Callback()
    with watcher.watch(ours, gone):
        theirs.close()
    watcher.close()
    assert gone.calls == 0


class SlowEpoll:
    """An epoll whose events arrive late, when the test sends them."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.registered: list[int] = []
        self.closed = False

    def register(self, number: int, _mask: int) -> None:
        self.registered.append(number)

    def unregister(self, number: int) -> None:
        self.registered.remove(number)

    def poll(self) -> list[tuple[int, int]]:
        return [(self.events.get(), select.EPOLLRDHUP)]

    def close(self) -> None:
        self.closed = True


def test_an_event_of_a_closed_connection_does_not_affect_a_new_one_with_its_descriptor(
    monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    slow = SlowEpoll()
    monkeypatch.setattr(select, "epoll", lambda: slow)
    watcher = DisconnectWatcher()
    (wake,) = slow.registered
    ours, theirs = pair
    innocent, leaver = Callback(), Callback()
    theirs.sendall(b"POST /v2")  # readable is not disconnected
    with watcher.watch(ours, innocent):
        slow.events.put(ours.fileno())  # for the connection that had this descriptor before
        other, gone = socket.socketpair()
        with other, watcher.watch(other, leaver):
            gone.close()
            slow.events.put(other.fileno())
            leaver.wait()
    assert innocent.calls == 0
    slow.events.put(wake)
    watcher.close()

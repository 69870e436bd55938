"""The hang-up watcher, on real sockets: a peer that leaves is noticed, one that talks is not."""

from __future__ import annotations

import queue
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from app.hangup import HangupWatcher
from tests.app.conftest import PATIENCE_S


@pytest.fixture
def watcher() -> Iterator[HangupWatcher]:
    watcher = HangupWatcher()
    yield watcher
    watcher.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Watch:
    """What is called when the peer is gone."""

    def __init__(self) -> None:
        self.calls = 0
        self._called = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self._called.set()

    def wait(self) -> None:
        assert self._called.wait(PATIENCE_S)


def let_it_run(watcher: HangupWatcher) -> None:
    """Come back when the watcher has looked at everything that has happened so far."""
    ours, theirs = socket.socketpair()
    seen = Watch()
    with ours:
        theirs.close()
        with watcher.watching(ours, seen):
            seen.wait()


Pair = tuple[socket.socket, socket.socket]


def test_a_client_that_leaves_while_it_is_watched_is_noticed(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Watch()
    with watcher.watching(ours, gone):
        theirs.close()
        gone.wait()
    assert gone.calls == 1


def test_a_client_that_left_before_the_watch_began_is_noticed_too(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Watch()
    theirs.close()
    with watcher.watching(ours, gone):
        gone.wait()
    assert gone.calls == 1


def test_a_client_that_left_data_behind_is_gone_all_the_same(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Watch()
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with watcher.watching(ours, gone):
        theirs.close()
        gone.wait()


def test_a_client_that_sends_its_next_request_early_has_not_left(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Watch()
    with watcher.watching(ours, gone):
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        let_it_run(watcher)
    assert gone.calls == 0
    assert ours.recv(4) == b"GET "  # and nobody has read it


def test_a_client_that_sends_its_next_request_and_then_leaves_is_noticed(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    gone = Watch()
    with watcher.watching(ours, gone):
        theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
        let_it_run(watcher)
        theirs.close()
        gone.wait()


def test_who_leaves_after_the_watch_is_nobodys_business(watcher: HangupWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Watch()
    with watcher.watching(ours, gone):
        pass
    theirs.close()
    let_it_run(watcher)
    assert gone.calls == 0


def test_a_connection_is_watched_anew_for_its_next_request(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, theirs = pair
    first, second = Watch(), Watch()
    with watcher.watching(ours, first):
        pass
    with watcher.watching(ours, second):
        theirs.close()
        second.wait()
    assert first.calls == 0


def test_only_the_client_that_left_is_told_of(watcher: HangupWatcher, pair: Pair) -> None:
    ours, _theirs = pair
    stays = Watch()
    with watcher.watching(ours, stays):
        let_it_run(watcher)
    assert stays.calls == 0


def test_a_watch_ends_also_when_its_request_failed(watcher: HangupWatcher, pair: Pair) -> None:
    ours, theirs = pair
    gone = Watch()
    with pytest.raises(ZeroDivisionError), watcher.watching(ours, gone):
        raise ZeroDivisionError
    theirs.close()
    let_it_run(watcher)
    assert gone.calls == 0


def test_a_socket_that_is_closed_already_is_not_watched(watcher: HangupWatcher, pair: Pair) -> None:
    ours, _theirs = pair
    ours.close()
    gone = Watch()
    with watcher.watching(ours, gone):
        let_it_run(watcher)
    assert gone.calls == 0


def test_a_socket_that_closes_while_it_is_watched_hurts_nobody(
    watcher: HangupWatcher, pair: Pair
) -> None:
    ours, _theirs = pair
    with watcher.watching(ours, Watch()):
        ours.close()
    let_it_run(watcher)


def test_a_server_that_gives_no_socket_is_served_without_a_watch(watcher: HangupWatcher) -> None:
    with watcher.watching(None, Watch()):
        pass


def test_close_ends_the_thread_and_may_be_called_again() -> None:
    watcher = HangupWatcher()
    names = {thread.name for thread in threading.enumerate()}
    watcher.close()
    watcher.close()
    assert "brim-hangup" in names
    assert "brim-hangup" not in {thread.name for thread in threading.enumerate()}


def test_where_there_is_no_epoll_nobody_is_watched(
    monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    monkeypatch.delattr(select, "epoll")
    watcher = HangupWatcher()
    ours, theirs = pair
    gone = Watch()
    with watcher.watching(ours, gone):
        theirs.close()
    watcher.close()
    assert gone.calls == 0


class SlowEpoll:
    """An epoll whose events arrive when the test says so, however late."""

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


def test_an_event_of_a_closed_connection_does_not_hit_the_one_that_got_its_number(
    monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    slow = SlowEpoll()
    monkeypatch.setattr(select, "epoll", lambda: slow)
    watcher = HangupWatcher()
    (wake,) = slow.registered
    ours, theirs = pair
    innocent, leaver = Watch(), Watch()
    theirs.sendall(b"POST /v2")  # being readable is not being gone
    with watcher.watching(ours, innocent):
        slow.events.put(ours.fileno())  # about the connection that had this number before
        other, gone = socket.socketpair()
        with other, watcher.watching(other, leaver):
            gone.close()
            slow.events.put(other.fileno())
            leaver.wait()
    assert innocent.calls == 0
    slow.events.put(wake)
    watcher.close()

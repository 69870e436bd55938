"""Messages and descriptors on a Unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from engine.models.processor import HostProcessor
from engine.models.signature import Signature
from engine.models.tensors import LENGTH, TensorSpec
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import CostTable
from engine.serving.version import ModelInterface
from engine.transport.protocol import messages
from engine.transport.protocol.memory import SharedMemory
from engine.transport.protocol.messages import Answer, Message, MessageSocket, Offer, Withdraw

Pair = tuple[MessageSocket, MessageSocket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield MessageSocket(left), MessageSocket(right)
    left.close()
    right.close()


@pytest.mark.parametrize(
    "message",
    [
        messages.Hello(1, 2, 3),
        Withdraw([1, 2], [3]),
        messages.Refused("m", 4, 5),
        messages.Parcel(6, 7),
        messages.Ask(8),
        messages.Accept("m", "why not"),
        Answer(1, b"content"),
        pytest.param(Answer(1, b"x" * 1_000_000), id="a long answer"),
        pytest.param(Withdraw(list(range(100_000))), id="a long list"),
    ],
)
def test_a_message_comes_as_it_was_sent(pair: Pair, message: Message) -> None:
    pair[0].send(message)
    assert pair[1].receive() == (message, [])


def test_descriptors_come_with_their_message(pair: Pair) -> None:
    memory = SharedMemory.create("test", 4096)
    memory.map[:3] = b"abc"
    pair[0].send(messages.Parcel(1))
    pair[0].send(messages.Parcel(2), [memory.fd])
    assert pair[1].receive() == (messages.Parcel(1), [])
    received = pair[1].receive()
    assert received is not None
    message, (fd,) = received
    assert message == messages.Parcel(2)
    assert SharedMemory(fd).map[:3] == b"abc"
    assert not os.get_inheritable(fd)
    os.close(fd)
    memory.close_fd()


def test_the_end_is_none_and_sending_to_it_an_error(pair: Pair) -> None:
    pair[0].sock.close()
    assert pair[1].receive() is None
    with pytest.raises(BrokenPipeError):
        pair[1].send(messages.Parcel(1))


def test_sending_never_waits_for_the_reader(pair: Pair) -> None:
    def send_many() -> None:
        for number in range(10_000):
            pair[0].send(messages.Parcel(number))

    with pytest.raises(BlockingIOError):
        send_many()


@pytest.mark.parametrize("data", [b"\xc1", b"\x93\x01\x02\x03", b"{}"])
def test_anything_else_is_no_message(pair: Pair, data: bytes) -> None:
    pair[0].sock.send(data)
    with pytest.raises(msgspec.DecodeError):
        pair[1].receive()


def test_a_process_of_this_user_is_recognised(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert messages.same_user(pair[0].sock)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not messages.same_user(pair[0].sock)


def test_the_address_has_no_file() -> None:
    with messages.listen() as listener:
        assert listener.getsockname().startswith(b"\0")


IDS = TensorSpec("ids", "INT64", (LENGTH,), pad=7, nonfinite=True, normalized=True)
MORE = TensorSpec("more", "FP32")
TEXT = TensorSpec("text", "BYTES", (2, 3))
RANGES = (
    TensorSpec("count", "UINT64", low=1, high=2**32 - 1),
    TensorSpec("share", "FP32", low=0.25),
    TensorSpec("code", "INT8", high=7),
)
COSTS = CostTable({Bucket(2, 4): 0.5}).lines()


@pytest.mark.parametrize(
    ("processor", "host", "hooked"),
    [
        (HostProcessor(), "", False),
        (HostProcessor(preprocess=lambda _inputs: 1 / 0), "", True),  # type: ignore[arg-type, return-value]
        (HostProcessor(postprocess=lambda outputs: outputs), "", True),
        (HostProcessor(postprocess=lambda outputs: outputs), "module:make", False),
    ],
)
def test_an_offer_has_the_signature_and_says_where_hooks_run(
    pair: Pair, processor: HostProcessor, host: str, hooked: bool
) -> None:
    signature = Signature(
        (TEXT, *RANGES),
        (IDS,),
        (IDS, *RANGES),
        (IDS, MORE),
        9,
        {"text": [["a", 1]]},
        "other",
        {"a": "b"},
    )
    pair[0].send(Offer.of("m", ModelInterface("1", signature, processor, host), COSTS))
    received = pair[1].receive()
    assert received is not None
    offer = received[0]
    assert isinstance(offer, Offer)
    assert offer.signature() == signature
    assert offer.cost_table().lines() == CostTable({Bucket(2, 4): 0.5}).lines()
    assert (offer.host, offer.hooked) == (host, hooked)

"""What is rare travels as messages on a Unix socket, with file descriptors beside them.

The socket keeps the boundaries of messages (SOCK_SEQPACKET). Long messages travel as shared memory
whose descriptor is sent. Its address is chosen by the kernel and has no file, so nothing is left
behind; that another user cannot connect, `same_user` checks.
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from engine.models.signature import Signature
from engine.models.tensors import TensorSpec
from engine.scheduling.buckets import Bucket
from engine.scheduling.costs.cost_table import Cost, CostTable
from engine.serving.version import ModelInterface
from engine.transport.protocol.memory import SharedMemory

LONGEST: Final = 64 * 1024
"""Bytes of a message that is sent as it is."""
MAX_FDS: Final = 4
_BESIDE: Final = socket.CMSG_LEN(MAX_FDS * array("i").itemsize)
_CREDENTIALS: Final = struct.Struct("3i")


class Hello(msgspec.Struct, tag=True):
    """To the engine, first: with the descriptors of memory, requests' eventfd, outcomes' eventfd.

    The memory has the two rings of `records` records each, then the slab of `2**order` bytes.
    """

    pid: int
    records: int
    order: int


class Withdraw(msgspec.Struct, tag=True):
    """To the engine: the clients of these requests have disconnected, or their deadlines passed."""

    cancelled: list[int] = []
    expired: list[int] = []


class Refused(msgspec.Struct, tag=True):
    """To the engine: so many requests were refused, with the error of this number, elsewhere."""

    model: str
    error: int
    count: int


class Parcel(msgspec.Struct, tag=True):
    """In both directions, with the descriptor of the memory: the block of this request, which is
    too large for the slab; or its packed outputs, `size` bytes of them.
    """

    request: int
    size: int = 0


class Ask(msgspec.Struct, tag=True):
    """To the engine: answer with `Answer` of the same number, an encoded `EngineSnapshot`."""

    number: int


class Answer(msgspec.Struct, tag=True):
    """To the HTTP process: what it asked for."""

    number: int
    content: bytes


class Spec(msgspec.Struct, array_like=True):
    """A `TensorSpec`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    pad: float
    nonfinite: bool
    normalized: bool
    low: int | float | None
    high: int | float | None

    @classmethod
    def of(cls, spec: TensorSpec) -> Spec:
        """Its plain data."""
        flags, ends = (spec.nonfinite, spec.normalized), (spec.low, spec.high)
        return cls(spec.name, spec.datatype, spec.shape, float(spec.pad), *flags, *ends)

    def spec(self) -> TensorSpec:
        """The spec itself."""
        return TensorSpec(*msgspec.structs.astuple(self))


class Offer(msgspec.Struct, tag=True):
    """To the HTTP process: a version that serves; answered by `Accept`.

    costs     rows, length and seconds of every bucket
    specs     inputs, outputs, device inputs, device outputs
    host      `module:function` that makes its hooks, or ""
    hooked    it has hooks that only the engine's process can run
    """

    model: str
    version: str
    costs: tuple[tuple[int, int | None, float], ...]
    specs: tuple[tuple[Spec, ...], ...]
    max_length: int | None
    example: dict[str, Any] | None
    platform: str
    properties: dict[str, str]
    host: str
    hooked: bool

    @classmethod
    def of(cls, model: str, interface: ModelInterface, costs: Sequence[Cost]) -> Offer:
        """What HTTP processes need of a version."""
        signature, processor = interface.signature, interface.processor
        local = not interface.host
        return cls(
            model,
            interface.version,
            tuple((cost.rows, cost.length, float(cost.measured_s)) for cost in costs),
            tuple(tuple(map(Spec.of, specs)) for specs in _specs(signature)),
            signature.max_length,
            None if signature.example is None else dict(signature.example),
            signature.platform,
            dict(signature.properties),
            interface.host,
            hooked=local and (processor.preprocess or processor.postprocess) is not None,
        )

    def cost_table(self) -> CostTable:
        """The costs."""
        return CostTable({Bucket(rows, length): s for rows, length, s in self.costs})

    def signature(self) -> Signature:
        """The signature."""
        inputs, outputs, device_inputs, device_outputs = (
            tuple(one.spec() for one in specs) for specs in self.specs
        )
        return Signature(
            inputs,
            outputs,
            device_inputs,
            device_outputs,
            self.max_length,
            self.example,
            self.platform,
            self.properties,
        )


def _specs(signature: Signature) -> tuple[tuple[TensorSpec, ...], ...]:
    return (
        signature.inputs,
        signature.outputs,
        signature.device_inputs,
        signature.device_outputs,
    )


class Accept(msgspec.Struct, tag=True):
    """To the engine: requests for this model may come here; or why not."""

    model: str
    error: str = ""


class _Long(msgspec.Struct, tag=True):
    """The message itself is in the memory whose descriptor comes last."""

    size: int


Message: TypeAlias = Hello | Withdraw | Refused | Parcel | Ask | Accept | Offer | Answer | _Long

_DECODER: Final = msgspec.msgpack.Decoder(Message)


def same_user(sock: socket.socket) -> bool:
    """Whether the other end belongs to a process of this user."""
    size = _CREDENTIALS.size
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid) == os.geteuid()


def listen() -> socket.socket:
    """A socket at an address that the kernel chooses; it has no file."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")
    listener.listen(socket.SOMAXCONN)
    return listener


class MessageSocket:
    """Sends and receives messages. `send` never blocks; `receive` blocks if the socket does."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send at once, or raise BlockingIOError: the other process does not read. OSError if it is
        gone.
        """
        data = msgspec.msgpack.encode(message)
        if len(data) <= LONGEST:
            # `send_fds` and `recv_fds` of Python 3.11 ignore their flags
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self.sock.sendmsg([data], beside, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return
        memory = SharedMemory.create("message", len(data))
        memory.map[:] = data
        try:
            self.send(_Long(len(data)), [*fds, memory.fd])
        finally:
            memory.close_fd()

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors; None when the other end is closed.

        Raises `msgspec.DecodeError` for anything else than a message.
        """
        data, beside, _, _ = self.sock.recvmsg(LONGEST + 1024, _BESIDE, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        fds = [fd for _, _, block in beside for fd in array("i", block)]
        message = _DECODER.decode(data)
        if isinstance(message, _Long):
            memory = SharedMemory(fds.pop())
            memory.close_fd()
            message = _DECODER.decode(memory.map[: message.size])
        return message, fds

"""A proxy before PostgreSQL that loses a connection at a chosen message, such as the answer to a COMMIT.

It reads just enough of the protocol (PostgreSQL documentation, "Frontend/Backend Protocol"): a start-up message is a
length and a code, every later message a type byte, a length that counts itself, and a body.
"""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Literal, Self
from urllib.parse import urlsplit

SSL_REQUEST, GSS_REQUEST = 80877103, 80877104
PASSWORD, TERMINATE, READY = b"p", b"X", b"Z"
ENDS_WITHIN = 10.0

Moment = Literal["before", "after"]


@dataclass
class _Cut:
    match: bytes
    moment: Moment
    skip: int
    count: int


class _Line:
    """One client's connection and the one to the server that stands for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.withhold = threading.Event()

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):  # the other thread may have closed it, or the peer
                end.shutdown(socket.SHUT_RDWR)


class CuttingProxy:
    """Listens on `port` of 127.0.0.1 and forwards to a server, until a message that is to be cut comes by.

    `messages` counts what clients sent to be worked on, over all connections; logging in and out is not counted.
    `cuts` counts the connections that were cut.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.messages = 0
        self.cuts = 0
        self._nth: int | None = None
        self._plans: list[_Cut] = []
        self._lines: list[_Line] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            lines, threads = list(self._lines), list(self._threads)
        for line in lines:
            line.close()
        for thread in threads:
            thread.join(ENDS_WITHIN)

    def url(self, url: str) -> str:
        """The same database by way of the proxy, unencrypted."""
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        return f"postgresql://{login}@127.0.0.1:{self.port}{parts.path}?sslmode=disable&gssencmode=disable"

    def cut(self, match: bytes, moment: Moment, count: int = 1, skip: int = 0) -> None:
        """Lose the connection at a message that holds `match`.

        Args:
            match: bytes of the message's body, such as b"COMMIT".
            moment: "before" loses the message; "after" has the server work on it, and loses the answer.
            count: how many matching messages are cut.
            skip: how many matching messages pass first.
        """
        with self._lock:
            self._plans.append(_Cut(match, moment, skip, count))

    def cut_nth(self, n: int) -> None:
        """Lose the connection before the n-th message from now, n ≥ 1."""
        if n < 1:
            raise ValueError(f"n = {n}: the first message from now is 1")
        with self._lock:
            self._nth = self.messages + n

    def spare(self) -> None:
        """Forget every cut that was planned and has not happened."""
        with self._lock:
            self._plans.clear()
            self._nth = None

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="cutting-proxy")
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the proxy is closed
                return
            try:
                server = socket.create_connection(self.target, timeout=ENDS_WITHIN)
            except OSError:  # no server, so no answer
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line(client, server)
            with self._lock:
                self._lines.append(line)
            self._spawn(self._carry, line, self._forward)
            self._spawn(self._carry, line, self._answer)

    def _carry(self, line: _Line, carry: Callable[[_Line], None]) -> None:
        """Carry one direction until either end is gone; then neither is of use."""
        try:
            with suppress(OSError):
                carry(line)
        finally:
            line.close()

    def _forward(self, line: _Line) -> None:
        with line.client, line.client.makefile("rb") as sent:
            while (first := _start_up(sent)) is not None:
                if first.encryption:
                    line.client.sendall(b"N")  # not spoken here: the client goes on in the clear
                    continue
                line.server.sendall(first.raw)
                break
            while (message := _message(sent)) is not None:
                kind, raw = message
                moment = self._moment(raw[5:]) if kind not in (PASSWORD, TERMINATE) else None
                if moment == "before":
                    return
                if moment == "after":
                    line.withhold.set()
                line.server.sendall(raw)

    def _answer(self, line: _Line) -> None:
        with line.server, line.server.makefile("rb") as answered:
            while (message := _message(answered)) is not None:
                kind, raw = message
                if not line.withhold.is_set():
                    line.client.sendall(raw)
                elif kind == READY:
                    return

    def _moment(self, body: bytes) -> Moment | None:
        """Count a message, and say whether its connection is to be lost."""
        with self._lock:
            self.messages += 1
            moment: Moment | None = None
            if self._nth == self.messages:
                self._nth, moment = None, "before"
            else:
                moment = self._planned(body)
            self.cuts += moment is not None
            return moment

    def _planned(self, body: bytes) -> Moment | None:
        for plan in self._plans:
            if plan.match in body and plan.count:
                if plan.skip:
                    plan.skip -= 1
                    continue
                plan.count -= 1
                return plan.moment
        return None


@dataclass(frozen=True)
class _StartUp:
    raw: bytes
    encryption: bool


def _start_up(sent: BinaryIO) -> _StartUp | None:
    head = sent.read(8)
    if len(head) < 8:
        return None
    length, code = struct.unpack("!ii", head)
    return _StartUp(head + sent.read(length - 8), code in (SSL_REQUEST, GSS_REQUEST))


def _message(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next message's type and all its bytes; None at the end of the stream, or of a message cut short."""
    head = stream.read(5)
    if len(head) < 5:
        return None
    length = struct.unpack("!i", head[1:])[0] - 4
    body = stream.read(length)
    return (head[:1], head + body) if len(body) == length else None

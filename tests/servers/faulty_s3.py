"""A proxy before an S3 server that spoils the requests a test names, in the ways that networks and services do."""

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal[
    *("500", "503", "429", "409", "412", "expired-400", "expired-403", "error-in-200"),
    *("lost", "cut", "silent", "unanswered", "trickle", "reset", "short", "smaller", "empty", "passed"),
]
"""What happens to a request.

An HTTP status, or `error-in-200`: the proxy answers by itself. Others:

- lost: the server does the work; the connection is closed without its answer.
- cut: the server gets half of the request's body, and nothing of a request without one.
- silent: the server gets nothing, and no answer comes. unanswered: the server does the work, and no answer comes.
- trickle: the answer comes in pieces with pauses between.
- reset: the connection is reset; the server gets nothing.
- short: the connection is closed in the middle of the answer, whose headers promise all of it.
- smaller: half of the body comes, with a Content-Length to fit, as from a cache that is at fault. empty: none of it.
- passed: nothing; with `first`, a moment to do something else.
"""

_ANSWERS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "409": (409, "ConditionalRequestConflict"),
    "412": (412, "PreconditionFailed"),
    "expired-400": (400, "ExpiredToken"),
    "expired-403": (403, "ExpiredToken"),
    "error-in-200": (200, "InternalError"),
}
_PIECES = 6
_PIECE_EVERY = 0.05
_UPSTREAM_TIMEOUT = 20.0
_PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Fault:
    """Spoil `count` requests for `operation` (S3's name for it, any if empty), after the first `skip` that match.

    `key` is a part of the object's key or the listing's prefix; `signed_by` the access key; `first` is called before
    the request is dealt with.
    """

    kind: Kind
    operation: str = ""
    key: str = ""
    count: int = 1
    skip: int = 0
    signed_by: str = ""
    first: Callable[[], object] | None = None


class FaultyS3:
    """A proxy on a free port of 127.0.0.1; leaving it ends its connections and threads, whatever they wait for."""

    def __init__(self, endpoint: str) -> None:
        self.upstream = endpoint.removeprefix("http://")
        self.requests: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.spoilt: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._plan: list[tuple[Fault, list[int]]] = []
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def plan(self, *faults: Fault) -> None:
        """What happens from now on; a request takes the first fault that matches and still has a turn."""
        with self._lock:
            self._plan = [(fault, [0]) for fault in faults]
            self.spoilt.clear()
            self.requests.clear()
            self.keys.clear()

    def count(self, operation: str = "") -> int:
        """How many requests came since the plan was made; `keys` are the access keys that signed them."""
        return self.requests[operation] if operation else self.requests.total()

    def choose(self, operation: str, key: str, authorization: str) -> Fault | None:
        with self._lock:
            self.requests[operation] += 1
            self.keys.add(authorization.partition("Credential=")[2].partition("/")[0])
            for fault, seen in self._plan:
                fits = fault.operation in {"", operation} and fault.key in key
                if fits and (not fault.signed_by or f"Credential={fault.signed_by}/" in authorization):
                    seen[0] += 1
                    if fault.skip < seen[0] <= fault.skip + fault.count:
                        self.spoilt.append(f"{fault.kind} {operation}")
                        return fault
        return None

    def __enter__(self) -> "FaultyS3":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, proxy: FaultyS3) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up, or a server that is stopped, is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _forward(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation, key = _operation(self.command, self.path)
        fault = proxy.choose(operation, key, self.headers.get("Authorization", ""))
        if fault is not None and fault.first is not None:
            fault.first()
        kind = "passed" if fault is None else fault.kind
        if kind in _ANSWERS:
            status, code = _ANSWERS[kind]
            content = f"<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>".encode()
            self._answer(_head(status, [("Content-Type", "application/xml")], len(content)), content)
        elif kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif kind == "silent":
            proxy.closing.wait()
            self.close_connection = True
        elif kind == "cut":
            if body:
                self._ask(body[: len(body) // 2], read=False)
            self.close_connection = True
        else:
            self._pass_on(kind, *self._ask(body))

    def _ask(self, body: bytes, *, read: bool = True) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer. The client's Host goes on unchanged: it is signed."""
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=_UPSTREAM_TIMEOUT)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name != "Expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            if not read:
                return 0, [], b""
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def _pass_on(self, kind: str, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        if kind == "unanswered":
            self.server.proxy.closing.wait()
        if kind in {"lost", "unanswered"}:
            self.close_connection = True
            return
        if kind in {"smaller", "empty"}:
            content = content[: len(content) // 2] if kind == "smaller" else b""
        told = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else len(content)
        head = _head(status, headers, told)
        if kind == "short":
            self.wfile.write(head + content[: len(content) // 2] if content else head[: len(head) // 2])
            self.close_connection = True
        elif kind == "trickle":
            whole = head + content
            size = -(-len(whole) // _PIECES)
            self._write(whole[at : at + size] for at in range(0, len(whole), size))
        else:
            self._answer(head, content)

    def _answer(self, head: bytes, content: bytes) -> None:
        self.wfile.write(head + (b"" if self.command == "HEAD" else content))

    def _write(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.wfile.write(piece)
            self.server.proxy.closing.wait(_PIECE_EVERY)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward  # noqa: N815

    def log_message(self, *_: object) -> None: ...


def _head(status: int, headers: list[tuple[str, str]], length: int | str) -> bytes:
    kept = [f"{name}: {value}" for name, value in headers if name.lower() not in _PER_CONNECTION]
    return "\r\n".join([f"HTTP/1.1 {status} -", *kept, f"Content-Length: {length}", "", ""]).encode("latin-1")


def _operation(method: str, target: str) -> tuple[str, str]:
    """What S3 calls a request, and the key or the prefix that it is about."""
    url = urlsplit(target)
    key = unquote(url.path.lstrip("/").partition("/")[2])
    asked = parse_qs(url.query, keep_blank_values=True)
    name = {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, method)
    if "uploads" in asked:
        name = "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    elif "uploadId" in asked:
        name = {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }[method]
    elif not key:
        name = {"GET": "ListObjectsV2", "HEAD": "HeadBucket"}.get(method, name)
    return name, key or asked.get("prefix", [""])[0]

"""The view's HTTP server: a page, its news, and commands; a fixed table of paths, and no files.

Browsers ask for what is new and get the newest, when there is something or after a while without; so a slow one gets
fewer pictures, and none waits in a queue for it. Each connection has a thread of its own; the number of connections,
the size of requests and the time that either side may take are bounded.

``http.server`` is no server for the open internet; this is one for a robot's own network at most.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import secrets
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from rt_seg_ros.errors import UserError
from rt_seg_ros.log import get_logger
from rt_seg_ros.web.board import Board, Seen
from rt_seg_ros.web.feed import Feed
from rt_seg_ros.web.gate import gate_for
from rt_seg_ros.web.page import document

_log = get_logger(__name__)

MAX_CONNECTIONS = 64
MAX_REQUEST_LINE = 2048  # bytes
MAX_HEAD = 16_384  # bytes of a request's line and headers together
MAX_BODY = 4096  # bytes of a command
NEWS_TIMEOUT = 10.0  # seconds after which a browser that waits for news hears that there are none
READ_TIMEOUT = 15.0  # seconds for a request to come in
WRITE_TIMEOUT = 15.0  # seconds for an answer to be taken

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class ViewServer(ThreadingHTTPServer):
    """Serves a board. It listens from the start, and answers from :meth:`start` on.

    :param host: address or name to listen on; beyond this machine a token is asked for
    :param port: 0: any that is free
    :param read_only: obey no commands
    :raises UserError: an address that cannot be listened on
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, board: Board, host: str = "127.0.0.1", port: int = 0, read_only: bool = False) -> None:
        self.board, self.read_only = board, read_only
        self.feed: Feed = Feed(board)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._reading: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        self.address_family, address = _resolved(host, port)
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise UserError(_cannot_listen(host, port, error)) from error
        self.gate = gate_for(host, self.server_port, secrets.token_urlsafe(16))
        self._host = host
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address to open on this machine, with the token where one is asked for."""
        everywhere = ("", "0.0.0.0", "::")  # noqa: S104 - compared with
        host = "localhost" if self._host in everywhere else self._host
        return self.url_at(host)

    @property
    def is_open_to_network(self) -> bool:
        """Whether others than this machine can reach it."""
        return bool(self.gate.token)

    def server_bind(self) -> None:
        """Bind the socket, without asking name servers who this machine is."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def url_at(self, host: str) -> str:
        """Return the address under the name ``host``."""
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.server_port}/" + (f"?token={self.gate.token}" if self.gate.token else "")

    def start(self, feed: Feed) -> None:
        """Serve, on a thread of its own.

        :param feed: obeys the page's commands
        """
        self.feed = feed
        self._thread = threading.Thread(target=self.serve_forever, args=(0.2,), name="server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; browsers that wait are let go."""
        self.board.close()
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()
        with self._open_lock:
            for request in self._open:
                _cut(request)

    # --- bounds ---------------------------------------------------------------------------------------------------

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, unless there are too many already."""
        if not self._connections.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer all requests of one connection."""
        with self._open_lock:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)
                self._reading.pop(request, None)
            self._connections.release()

    def reading_began(self, request: socket.socket) -> None:
        """Give a connection :data:`READ_TIMEOUT` seconds for its next request, however it trickles in."""
        with self._open_lock:
            self._reading[request] = time.monotonic() + READ_TIMEOUT

    def reading_ended(self, request: socket.socket) -> None:
        """Take that limit away."""
        with self._open_lock:
            self._reading.pop(request, None)

    def service_actions(self) -> None:
        """Cut connections whose requests take too long; called several times a second."""
        now = time.monotonic()
        with self._open_lock:
            late = [request for request, end in self._reading.items() if now > end]
            for request in late:
                del self._reading[request]
                _cut(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Take no notice of browsers that leave in the middle of an answer."""
        _log.debug("a connection of %s broke", client_address, exc_info=True)


class _TooLong(Exception):
    """A request's line and headers exceed :data:`MAX_HEAD`."""


class _BoundedReader:
    """The part of a file that the standard library's parser uses, with a limit on what is read by lines."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.left = MAX_HEAD

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(min(limit, self.left + 1))
        self.left -= len(line)
        if self.left < 0:
            raise _TooLong
        return line

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        return data

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = READ_TIMEOUT
    disable_nagle_algorithm = True
    raw_requestline: bytes
    _path = ""

    def setup(self) -> None:
        super().setup()
        self.rfile = _BoundedReader(self.rfile)  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        self.rfile.left = MAX_HEAD  # type: ignore[attr-defined]
        self.server.reading_began(self.connection)
        try:
            super().handle_one_request()
        except _TooLong:
            self.close_connection = True
            self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""
            self._refuse(431, "the request is too long")

    def parse_request(self) -> bool:
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            raise _TooLong
        return super().parse_request()

    def version_string(self) -> str:
        return "rt-seg"

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the standard library's parser refuses, in this server's manner."""
        self.close_connection = True
        self.request_version = "HTTP/1.1"  # else a request that names none would be answered in the manner of 1991
        self._refuse(code, message or "this is no request that is understood here")

    # --- requests -------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        query = self._admitted()
        if query is None:
            return
        if self._path == "/":
            self._page()
        elif self._path == "/news":
            self._news(query)
        else:
            self._refuse(404, "there is nothing here")

    def do_POST(self) -> None:
        body = self._body()
        if body is None or self._admitted() is None:
            return
        if self._path != "/command":
            self._refuse(404, "there is nothing here")
        elif self.server.read_only:
            self._refuse(403, "this view only shows: it was started with --read-only")
        else:
            self._command(body)

    def _admitted(self) -> dict[str, str] | None:
        """Return the query where the request may pass; where not, it is answered."""
        self.server.reading_ended(self.connection)
        self.connection.settimeout(WRITE_TIMEOUT)
        try:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, max_num_fields=8))
        except ValueError:
            self._refuse(400, "this is no address")
            return None
        refusal = self.server.gate.refuse(self.command, parts.path, self.headers, query)
        if refusal is not None:
            self._refuse(refusal.status, refusal.reason)
            return None
        self._path = parts.path
        return query

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not re.fullmatch(r"\d{1,9}", length):
            self.close_connection = True
            self._refuse(411, "a command needs a Content-Length")
            return None
        if int(length) > MAX_BODY:
            self.close_connection = True
            self._refuse(413, f"a command has at most {MAX_BODY} bytes")
            return None
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None

    def _page(self) -> None:
        page, policy = document()
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
        gate = self.server.gate
        if gate.token:
            # Lax, so that a link to this address works wherever it is clicked.
            headers["Set-Cookie"] = f"{gate.cookie}={gate.token}; Path=/; HttpOnly; SameSite=Lax"
        self._answer(200, page, headers)

    def _news(self, query: dict[str, str]) -> None:
        """Answer with what a browser has not seen: length of a JSON head (4 bytes), the head, a picture's bytes."""
        try:
            seen = Seen(query.get("run", ""), *(int(query.get(name, "0")) for name in ("picture", "state", "sample")))
        except ValueError:
            self._refuse(400, "picture, state and sample are numbers")
            return
        if self.server.board.closed:  # nothing is waited for then: a page would ask again at once, without end
            self._refuse(503, "the view is ending")
            return
        update = self.server.board.next(seen, NEWS_TIMEOUT)
        head: dict[str, Any] = {
            "run": update.seen.run,
            "seen": {"picture": update.seen.picture, "state": update.seen.state, "sample": update.seen.sample},
            "now": update.now,
            "samples": update.samples,
        }
        data = b""
        if update.picture is not None:
            try:
                head["picture"], data = update.picture.packed()
            except Exception as error:  # labels that are none: the next picture may be whole
                _log.warning("a picture could not be packed: %s", error)
        if update.state is not None:
            head["state"] = {**update.state, "can": [] if self.server.read_only else update.state["can"]}
        encoded = json.dumps(head, separators=(",", ":")).encode()
        body = struct.pack("<I", len(encoded)) + encoded + data
        self._answer(200, body, {"Content-Type": "application/octet-stream"})

    def _command(self, body: bytes) -> None:
        try:
            asked = json.loads(body)
            what, value = asked["do"], asked.get("value")
            feed = self.server.feed
            if what == "model" and isinstance(value, str):
                feed.choose_model(value)
            elif what == "camera" and isinstance(value, str):
                feed.choose_camera(value)
            elif what == "pause" and isinstance(value, bool):
                feed.pause(value)
            elif what == "restart":
                feed.restart()
            else:
                raise ValueError(f"no command {what!r} with the value {value!r}")
        except UserError as error:
            self._answer_json(409, {"error": str(error)})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._answer_json(400, {"error": f"this is no command: {error}"})
        else:
            self._answer_json(200, {})

    # --- answers --------------------------------------------------------------------------------------------------

    def _refuse(self, status: int, reason: str) -> None:
        if self.command != "GET":
            self.close_connection = True  # a body may still be on its way
        self._answer(status, f"{reason}\n".encode(), {"Content-Type": "text/plain; charset=utf-8"})

    def _answer_json(self, status: int, content: dict[str, Any]) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Security-Policy": _NO_CONTENT_POLICY, **_ALWAYS, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


def _cut(request: socket.socket) -> None:
    """End a connection; whatever thread waits for it goes on."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; use 1 to 65535, or 0 for any that is free")
    try:
        asked = host or "0.0.0.0"  # noqa: S104 - only where the user gave an empty --host
        family, _, _, _, address = socket.getaddrinfo(asked, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}: no such address ({getattr(error, 'strerror', error)})") from error
    return family, (str(address[0]), port)


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken, perhaps by another rt-seg view: "
            f"choose another (--port {port + 1 if port < 65535 else port - 1}), or any that is free (--port 0)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not for everybody: choose one above 1023 (--port 8642)"
    return f"--host {host}: cannot be listened on, port {port}: {error.strerror}"

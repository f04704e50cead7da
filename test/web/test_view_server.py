"""The server's manners: what it answers, what it refuses, and that nobody can hold it up."""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.web import server as servers
from rt_seg_ros.web.board import Board, State
from rt_seg_ros.web.feed import Feed
from rt_seg_ros.web.server import ViewServer
from view_harness import HEIGHT, WIDTH, Client, wait


def raw(server, request, timeout=20):
    """Send bytes, and return all that is answered until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


def head(path="/", host="127.0.0.1", more=""):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n".encode()


def test_the_page_is_whole_and_its_policy_allows_just_what_is_in_it(serve):
    answer = Client(serve()).get("/")
    page = answer.body.decode()
    assert answer.status == 200 and page.startswith("<!doctype html>")
    assert not re.search(r"""(?:src|href)=(?!["']?data:)""", page), "the page asks for something from elsewhere"
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    policy = answer.headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        (inlined,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/news", "/nothing"])
def test_every_answer_bears_the_headers_that_protect_it(serve, path):
    headers = Client(serve()).get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    "path",
    ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/page/view.js", "/view.js", "/news/../",
     "/..%5c..%5cetc", "/\x00", "/.git/config", "http://127.0.0.1/etc/passwd", "*", "/" + "a" * 1500],
)  # fmt: skip
def test_no_path_leads_out_of_the_table(serve, path):
    answer = raw(serve(), head(path))
    assert int(answer.split(b" ", 2)[1]) in (400, 404)
    assert len(answer) < 1500 and b"root:" not in answer and b"use strict" not in answer


def test_other_hosts_and_origins_are_refused_at_the_socket(serve):
    server = serve()
    assert raw(server, head(host="evil.example")).startswith(b"HTTP/1.1 421")
    assert raw(server, head(more="Origin: http://evil.example\r\n")).startswith(b"HTTP/1.1 403")
    assert raw(server, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 400")
    body = json.dumps({"do": "restart"})
    for origin, status in (("http://evil.example", 403), (f"http://127.0.0.1:{server.server_port}", 200)):
        headers = {"Origin": origin, "Content-Type": "application/json"}
        assert Client(server).get("/command", "POST", body, **headers).status == status


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Y: z\r\n" * 3000 + b"\r\n", 431),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"POST /command HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n", 411),
        (b"POST /command HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /command HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 411),
        (
            b"POST /command HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
            411,
        ),
        (b"GET /news?" + b"a=1&" * 20 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /news?picture=x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_requests_that_are_none_are_answered_shortly(serve, request_bytes, status):
    server = serve()
    assert int(raw(server, request_bytes).split(b" ", 2)[1]) == status
    assert Client(server).get("/").status == 200


@pytest.mark.parametrize(
    "body", ["{", "[]", "null", "7", '{"do": 1}', '{"do": "pause"}', '{"do": "model", "value": 3}', "[" * 3000]
)
def test_commands_that_are_none_are_refused(serve, body):
    answer = Client(serve()).get("/command", "POST", body, **{"Content-Type": "application/json"})
    assert answer.status == 400 and b"this is no command" in answer.body


def test_pictures_and_figures_come_as_they_are_made(serve):
    server = serve()
    client = Client(server)
    news = list(client.pictures(4))
    assert news[0].run == news[3].run
    positions = [one.picture["position"] for one in news]
    assert len(set(positions)) > 1
    for one in news:
        about = one.picture
        assert (about["width"], about["height"]) == (WIDTH, HEIGHT)
        ids = np.frombuffer(zlib.decompress(one.labels), np.uint8)
        assert ids.size == HEIGHT * WIDTH and {int(i) for i in about["counts"]} == set(ids.tolist())
        assert one.image[:2] == b"\xff\xd8"
    samples = [sample for one in news for sample in one.samples]
    assert len(samples) >= 2 and all(total >= network > 0 for _, total, network, *_ in samples)
    last = samples[-1]
    assert last[4] >= last[5] + last[6] + last[7]
    assert server.board.state.classes[3]["name"] == "road"


def test_two_viewers_see_the_same_and_neither_takes_from_the_other(serve):
    server = serve()
    seen = {}

    def look(name):
        seen[name] = [one.seen["picture"] for one in Client(server).pictures(6)]

    threads = [threading.Thread(target=look, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen["one"]) == len(seen["other"]) == 6
    assert set(seen["one"]) & set(seen["other"])


def test_viewers_that_take_nothing_hold_up_nobody(serve):
    """Twenty viewers ask without end and never read; one more gets every picture, and the network does not wait."""
    server = serve()
    client = Client(server)
    ask = b"".join(head("/news").replace(b"Connection: close\r\n", b"") for _ in range(50))
    stalled = []
    try:
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", server.server_port))
            connection.sendall(ask)
            stalled.append(connection)
        list(client.pictures(2))
        begin = time.monotonic()
        news = list(client.pictures(10))
        seconds = time.monotonic() - begin
        made = news[-1].seen["picture"] - news[0].seen["picture"]
        assert made - 9 <= 2, "pictures passed this viewer by"
        assert seconds < 10 * 0.1 * 4, "the pictures came at less than a quarter of the drive's rate"
    finally:
        for connection in stalled:
            connection.close()


def test_a_viewer_that_stops_reading_is_let_go(serve, monkeypatch):
    monkeypatch.setattr(servers, "WRITE_TIMEOUT", 0.5)
    server = serve()
    big = b"x" * 50_000_000
    monkeypatch.setattr(servers, "document", lambda: (big, "default-src 'none'"))
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(head())
        wait(lambda: server._connections._value < servers.MAX_CONNECTIONS, "the connection")
        wait(lambda: server._connections._value == servers.MAX_CONNECTIONS, "its end", 10)


def test_a_request_that_trickles_in_is_cut(serve, monkeypatch):
    monkeypatch.setattr(servers, "READ_TIMEOUT", 0.5)
    server = serve()
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.server_port), 10) as connection:
        with pytest.raises(OSError):
            while time.monotonic() - begin < 8:
                connection.sendall(b"G")
                time.sleep(0.1)
    assert time.monotonic() - begin < 5
    wait(lambda: server._connections._value == servers.MAX_CONNECTIONS, "its end")


def test_more_connections_than_there_may_be_are_told_so(serve, monkeypatch):
    monkeypatch.setattr(servers, "MAX_CONNECTIONS", 3)
    server = serve()
    held = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(3)]
    try:
        wait(lambda: server._connections._value == 0, "three connections")
        assert raw(server, b"").startswith(b"HTTP/1.1 503")
    finally:
        for connection in held:
            connection.close()
    wait(lambda: server._connections._value == 3, "their end")
    assert Client(server).get("/").status == 200


def test_hundreds_of_visits_leave_nothing_behind(serve):
    server = serve()
    list(Client(server).pictures(1))
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        raw(server, head("/news"))
        raw(server, head("/nothing"))
    wait(lambda: threading.active_count() <= threads, "threads to end")
    assert len(os.listdir("/proc/self/fd")) <= files + 1


def test_commands_reach_the_feed_and_its_refusals_come_back(serve):
    server = serve()
    client = Client(server)
    list(client.pictures(1))
    assert client.command("pause", True) == (200, {})
    assert server.board.state.status == "paused"
    assert client.command("pause", False) == (200, {})
    status, answer = client.command("model", "nonsense")
    assert status == 409 and "no model 'nonsense'" in answer["error"]
    status, answer = client.command("camera", "rear")
    assert status == 409 and "one camera" in answer["error"]
    assert client.command("model", "frfnet_slim") == (200, {})
    wait(lambda: server.board.state.model == "frfnet_slim", "the other model")


def test_a_page_that_asks_while_the_view_ends_is_sent_away():
    board = Board(State(source="x"))
    server = ViewServer(board)
    server.start(Feed(board))
    try:
        client = Client(server)
        assert client.get("/news").status == 200
        board.close()  # what feeds do first, before they wait for a model that is being loaded
        answer = client.get("/news")
        assert (answer.status, answer.body) == (503, b"the view is ending\n")
    finally:
        server.stop()


def test_a_read_only_view_obeys_nothing(serve):
    server = serve(read_only=True)
    client = Client(server)
    news = client.news()
    assert news.state["can"] == []
    status, answer = client.command("model", "frfnet_slim")
    assert status == 403 and "--read-only" in answer
    assert server.board.state.switching == ""


def test_an_open_view_needs_its_token_and_gives_it_to_the_browser_once(serve):
    server = serve(host="0.0.0.0")
    assert server.is_open_to_network and f"token={server.gate.token}" in server.url
    client = Client(server)
    assert client.get("/").status == 401 and client.get("/news").status == 401
    answer = client.get(f"/?token={server.gate.token}")
    cookie = answer.headers["Set-Cookie"]
    assert answer.status == 200 and "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert server.gate.token not in answer.body.decode()
    assert Client(server, Cookie=cookie.partition(";")[0]).get("/news").status == 200
    assert not serve().gate.token


def test_a_port_that_is_taken_is_named_with_the_remedy():
    board = Board(State(source="x"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is taken.*--port"):
            ViewServer(board, "127.0.0.1", port)
    with pytest.raises(UserError, match="--port is 70000"):
        ViewServer(board, "127.0.0.1", 70000)
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: no such address"):
        ViewServer(board, "no.such.host.invalid", 0)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1: cannot be listened on"):
        ViewServer(board, "192.0.2.1", 0)


def test_nothing_below_knows_of_http():
    code = (
        "import sys, rt_seg_ros.pipeline, rt_seg_ros.drawing, rt_seg_ros.masks, rt_seg_ros.bags, rt_seg_ros.sources;"
        "sys.exit(any(name == 'http.server' or name.startswith('rt_seg_ros.web') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Whose requests are answered."""

from email.message import Message

import pytest

from rt_seg_ros.web.gate import Gate, gate_for, is_loopback

LOCAL = gate_for("127.0.0.1", 8642, "unused")
OPEN = gate_for("0.0.0.0", 8642, "secret")


def ask(gate, method="GET", path="/news", query=None, **headers):
    message = Message()
    message["Host"] = headers.pop("Host", "127.0.0.1:8642")
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    refusal = gate.refuse(method, path, message, query or {})
    return refusal.status if refusal else 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8642", 200),
        ("localhost:8642", 200),
        ("LOCALHOST:8642", 200),
        ("localhost:9000", 200),  # through a tunnel
        ("[::1]:8642", 200),
        ("evil.example:8642", 421),  # a name that was made to point here
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8642", 421),
        ("10.0.0.5:8642", 421),
        ("0.0.0.0:8642", 421),
        ("localhost@evil.example", 400),
        ("localhost/evil", 400),
        ("", 400),
    ],
)
def test_the_loopback_view_answers_to_its_own_names_alone(host, status):
    assert ask(LOCAL, Host=host) == status


def test_two_hosts_are_one_too_many():
    message = Message()
    message["Host"] = "localhost"
    message["Host"] = "evil.example"
    assert LOCAL.refuse("GET", "/", message, {}).status == 400
    assert LOCAL.refuse("GET", "/", Message(), {}).status == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8642", 200),
        ("http://evil.example", 403),
        ("http://localhost:8642", 403),  # another name is another origin
        ("http://127.0.0.1:3000", 403),  # another server on this machine
        ("https://127.0.0.1:8642", 403),
        ("null", 403),
    ],
)
def test_requests_of_other_pages_are_refused(origin, status):
    assert ask(LOCAL, Origin=origin) == status
    assert ask(LOCAL, "POST", "/command", Origin=origin, Content_Type="application/json") == status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/news", {"Sec_Fetch_Site": "same-origin"}, 200),
        ("/", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}, 200),
        ("/", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),  # a link was followed
        ("/news", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ("/news", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),  # <img src=...>
        ("/", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, 403),
    ],
)
def test_what_other_pages_embed_is_refused(path, headers, status):
    assert ask(LOCAL, path=path, **headers) == status


def test_commands_are_json_so_that_no_form_can_send_them():
    assert ask(LOCAL, "POST", "/command", Content_Type="application/json") == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(LOCAL, "POST", "/command", Content_Type=kind) == 415
    assert ask(LOCAL, "POST", "/command") == 415


def test_an_open_view_asks_for_its_token_however_it_comes():
    assert not LOCAL.token
    assert OPEN.token == "secret" and OPEN.cookie == "rt_seg_view_8642"
    host = {"Host": "10.0.0.5:8642"}
    assert ask(OPEN, **host) == 401
    assert ask(OPEN, query={"token": "wrong"}, **host) == 401
    assert ask(OPEN, query={"token": "secret"}, **host) == 200
    assert ask(OPEN, Cookie="a=b; rt_seg_view_8642=secret", **host) == 200
    assert ask(OPEN, Cookie="rt_seg_view_8643=secret", **host) == 401
    assert ask(OPEN, Authorization="Bearer secret", **host) == 200
    assert ask(OPEN, Authorization="Bearer secrets", **host) == 401
    assert ask(OPEN, query={"token": "secret"}, Host="evil.example") == 421
    assert ask(Gate(frozenset({"localhost"}), token="s"), Host="localhost") == 401


def test_which_addresses_are_this_machine_alone():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("127.0.1.1")
    assert not is_loopback("0.0.0.0") and not is_loopback("") and not is_loopback("::")

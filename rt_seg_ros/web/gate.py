"""Who may speak to the view: what keeps other pages in the same browser, and other people on the network, out.

The view has no accounts. On this machine alone, what threatens it is a page that the user has open elsewhere: it could
send requests to the loopback address (another origin), or make its own name point there (DNS rebinding). Open to
the network, a secret in the address is asked for as well.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered: HTTP status and words."""

    status: int
    reason: str


@dataclass(frozen=True)
class Gate:
    """The rules for one address that is listened on.

    :param names: hosts by which the view may be called
    :param addresses: whether any IP address is as good: a page elsewhere cannot make its own name one
    :param token: secret that every request must bear; empty: none is asked for
    :param cookie: name of the cookie that holds it
    """

    names: frozenset[str]
    addresses: bool = False
    token: str = ""
    cookie: str = "rt_seg_view"

    def refuse(self, method: str, path: str, headers: Message, query: Mapping[str, str]) -> Refusal | None:
        """Return why a request is refused, or None where it may pass."""
        hosts = headers.get_all("Host", [])
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return Refusal(400, "one Host is needed")
        if not self._knows(match[1].lower()):
            return Refusal(421, f"this view is not called '{match[1]}'")
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in headers.get_all("Origin", [])):
            return Refusal(403, "requests of other pages are refused")
        # Images and scripts are asked for without an Origin; the browser says here who wants them. The page itself
        # may be come to by a link.
        followed = path == "/" and headers.get_all("Sec-Fetch-Mode", []) == ["navigate"]
        if not followed and not {"same-origin", "none"}.issuperset(headers.get_all("Sec-Fetch-Site", [])):
            return Refusal(403, "requests of other pages are refused")
        if method != "GET" and headers.get_all("Content-Type", []) != ["application/json"]:
            return Refusal(415, "commands come as application/json")
        if self.token and not self._has_token(headers, query):
            return Refusal(401, "a token is needed: open the address that rt-seg view has printed")
        return None

    def _knows(self, host: str) -> bool:
        if host in self.names:
            return True
        if not self.addresses:
            return False
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return True

    def _has_token(self, headers: Message, query: Mapping[str, str]) -> bool:
        offered = [query.get("token", "")]
        for line in headers.get_all("Cookie", []):
            pairs = (part.strip().partition("=") for part in line.split(";"))
            offered += [value for name, _, value in pairs if name == self.cookie]
        offered += [value[7:] for value in headers.get_all("Authorization", []) if value[:7].lower() == "bearer "]
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in offered)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone.

    :raises OSError: where the name is not known
    """
    found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}  # noqa: S104 - asked about
    return all(ipaddress.ip_address(address).is_loopback for address in found)


def gate_for(host: str, port: int, token: str) -> Gate:
    """Return the rules for a view that listens on ``host``."""
    cookie = f"rt_seg_view_{port}"
    bracketed = f"[{host}]" if ":" in host else host
    names = _LOOPBACK_NAMES | {bracketed.lower()}
    if is_loopback(host):
        return Gate(names, cookie=cookie)
    own = socket.gethostname().lower()
    return Gate(names | {own, f"{own}.local"}, addresses=True, token=token, cookie=cookie)

"""What the tests of the view share: what is shown, and a browser's part of the conversation without the browser."""

from __future__ import annotations

import http.client
import json
import struct
import time
from types import SimpleNamespace

from rt_seg_ros.pipeline import SegmenterConfig

#: Small and fast; its labels mean nothing, and need not.
CONFIG = SegmenterConfig(model="cgnet", allow_random_weights=True, threads=1)
HEIGHT, WIDTH, FRAMES = 96, 128, 8


def wait(condition, what, timeout=30.0):
    """Wait until ``condition()`` is true; return what it returned."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < end, f"waited {timeout:g} s in vain for {what}"
        time.sleep(0.02)
    return result


class Client:
    """A browser's part of the conversation, without the browser."""

    def __init__(self, server, **headers):
        self.server = server
        self.headers = headers
        self.connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        self.seen = {"run": "", "picture": 0, "state": 0, "sample": 0}

    def get(self, path, method="GET", body=None, **headers):
        self.connection.request(method, path, body, {**self.headers, **headers})
        answer = self.connection.getresponse()
        return SimpleNamespace(status=answer.status, headers=answer.headers, body=answer.read())

    def news(self):
        """Return the next news: its head, the JPEG and the packed labels of its picture."""
        query = "&".join(f"{key}={value}" for key, value in self.seen.items())
        answer = self.get(f"/news?{query}")
        assert answer.status == 200, answer.body
        (length,) = struct.unpack("<I", answer.body[:4])
        head = json.loads(answer.body[4 : 4 + length])
        self.seen = {"run": head["run"], **head["seen"]}
        data = answer.body[4 + length :]
        picture = head.get("picture")
        cut = picture["image_bytes"] if picture else 0
        assert not picture or len(data) == cut + picture["label_bytes"]
        return SimpleNamespace(**{"state": None, "picture": None, **head}, image=data[:cut], labels=data[cut:])

    def pictures(self, count):
        """Yield the news of so many pictures."""
        while count:
            news = self.news()
            if news.picture:
                count -= 1
                yield news

    def command(self, what, value=None):
        body = json.dumps({"do": what, "value": value})
        answer = self.get("/command", "POST", body, **{"Content-Type": "application/json"})
        return answer.status, json.loads(answer.body) if answer.body[:1] == b"{" else answer.body.decode()

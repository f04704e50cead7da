"""The page itself: one document with its style and its program inlined, so that it works without a network."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def document() -> tuple[bytes, str]:
    """Return the page (UTF-8 HTML) and the content security policy that allows just what is in it."""
    style = (_HERE / "view.css").read_text(encoding="utf-8")
    program = (_HERE / "view.js").read_text(encoding="utf-8")
    html = (_HERE / "view.html").read_text(encoding="utf-8")
    html = html.replace("/*style*/", style).replace("/*program*/", program)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(program)}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

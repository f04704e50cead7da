"""The commands that documents tell people to type, as words of a shell, and what they link to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "models" / "README.md",
]

_BLOCK = re.compile(r"^ *```bash\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(rt-seg [^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
#: A line's command may follow these.
_BEFORE = {"do", "then", "time", "sudo"}


@dataclass(frozen=True)
class Command:
    """A command with its arguments, and the document that it stands in."""

    document: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def commands_in(text: str, document: str) -> Iterator[Command]:
    """Yield the commands of a shell script: of each line, each part of a chain."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.replace("$(which rt-seg)", "rt-seg"), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("&|;"):
                words.append(word)
                continue
            while words and words[0] in _BEFORE:
                words.pop(0)
            words = words[: words.index(">")] if ">" in words else words
            if words:
                yield Command(document, tuple(words))
            words = []


def documented() -> list[Command]:
    """Return all commands of the documents' shell blocks."""
    return [
        command
        for path in DOCUMENTS
        for block in _BLOCK.findall(path.read_text())
        for command in commands_in(block, str(path.relative_to(ROOT)))
    ]


def mentioned() -> list[Command]:
    """Return the commands of ``rt-seg`` that stand in running text."""
    return [
        command
        for path in DOCUMENTS
        for text in _INLINE.findall(_ANY_BLOCK.sub("", path.read_text()))
        for command in commands_in(text, str(path.relative_to(ROOT)))
    ]


def links(path: Path) -> list[str]:
    """Return what a document links to or shows, but for what lies elsewhere."""
    found = _LINK.findall(_ANY_BLOCK.sub("", path.read_text()))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as they are made where documents are looked at."""
    headings = re.findall(r"^#+ (.*)$", _ANY_BLOCK.sub("", path.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}

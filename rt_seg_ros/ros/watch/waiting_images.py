"""Images that wait for the labels that a node makes of them."""

from __future__ import annotations

from collections import OrderedDict

from rt_seg_ros.images import Read

_KEPT = 256 * 2**20  # bytes that wait; one image may, however large it is
_LEAST = 4096  # bytes that an image takes at least


class WaitingImages:
    """The last images, by their stamps, bounded by their bytes: the oldest give way."""

    def __init__(self) -> None:
        self._images: OrderedDict[int, tuple[Read, int]] = OrderedDict()  # in the order in which they came
        self._held = 0  # bytes of them all

    def put(self, stamp_ns: int, read: Read, nbytes: int) -> None:
        """Have an image wait, in the place of one that has its stamp.

        :param read: decodes it
        :param nbytes: that are kept for ``read``
        """
        _, former = self._images.pop(stamp_ns, (None, 0))
        size = max(nbytes, _LEAST)
        self._images[stamp_ns] = read, size
        self._held += size - former
        while self._held > _KEPT and len(self._images) > 1:
            self._let_go()

    def take(self, stamp_ns: int) -> Read | None:
        """Return what decodes the image of this stamp, or None, where it does not wait here.

        It goes, and what came before it, which is of no use any more.
        """
        if stamp_ns not in self._images:
            return None
        while next(iter(self._images)) != stamp_ns:
            self._let_go()
        return self._let_go()

    def clear(self) -> None:
        """Let all go."""
        self._images.clear()
        self._held = 0

    def _let_go(self) -> Read:
        """Let the oldest go."""
        _, (read, size) = self._images.popitem(last=False)
        self._held -= size
        return read

"""Writing rosbag2 recordings that ``ros2 bag`` and Foxglove read, moved into place when they are whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from rt_seg_ros.bags.types import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, typestore
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import Aside

T = TypeVar("T")
Storage = Literal["mcap", "sqlite3"]
STORAGES: tuple[Storage, ...] = ("mcap", "sqlite3")

#: Version of metadata.yaml: the newest that Humble and Jazzy both read.
_VERSION: Literal[8] = 8
_CHANNELS = {"bgr8": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "mono8": 1}
_FOREVER = QosTime(9223372036, 854775807)
_SUFFIX: dict[Storage, str] = {"mcap": ".mcap", "sqlite3": ".db3"}
_DISK_ERRORS = (OSError, sqlite3.Error)  # SQLite has errors of its own for a full disk


class Pinhole(Protocol):
    """What a camera_info message is made of: pixels, without distortion."""

    @property
    def fx(self) -> float:
        """Focal length across."""

    @property
    def fy(self) -> float:
        """Focal length down."""

    @property
    def cx(self) -> float:
        """Column of the optical axis."""

    @property
    def cy(self) -> float:
        """Row of the optical axis."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def width(self) -> int:
        """Columns."""


class BagWriter:
    """Writes a recording; a context manager.

    Everything goes to a folder aside, which is moved into place when the ``with`` block ends well: a recording that
    is there is whole. ``path`` is the recording's folder, or a single file where it ends in ``.mcap`` or ``.db3``.
    Any thread may write, one at a time.
    """

    def __init__(self, path: str | Path, storage: Storage = "mcap", overwrite: bool = False) -> None:
        """Check that the place can be written to.

        :param overwrite: replace a recording that is there
        :raises UserError: unknown storage, something there that may not be replaced, a folder that cannot be written
        """
        self.path = Path(path)
        single = next((kind for kind, suffix in _SUFFIX.items() if suffix == self.path.suffix), None)
        if storage not in STORAGES:
            raise UserError(f"unknown storage '{storage}' for a recording; there are: {', '.join(STORAGES)}")
        if single == "mcap" and storage == "sqlite3":
            raise UserError(f"{path} ends in .mcap, but the storage asked for is sqlite3: end it in .db3, or nothing")
        self._single = single is not None
        self.storage = single or storage
        self._overwrite = overwrite
        self._check_target()
        self.types: Typestore = typestore()
        self._connections: dict[str, Connection] = {}
        self._writer: Writer | None = None
        # SQLite takes a file's calls from the thread that opened it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite") if self.storage == "sqlite3" else None
        # The storage file takes its folder's name.
        self._inner = self.path.stem if self._single else self.path.name
        self._aside = Aside(self.path)
        self.count = 0

    def _check_target(self) -> None:
        path = self.path
        if not path.name:
            raise UserError(f"'{path}' is no name for a recording")
        if not path.exists():
            return
        if path.is_dir() and not any(path.iterdir()):
            return
        if not self._overwrite:
            raise UserError(f"{path} exists already: choose another name, or have it replaced (--overwrite)")
        is_bag = path.suffix in _SUFFIX.values() if path.is_file() else _holds_only_a_bag(path)
        if not is_bag:
            raise UserError(f"{path} is not overwritten: it holds something else than a recording")

    # ---- context -----------------------------------------------------------------------------------

    def __enter__(self) -> BagWriter:
        """Start writing aside.

        :raises UserError: if the folder cannot be made.
        """
        try:
            self._aside.make()
            plugin = StoragePlugin.MCAP if self.storage == "mcap" else StoragePlugin.SQLITE3
            self._writer = Writer(self._aside.folder / self._inner, version=_VERSION, storage_plugin=plugin)
            self._call(self._writer.open)
        except _DISK_ERRORS as error:
            self._aside.remove()
            raise self._failed(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish and move into place; after an error, leave nothing."""
        writer, self._writer = self._writer, None
        assert writer is not None
        try:
            if kind is None:
                self._call(writer.close)
                self._move()
            else:
                self._call(writer.abort)
        except _DISK_ERRORS as problem:
            with suppress(Exception):  # close the file
                self._call(writer.abort)
            raise self._failed(problem) from problem
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._aside.remove()

    def _call(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call a method of the storage on the thread that it wants."""
        if self._thread is None:
            return call(*args, **options)
        return self._thread.submit(call, *args, **options).result()

    def _failed(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be written: {getattr(error, 'strerror', None) or error}")

    def _move(self) -> None:
        made = self._aside.folder / self._inner
        if self._single:
            made = made / f"{self._inner}{_SUFFIX[self.storage]}"
        self._aside.put_in_place(made)

    # ---- messages ----------------------------------------------------------------------------------

    def message(self, kind: str, **fields: Any) -> Any:
        """Make a message of a type, as in ``message('std_msgs/msg/Header', ...)``; every field is to be given."""
        return self.types.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """Make a header."""
        stamp = self.message("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return self.message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def write(self, topic: str, message: Any, stamp_ns: int, latched: bool = False) -> None:
        """Write a message of any type that :attr:`types` has.

        :param stamp_ns: time of recording
        :param latched: offer it to subscribers that come late, too (transient local)
        """
        kind = message.__msgtype__
        self.write_raw(topic, kind, bytes(self.types.serialize_cdr(message, kind)), stamp_ns, latched)

    def write_raw(
        self, topic: str, kind: str, data: bytes, stamp_ns: int, latched: bool = False, types: Typestore | None = None
    ) -> None:
        """Write a message that is serialised already (CDR).

        :param types: types that define ``kind``, where :attr:`types` does not: those of the bag it is copied from
        :raises UserError: if the disk does not take it, or a topic gets messages of two types
        """
        if self._writer is None:
            raise RuntimeError("a BagWriter is written to within its with block")
        try:
            connection = self._connections.get(topic)
            if connection is None:
                connection = self._connections[topic] = self._call(
                    self._writer.add_connection,
                    topic,
                    kind,
                    typestore=types or self.types,
                    offered_qos_profiles=[_qos(latched)],
                )
            elif connection.msgtype != kind:
                raise UserError(f"topic '{topic}' holds {connection.msgtype}; a {kind} does not go there")
            self._call(self._writer.write, connection, stamp_ns, data)
        except _DISK_ERRORS as error:
            raise self._failed(error) from error
        self.count += 1

    def add_image(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        image: NDArray[np.uint8],
        encoding: str = "bgr8",
        recorded_ns: int | None = None,
    ) -> None:
        """Write a raw image, uint8 (H, W) or (H, W, C), rows without padding.

        :param recorded_ns: time of recording, where it is not the stamp
        :raises ValueError: if the array does not suit the encoding
        """
        channels = _CHANNELS.get(encoding)
        have = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
        if channels is None or image.dtype != np.uint8 or have != channels:
            raise ValueError(f"an array {image.dtype} {image.shape} is no image of encoding '{encoding}'")
        height, width = image.shape[:2]
        message = self.message(
            IMAGE,
            header=self.header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(image).reshape(-1),
        )
        self.write(topic, message, stamp_ns if recorded_ns is None else recorded_ns)

    def add_compressed_image(
        self, topic: str, stamp_ns: int, frame_id: str, data: bytes, form: str, recorded_ns: int | None = None
    ) -> None:
        """Write an image that is compressed already.

        :param form: the message's ``format``, as in ``bgr8; jpeg compressed bgr8``
        :param recorded_ns: time of recording, where it is not the stamp
        """
        message = self.message(
            COMPRESSED_IMAGE,
            header=self.header(stamp_ns, frame_id),
            format=form,
            data=np.frombuffer(data, np.uint8),
        )
        self.write(topic, message, stamp_ns if recorded_ns is None else recorded_ns)

    def add_label(
        self, topic: str, stamp_ns: int, frame_id: str, labels: NDArray[np.uint8], recorded_ns: int | None = None
    ) -> None:
        """Write a label image, uint8 (H, W), as mono8: 255 is unlabelled."""
        self.add_image(topic, stamp_ns, frame_id, labels, "mono8", recorded_ns)

    def add_camera_info(self, topic: str, stamp_ns: int, frame_id: str, camera: Pinhole) -> None:
        """Write the camera of an image, without distortion."""
        k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1], np.float64)
        region = self.message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = self.message(
            CAMERA_INFO,
            header=self.header(stamp_ns, frame_id),
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k,
            r=np.eye(3).reshape(-1),
            p=np.array([camera.fx, 0, camera.cx, 0, 0, camera.fy, camera.cy, 0, 0, 0, 1, 0], np.float64),
            binning_x=0,
            binning_y=0,
            roi=region,
        )
        self.write(topic, message, stamp_ns)


def _qos(latched: bool) -> Qos:
    """Return what a player is to offer: reliable, so that every subscriber matches."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


def _holds_only_a_bag(folder: Path) -> bool:
    names = {".mcap", ".db3", ".zstd", ".db3-shm", ".db3-wal"}
    files = list(folder.iterdir())
    return all(f.is_file() and (f.name == "metadata.yaml" or f.suffix in names) for f in files)

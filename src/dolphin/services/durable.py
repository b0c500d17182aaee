"""Small states that outlive their process: one JSON file each, whole or not at all, flushed to the disk.

Entry point: `DurableState`. What a breaker knows (posture, counters, fences) is kept here before it is
published, so that a restart does not open a door that was shut.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from dolphin.domain.errors import DataError, StoreError

S = TypeVar("S", bound=msgspec.Struct)


class DurableState(Generic[S]):
    """The state of one service in one file. One writer."""

    def __init__(self, path: Path, kind: type[S]) -> None:
        self.path = path
        self._decode = msgspec.json.Decoder(kind).decode

    def load(self) -> S | None:
        """The state as last saved, None when there never was one. Raises DataError for a damaged file."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read ({error.strerror}); check permissions") from error
        try:
            return self._decode(content)
        except (msgspec.DecodeError, ValueError) as error:
            raise DataError(
                f"{self.path}: the saved state is damaged ({error}); look at it, then move it away to start"
                " without it"
            ) from error

    def save(self, state: S) -> None:
        """Keep `state`; on return it survives a kill and a loss of power. Raises StoreError."""
        write_durably(self.path, msgspec.json.encode(state, order="deterministic") + b"\n")


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file's content as a whole, flushed to the disk with its folder. Raises StoreError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); free some space or make the folder writable"
        ) from error

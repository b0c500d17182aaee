"""Which scan files are news, and in which order: by their writing, not by their numbers.

Entry points: `ScanFiles`, `Place`, `watch_folder`.

1. Files are ordered by modification time, ties by name: a scanner that began again has low numbers.
2. A place is a mark that only rises: of the modification time, and of the number. Where the machine's clock
   was set back, a number above the mark is news all the same; where numbers began again, a later time is.
3. A watcher's word names a file; a sweep of the newest folders finds what was missed. An older folder whose
   change time has not moved since it was found to hold no news is not looked into again; in the newest, two
   changes can share one tick of the file system's clock. There the files of the last minutes are looked at,
   and all of them on every twelfth sweep: a day has 17,280.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from dolphin.market.scan_store import ScanStore

#: Day folders that a sweep looks into, the newest.
DAYS_SWEPT: Final = 3
#: So many sweeps look at the newest files only, by the time in their names, and the next one at all.
QUICK_SWEEPS: Final = 11
QUICK_S: Final = 600

_FILE = re.compile(r"scan_(\d{6,19})_\d{6}\.arrow")


class ScanFile(NamedTuple):
    """A file in the order of its publication."""

    mtime_ns: int
    name: str
    path: Path

    @property
    def number(self) -> int:
        """The scan number in the name."""
        return int(self.name.split("_")[1])


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where files are done: the highest modification time (ns), the names that have it, the highest
    number.
    """

    mtime_ns: int = -1
    names: tuple[str, ...] = ()
    number: int = -1

    def is_news(self, file: ScanFile) -> bool:
        """Whether a file lies beyond."""
        return (
            file.mtime_ns > self.mtime_ns
            or (file.mtime_ns == self.mtime_ns and file.name not in self.names)
            or file.number > self.number >= 0
        )

    def after(self, file: ScanFile) -> Place:
        """The place once `file` is done."""
        number = max(self.number, file.number)
        if file.mtime_ns > self.mtime_ns:
            return Place(mtime_ns=file.mtime_ns, names=(file.name,), number=number)
        names = self.names
        if file.mtime_ns == self.mtime_ns and file.name not in names:
            names = (*names, file.name)
        return Place(mtime_ns=self.mtime_ns, names=names, number=number)


class ScanFiles:
    """The files of a store as they come. `name` may be called on any thread, the rest on one."""

    def __init__(self, store: ScanStore, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._guard = threading.Lock()
        self._named: dict[Path, None] = {}
        self._folders: dict[str, int] = {}
        self._foreign: list[Path] = []
        self._last_number = -1
        self._last_day, self._last_time = "", ""
        self._quick = 0

    def name(self, path: Path) -> None:
        """A watcher says that there is a file."""
        if _FILE.fullmatch(path.name):
            with self._guard:
                self._named[path] = None
            self._wake()

    def named(self, place: Place) -> list[ScanFile]:
        """The files that were named and are news, in order."""
        with self._guard:
            named, self._named = self._named, {}
        found = []
        for path in named:
            with contextlib.suppress(OSError):
                found.append(ScanFile(path.stat().st_mtime_ns, path.name, path))
        return sorted(file for file in found if place.is_news(file))

    def follows(self, found: list[ScanFile]) -> bool:
        """Whether the first of these is the next of its scanner's; if not, others may lie before it."""
        return not found or found[0].number == self._last_number + 1

    def brought(self, file: ScanFile) -> None:
        """The file is done."""
        self._last_number = file.number
        clock = file.name[-12:-6]
        seconds = int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:]) - QUICK_S
        self._last_day = file.path.parent.name
        self._last_time = (
            f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}" if seconds > 0 else ""
        )

    def sweep(self, place: Place) -> list[ScanFile]:
        """Every file of the newest folders that is news, in no order."""
        found: list[ScanFile] = []
        folders: dict[str, int] = {}
        days = self._store.days()[-DAYS_SWEPT:]
        quick = self._quick > 0
        self._quick = self._quick - 1 if quick else QUICK_SWEEPS
        for day in days:
            folder = self._store.folder / day
            changed_ns = folder.stat().st_mtime_ns
            if day != days[-1] and self._folders.get(day) == changed_ns:
                folders[day] = changed_ns
                continue
            after = self._last_time if quick and day == self._last_day == days[-1] else ""
            news = [file for file in self._scan(folder, after) if place.is_news(file)]
            found += news
            if not news:
                folders[day] = changed_ns
        self._folders = folders
        return found

    def take_foreign(self) -> list[Path]:
        """Files of other names that a sweep has met since the last call."""
        taken, self._foreign = self._foreign, []
        return taken

    def newest_until(self, place: Place, n: int) -> list[ScanFile]:
        """The last `n` files that are done, in order."""
        done: list[ScanFile] = []
        for day in reversed(self._store.days()):
            done += [file for file in self._scan(self._store.folder / day) if not place.is_news(file)]
            if len(done) >= n:
                break
        return sorted(done)[-n:]

    def _scan(self, folder: Path, after: str = "") -> list[ScanFile]:
        """The scan files of a folder; `after` (HHMMSS) leaves those out whose names say an earlier time."""
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[-12:-6] < after and entry.name.endswith(".arrow"):
                    continue
                if _FILE.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        found.append(ScanFile(entry.stat().st_mtime_ns, entry.name, Path(entry.path)))
                elif not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    self._foreign.append(Path(entry.path))
        return found


def watch_folder(folder: Path, on_file: Callable[[Path], None]) -> Callable[[], None]:
    """Call on_file, on a thread of the library's, for every file renamed into `folder` or below it."""
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_moved(self, event: Any) -> None:
            on_file(Path(os.fsdecode(event.dest_path)))

        def on_created(self, event: Any) -> None:
            on_file(Path(os.fsdecode(event.src_path)))

    observer = Observer()
    observer.schedule(Handler(), str(folder), recursive=True)
    observer.start()

    def stop() -> None:
        observer.stop()
        observer.join(5.0)

    return stop

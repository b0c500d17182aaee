"""Structured logs: one JSON line an event, one file a service, bounded in size.

Entry points: `log_to` (a service's process), `read_logs`, `follow`, `readable` (`dolphin logs`).

1. A line has `time` (the machine's clock, ISO 8601 UTC), `service`, `level`, `event`, `logger`, whatever
   fields the event has, and `traceback` for an exception.
2. A service's logs never take more than LOG_BYTES x (LOG_OLD + 1) on disk.
3. No secret gets in: values of environment variables whose names speak of secrets, and what stands before the
   `@` of an address, are blanked.
"""

from __future__ import annotations

import heapq
import importlib
import json
import logging
import logging.handlers
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import StoreError, UsageError, nearest

LOG_BYTES: Final = 10_000_000
#: Older files beside the current one: `NAME.jsonl.1`, `NAME.jsonl.2`.
LOG_OLD: Final = 2
LEVELS: Final = ("debug", "info", "warning", "error")
#: How often a follower looks for new lines, seconds.
FOLLOW_S: Final = 0.3

_SECRET_NAME: Final = re.compile(r"SECRET|TOKEN|PASSW|ALERT|WEBHOOK|API_?KEY|CREDENTIAL", re.I)
_SECRET_MIN: Final = 6
_CREDENTIALS: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.I)
_KNOWN: Final = ("time", "service", "level", "event", "logger", "traceback")

#: What this process logs to at present.
_ours: list[logging.Handler] = []


def level_number(name: str) -> int:
    """The level's number. Raises UsageError for a name that is none."""
    if name not in LEVELS:
        raise UsageError(f"log level {name!r}, expected one of {', '.join(LEVELS)}.{nearest(name, LEVELS)}")
    return int(getattr(logging, name.upper()))


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Texts that must not be logged, the longest first, with their parts where one holds several."""
    found: set[str] = set()
    for name, value in environ.items():
        if _SECRET_NAME.search(name):
            found |= {part for part in (value, *re.split(r"[\s,;]+", value)) if len(part) >= _SECRET_MIN}
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


def blanked(text: str, secrets: Iterable[str]) -> str:
    """`text` without secrets."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub(r"\1***@", text)


class _Plain(logging.Formatter):
    """What a person reads on a terminal and supervisord keeps."""

    def __init__(self, service: str, secrets: tuple[str, ...]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self._service = service
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._service} {blanked(super().format(record), self._secrets)}"


def _json_formatter(service: str, secrets: tuple[str, ...]) -> logging.Formatter:
    try:
        json_log: Any = importlib.import_module("pythonjsonlogger.json")
    except ImportError as error:
        raise StoreError(
            "structured logs: python-json-logger is missing: a service needs the services extra;"
            " `make services` installs it"
        ) from error

    class Json(json_log.JsonFormatter):  # type: ignore[misc]
        """One line an event; whatever cannot be written as JSON is written as text."""

        def add_fields(
            self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
        ) -> None:
            super().add_fields(log_data, record, message_dict)
            extra = dict(log_data)
            trace = extra.pop("exc_info", None)
            event = extra.pop("message", record.getMessage())
            log_data.clear()
            log_data.update(
                time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
                service=service,
                level=record.levelname.lower(),
                event=event,
                logger=record.name,
            )
            log_data.update({key: value for key, value in extra.items() if key not in log_data})
            if trace:
                log_data["traceback"] = trace

        def format(self, record: logging.LogRecord) -> str:
            return blanked(str(super().format(record)), secrets)

    made: logging.Formatter = Json("%(message)s", json_default=str, json_ensure_ascii=False)
    return made


def log_to(
    folder: Path,
    service: str,
    *,
    name: str | None = None,
    level: str = "info",
    tell: bool = False,
    as_json: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Path:
    """Send all logging of this process to `folder/NAME.jsonl`; returns it. Raises StoreError, UsageError.

    Errors also go to stderr, which supervisord keeps. `tell` is for a person in front of a terminal: every
    line is also shown on stdout, in plain words or `as_json`.
    """
    number = level_number(level)
    secrets = secrets_of(os.environ if environ is None else environ)
    formatter = _json_formatter(service, secrets)
    file = folder / f"{name or service}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        to_file = logging.handlers.RotatingFileHandler(
            file, maxBytes=LOG_BYTES, backupCount=LOG_OLD, encoding="utf-8"
        )
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written ({error.strerror}); check disk and permissions"
        ) from error
    to_file.setFormatter(formatter)
    handlers: list[logging.Handler] = [to_file]
    plain = _Plain(service, secrets)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    errors.setFormatter(plain)
    handlers.append(errors)
    if tell:
        shown = logging.StreamHandler(sys.stdout)
        shown.addFilter(lambda record: record.levelno < logging.ERROR)
        shown.setFormatter(formatter if as_json else plain)
        handlers.append(shown)
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
        if old in _ours:
            old.close()
    _ours[:] = handlers
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(number)
    # What a vendor tells at its own length is no event of ours; its warnings are.
    for vendor in ("hazelcast", "numba", "apprise", "urllib3"):
        logging.getLogger(vendor).setLevel(max(number, logging.WARNING))
    # A full disk must not fill stderr with one traceback a line; the service's own writes say what is wrong.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    return file


# --- reading ------------------------------------------------------------------------------------------------


def log_files(folder: Path, services: tuple[str, ...] = ()) -> list[Path]:
    """The log files, of all services or of the named ones. Raises UsageError for one without a log."""
    found = {path.name.removesuffix(".jsonl"): path for path in sorted(folder.glob("*.jsonl"))}
    for service in services:
        if service not in found:
            told = ", ".join(found) or "none"
            raise UsageError(f"{folder}: no log of {service!r}; there are: {told}.{nearest(service, found)}")
    return [path for service, path in found.items() if not services or service in services]


def parsed(line: str) -> dict[str, Any] | None:
    """The event of a line, None for one that is torn."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _events(file: Path, minimum: int) -> Iterator[dict[str, Any]]:
    for path in (*(file.with_name(f"{file.name}.{n}") for n in range(LOG_OLD, 0, -1)), file):
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    event = parsed(line)
                    if event is not None and _at_least(event, minimum):
                        yield event
        except FileNotFoundError:
            continue


def _at_least(event: Mapping[str, Any], minimum: int) -> bool:
    number = getattr(logging, str(event.get("level", "")).upper(), logging.ERROR)
    return isinstance(number, int) and number >= minimum


def read_logs(files: Iterable[Path], *, last: int, level: str = "info") -> list[dict[str, Any]]:
    """The newest `last` events of all files together, oldest first."""
    minimum = level_number(level)
    by_time: Callable[[dict[str, Any]], str] = lambda event: str(event.get("time", ""))  # noqa: E731
    newest = (heapq.nlargest(last, _events(file, minimum), key=by_time) for file in files)
    return sorted((event for events in newest for event in events), key=by_time)[-last:] if last else []


def follow(
    folder: Path, services: tuple[str, ...], stop: threading.Event, *, level: str = "info"
) -> Iterator[dict[str, Any]]:
    """New events as they come, of files that are there or come later, until `stop` is set."""
    minimum = level_number(level)
    places = {path: path.stat().st_size for path in folder.glob("*.jsonl")}
    torn: dict[Path, str] = {}
    while not stop.is_set():
        for path in sorted(folder.glob("*.jsonl")):
            if services and path.name.removesuffix(".jsonl") not in services:
                continue
            place = places.get(path, 0)
            size = path.stat().st_size
            if size < place:
                # The file was rotated: the rest of the old one is in the first of the older files.
                place, torn[path] = 0, ""
            if size > place:
                with path.open("rb") as file:
                    file.seek(place)
                    content = file.read()
                places[path] = place + len(content)
                *whole, torn[path] = (torn.get(path, "") + content.decode(errors="replace")).split("\n")
                for line in whole:
                    event = parsed(line)
                    if event is not None and _at_least(event, minimum):
                        yield event
            else:
                places[path] = place
        stop.wait(FOLLOW_S)


def readable(event: Mapping[str, Any]) -> str:
    """One event for a person; a traceback follows on its own lines."""
    moment = str(event.get("time", ""))[:23].replace("T", " ")
    fields = " ".join(f"{key}={value}" for key, value in event.items() if key not in _KNOWN)
    head = f"{moment} {event.get('level', ''):<7} {event.get('service', ''):<14} {event.get('event', '')}"
    lines = [f"{head} {fields}".rstrip()]
    lines += [f"    {line}" for line in str(event.get("traceback") or "").splitlines()]
    return "\n".join(lines)

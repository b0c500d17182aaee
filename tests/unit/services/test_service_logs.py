"""Structured logs: what a line holds, what it must not hold, how much is kept, how it is read."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dolphin.domain.errors import UsageError
from dolphin.services import logs
from dolphin.services.logs import blanked, follow, log_files, log_to, read_logs, readable, secrets_of


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Whatever a test does to the process's logging is undone."""
    root = logging.getLogger()
    before, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in before:
            handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    logging.raiseExceptions = raises
    logging.captureWarnings(False)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def event(time: str, text: str, level: str = "info", service: str = "exf", **fields: Any) -> str:
    stamped = {"time": f"2026-01-05T00:00:{time}+00:00", "service": service, "level": level, "event": text}
    return json.dumps({**stamped, **fields}) + "\n"


def test_line_has_its_fields_and_an_exception_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = log_to(tmp_path / "logs", "exf", environ={})
    log = logging.getLogger("dolphin.exf")
    log.info("read", extra={"rows": 3, "path": Path("x"), "level": "mine"})
    log.debug("not at this level")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("broke\nin two lines")
    first, second = lines(file)
    assert {k: first[k] for k in ("service", "level", "event", "logger", "rows", "path")} == {
        "service": "exf", "level": "info", "event": "read", "logger": "dolphin.exf", "rows": 3, "path": "x",
    }  # fmt: skip
    assert first["time"].endswith("+00:00")
    assert "ValueError: no" in second["traceback"]
    told = capsys.readouterr()
    assert told.out == ""
    assert "exf" in told.err
    assert "ValueError: no" in told.err
    assert "read" not in told.err


def test_person_at_the_terminal_sees_every_line_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to(tmp_path, "trader", tell=True, environ={})
    logging.getLogger("dolphin").info("a scan")
    logging.getLogger("dolphin").error("a failure")
    told = capsys.readouterr()
    assert told.out.count("a scan") == 1
    assert "a failure" not in told.out
    assert told.err.count("a failure") == 1
    log_to(tmp_path, "trader", tell=True, as_json=True, environ={})
    logging.getLogger("dolphin").info("a scan")
    assert json.loads(capsys.readouterr().out)["event"] == "a scan"


def test_secrets_are_blanked_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"DOLPHIN_ALERTS": "tgram://bot123456/chat json://h/p", "API_KEY": "k" * 8, "HOME": "/srv/u"}
    file = log_to(tmp_path, "exf", environ=environ)
    log = logging.getLogger("dolphin")
    log.error("cannot reach tgram://bot123456/chat with kkkkkkkk from /srv/u", extra={"to": "json://h/p"})
    try:
        raise OSError("https://me:pw@host/x")
    except OSError:
        log.exception("refused")
    for text in (file.read_text(), capsys.readouterr().err):
        for secret in ("bot123456", "kkkkkkkk", "json://h/p", "me:pw"):
            assert secret not in text
        assert "/srv/u" in text
        assert "https://***@host/x" in text
    assert secrets_of({"TOKEN": "ab"}) == ()
    assert blanked("plain text", ("secret",)) == "plain text"


def test_logs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 2_000)
    file = log_to(tmp_path, "exf", environ={})
    for n in range(200):
        logging.getLogger("dolphin").info("event %d", n)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["exf.jsonl", "exf.jsonl.1", "exf.jsonl.2"]
    assert all(path.stat().st_size <= 2_000 for path in tmp_path.iterdir())
    # A reader goes through the older files too, without a gap.
    read = read_logs([file], last=1_000)
    texts = [event["event"] for event in read]
    assert texts[-1] == "event 199"
    assert texts == [f"event {n}" for n in range(200 - len(texts), 200)]
    assert len(texts) > len(lines(file))


def test_logs_of_all_services_are_read_in_order_of_time(tmp_path: Path) -> None:
    (tmp_path / "exf.jsonl").write_text(event("01", "a") + event("03", "c", "warning") + '{"torn')
    (tmp_path / "acb.jsonl").write_text(event("02", "b") + "[]\n" + event("04", "d", "error"))
    both = log_files(tmp_path)
    assert [e["event"] for e in read_logs(both, last=10)] == ["a", "b", "c", "d"]
    assert [e["event"] for e in read_logs(both, last=2)] == ["c", "d"]
    assert read_logs(both, last=0) == []
    assert [e["event"] for e in read_logs(both, last=10, level="warning")] == ["c", "d"]
    assert [e["event"] for e in read_logs(log_files(tmp_path, ("exf",)), last=10)] == ["a", "c"]
    with pytest.raises(UsageError, match=r"no log of 'efx'; there are: acb, exf. Did you mean 'exf'"):
        log_files(tmp_path, ("efx",))
    with pytest.raises(UsageError, match=r"log level 'warn', expected one of .* Did you mean 'warning'"):
        read_logs(both, last=1, level="warn")


def test_follower_sees_new_lines_torn_ones_when_they_are_whole_and_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FOLLOW_S", 0.0)
    file = tmp_path / "exf.jsonl"
    file.write_text(event("01", "old"))

    def append(text: str) -> None:
        with file.open("a") as opened:
            opened.write(text)

    steps = iter(
        [
            lambda: append(event("02", "new") + event("03", "torn")[:20]),
            lambda: append(event("03", "torn")[20:]),
            lambda: (tmp_path / "acb.jsonl").write_text(event("04", "other", service="acb")),
            # Rotated: the file begins anew, shorter.
            lambda: file.write_text(event("05", "x")),
        ]
    )

    class Stop(threading.Event):
        """Plays the next step whenever the follower would wait."""

        def wait(self, timeout: float | None = None) -> bool:
            step = next(steps, None)
            if step is None:
                self.set()
            else:
                step()
            return self.is_set()

    stop = Stop()
    assert [found["event"] for found in follow(tmp_path, (), stop)] == ["new", "torn", "other", "x"]


def test_line_for_a_person() -> None:
    text = readable(json.loads(event("01.123456", "read", "warning", rows=3, traceback="a\nb")))
    assert text == "2026-01-05 00:00:01.123 warning exf            read rows=3\n    a\n    b"
    assert readable({}).strip() == ""

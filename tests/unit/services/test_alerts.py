"""Alerts: what is kept, what a real server on loopback gets, what is held back, and no secret anywhere."""

from __future__ import annotations

import http.server
import json
import logging
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import ConfigError
from dolphin.services.alert_gate import ALTOGETHER_MAX, OF_A_KIND_MAX, TEXTS_MAX, AlertGate
from dolphin.services.alert_journal import AlertLine, alerts_file, append_alert, read_alerts
from dolphin.services.alerts import QUEUE_MAX, Notifier, addresses_of
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home
from dolphin.services.service import Alert

NOW_NS = 1_800_000_000 * NS_PER_S
SECRET = "s3cr3t-t0ken"
# apprise imports this module of the standard library.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Server:
    """A webhook target; `answer` is its status, `gate` keeps it from answering."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        self.answer = [200]
        self.gate: threading.Event | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.gate is not None:
                    outer.gate.wait(20)
                status = outer.answer.pop(0) if len(outer.answer) > 1 else outer.answer[0]
                if status == 200:
                    outer.got.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://user:{SECRET}@127.0.0.1:{self._server.server_address[1]}/{SECRET}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self.gate is not None:
            self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def alert(text: str = "exf was started again", kind: str = "restart", at_s: int = 0) -> Alert:
    return Alert(kind, text, "meta_health", NOW_NS + at_s * NS_PER_S)


def notifier(home: Path, *urls: str, clock: VirtualClock | None = None) -> Notifier:
    environ = {"DOLPHIN_ALERT_URLS": " ".join(urls)}
    return Notifier(Home(home), environ, clock or VirtualClock(NOW_NS), retry_s=0.01)


def test_alert_reaches_a_real_webhook_and_the_journal(tmp_path: Path, server: Server) -> None:
    notify = notifier(tmp_path, server.url)
    notify.alert(alert())
    assert notify.idle(20)
    (got,) = server.got
    assert got["title"] == "DOLPHIN restart"
    assert got["message"] == "meta_health: exf was started again (2027-01-15T08:00:00Z)"
    assert got["type"] == "warning"
    (line,) = read_alerts(Home(tmp_path), 5)
    assert (line.kind, line.service, line.text, line.at_ns) == (
        "restart", "meta_health", "exf was started again", NOW_NS,
    )  # fmt: skip
    assert notify.counts["sent"] == 1
    notify.close()
    notify.close()


def test_without_targets_the_journal_is_kept(tmp_path: Path) -> None:
    notify = notifier(tmp_path)
    notify.alert(alert())
    assert [line.text for line in read_alerts(Home(tmp_path), 5)] == ["exf was started again"]
    notify.close()


def test_same_alert_is_told_once_and_its_count_later(tmp_path: Path, server: Server) -> None:
    clock = VirtualClock(NOW_NS)
    notify = notifier(tmp_path, server.url, clock=clock)
    for second in range(42):
        clock.move_to(NOW_NS + second * NS_PER_S)
        notify.alert(alert(at_s=second))
    assert notify.idle(20)
    assert len(server.got) == 1
    clock.move_to(NOW_NS + 300 * NS_PER_S)
    notify.tell_held()
    assert notify.idle(20)
    assert [line.text for line in read_alerts(Home(tmp_path), 9)] == [
        "exf was started again", "41 more of the same: exf was started again",
    ]  # fmt: skip
    assert "41 more" in server.got[1]["message"]
    notify.alert(alert(at_s=300))
    assert notify.idle(20)
    assert len(server.got) == 3
    notify.close()


def test_close_tells_what_was_held_back(tmp_path: Path) -> None:
    notify = notifier(tmp_path)
    for _ in range(3):
        notify.alert(alert())
    notify.close()
    assert read_alerts(Home(tmp_path), 1)[0].text == "2 more of the same: exf was started again"


def test_flood_of_one_kind_does_not_silence_another(tmp_path: Path) -> None:
    notify = notifier(tmp_path)
    for n in range(500):
        notify.alert(alert(f"trade {n}", kind="trade"))
    notify.alert(alert("the ledger does not balance", kind="invariant"))
    lines = read_alerts(Home(tmp_path), 1000)
    assert len([line for line in lines if line.kind == "trade"]) == OF_A_KIND_MAX
    assert lines[-1].text == "the ledger does not balance"
    notify.close()
    assert read_alerts(Home(tmp_path), 1)[0].text == (
        f"{500 - OF_A_KIND_MAX} more of kind trade were held back, the last: trade 499"
    )


def test_gate_bounds_what_comes_altogether() -> None:
    gate = AlertGate()
    admitted = [gate.admit(f"kind{n % 6}", f"text {n}", NOW_NS) for n in range(60)]
    assert admitted.count(True) == ALTOGETHER_MAX
    # A kind that was silent is heard all the same.
    assert gate.admit("invariant", "x", NOW_NS)
    assert sum(held.count for held in gate.due(NOW_NS + 60 * NS_PER_S)) == 30
    assert gate.due(NOW_NS + 61 * NS_PER_S) == []
    assert gate.admit("kind0", "again", NOW_NS + 61 * NS_PER_S)


def test_gate_counts_everything_that_it_holds_back_and_stays_small() -> None:
    gate = AlertGate()
    told = 0
    n = 20_000
    for each in range(n):
        told += gate.admit(f"kind{each % 5000}", f"text {each % 7000}", NOW_NS)
    assert len(gate._same) <= TEXTS_MAX
    assert len(gate._limited) <= TEXTS_MAX + 1
    assert told + sum(held.count for held in gate.due(NOW_NS, everything=True)) == n


def test_gate_of_a_clock_set_back_opens() -> None:
    gate = AlertGate()
    assert gate.admit("a", "b", NOW_NS)
    assert not gate.admit("a", "b", NOW_NS + 1)
    assert gate.admit("a", "b", NOW_NS - 3600 * NS_PER_S)
    assert gate.due(NOW_NS, everything=True)[0].count == 1


def test_target_that_fails_is_tried_again(tmp_path: Path, server: Server) -> None:
    server.answer = [500, 503, 200]
    notify = notifier(tmp_path, server.url)
    notify.alert(alert())
    assert notify.idle(20)
    assert len(server.got) == 1
    assert (notify.counts["sent"], notify.counts["failed"]) == (1, 0)
    notify.close()


def test_dead_target_keeps_no_other_from_its_alert(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    notify = notifier(tmp_path, f"json://127.0.0.1:1/{SECRET}", server.url)
    notify.alert(alert())
    assert notify.idle(30)
    assert len(server.got) == 1
    assert notify.counts["failed"] == 1
    assert "alert target 1 did not take an alert" in caplog.text
    notify.close()


def test_target_that_hangs_blocks_nobody_and_the_queue_is_bounded(tmp_path: Path, server: Server) -> None:
    server.gate = threading.Event()
    clock = VirtualClock(NOW_NS)
    notify = notifier(tmp_path, server.url, clock=clock)
    for n in range(QUEUE_MAX + 100):
        clock.move_to(NOW_NS + n * 10 * NS_PER_S)
        notify.alert(alert(f"text {n}"))
    assert not notify.idle(0.0)
    assert 90 <= notify.counts["dropped"] <= 100
    assert len(read_alerts(Home(tmp_path), 1000)) == QUEUE_MAX + 100
    server.gate.set()
    notify.close(0.0)


def test_no_secret_is_logged_or_kept(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With everything logged that can be: good, failing, dead and nonsensical targets."""
    caplog.set_level(logging.DEBUG)
    for name in ("apprise", "urllib3", "urllib3.connectionpool", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    server.answer = [200, 500, 500, 500]
    notify = notifier(
        tmp_path,
        server.url,
        f"json://127.0.0.1:1/{SECRET}",
        f"nonsense://{SECRET}",
        f"json://{SECRET}:bad:port/",
    )
    notify.alert(alert())
    notify.alert(alert("another"))
    assert notify.idle(30)
    assert notify.counts["failed"] >= 3
    notify.close()
    out, err = capfd.readouterr()
    kept = alerts_file(Home(tmp_path)).read_text()
    for text in (caplog.text, out, err, kept, repr(notify), " ".join(notify.problems)):
        assert SECRET not in text
        assert "json://" not in text
    assert any("alert target 3 is no address" in problem for problem in notify.problems)


def test_file_of_targets_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "targets"
    path.write_text(f"# the desk\njson://127.0.0.1/{SECRET}\n\n  tgram://{SECRET}/1\n")
    path.chmod(0o644)
    environ = {"DOLPHIN_ALERT_FILE": str(path)}
    with pytest.raises(ConfigError, match="chmod 600") as refused:
        addresses_of(environ)
    assert SECRET not in str(refused.value)
    notify = Notifier(Home(tmp_path), environ, VirtualClock(NOW_NS))
    assert len(notify.problems) == 1
    notify.alert(alert())
    assert [line.kind for line in read_alerts(Home(tmp_path), 5)] == ["alerts", "restart"]
    notify.close()
    path.chmod(0o600)
    assert addresses_of(environ) == (f"json://127.0.0.1/{SECRET}", f"tgram://{SECRET}/1")
    with pytest.raises(ConfigError, match="cannot be read"):
        addresses_of({"DOLPHIN_ALERT_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="Is a directory"):
        addresses_of({"DOLPHIN_ALERT_FILE": str(tmp_path)})


def test_addresses_may_hold_commas_and_be_separated_by_anything() -> None:
    given = "mailto://a@b?to=x@y,z@w, json://h/1;xml://h/2\n  tgram://t/1"
    assert addresses_of({"DOLPHIN_ALERT_URLS": given}) == (
        "mailto://a@b?to=x@y,z@w", "json://h/1", "xml://h/2", "tgram://t/1",
    )  # fmt: skip
    assert addresses_of({}) == ()


def test_alert_never_raises_into_its_caller(tmp_path: Path) -> None:
    (tmp_path / "run_logs").write_text("a file where the folder should be")
    notify = notifier(tmp_path)
    notify.alert(alert())
    assert notify.counts["not_kept"] == 1
    (tmp_path / "run_logs").unlink()
    notify.alert(Alert("x", "\ud800 is no text", "s", NOW_NS))
    assert notify.counts["failed"] == 1
    notify.close()


def line_of(n: int) -> AlertLine:
    return AlertLine(
        time="2027-01-15T08:00:00Z", at_ns=n, kind="trade", service="trader", text=f"text {n:06d}"
    )


def test_journal_of_alerts_is_bounded(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for n in range(1000):
        append_alert(home, line_of(n), bytes_max=10_000)
    taken = sum(path.stat().st_size for path in home.run_logs.iterdir())
    assert taken < 21_000
    assert [line.at_ns for line in read_alerts(home, 120)] == list(range(880, 1000))


def test_damaged_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    home = Home(tmp_path)
    append_alert(home, line_of(1))
    with alerts_file(home).open("ab") as file:
        file.write(b'{"torn\n\xff\xfe\n')
    append_alert(home, line_of(2))
    assert [line.at_ns for line in read_alerts(home, 10)] == [1, 2]
    assert read_alerts(Home(tmp_path / "none"), 10) == []


def test_very_long_text_is_shortened(tmp_path: Path) -> None:
    append_alert(Home(tmp_path), AlertLine(time="", at_ns=1, kind="k", service="s", text="x" * 100_000))
    assert len(read_alerts(Home(tmp_path), 1)[0].text) == 2001


def _write(root: Path, first: int) -> None:
    for n in range(first, first + 300):
        append_alert(Home(root), line_of(n), bytes_max=20_000)


def test_processes_that_write_and_rotate_together_tear_no_line(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, first)) for first in (0, 1000, 2000)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    path = alerts_file(Home(tmp_path))
    for each in (path, path.with_name(f"{path.name}.1")):
        if each.exists():
            for line in each.read_text().splitlines():
                assert json.loads(line)["kind"] == "trade"
    assert len(read_alerts(Home(tmp_path), 100)) == 100

"""A service's process as it really is: its endpoint, its ends, its limits, its one place."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from toy_system import ask, events, make_home, spawn, until

from dolphin.services.claims import ClaimError, check_manager, try_hold
from dolphin.services.home import Home
from dolphin.services.metrics import read_port

Start = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "home")


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    made: list[Any] = []

    def begin(command: str = "exf", **settings: Any) -> Any:
        made.append(spawn(home, command, **settings))
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.communicate()


def healthy(home: Home, name: str = "exf") -> bool:
    return ask(home, name)[0] == 200


def ended(process: Any) -> tuple[int, str]:
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def test_process_tells_how_it_is_and_ends_when_asked(home: Home, start: Start) -> None:
    process = start(DOLPHIN_ALERT_URL="json://user:hunter2secret@localhost/x")
    until(lambda: healthy(home), lambda: events(home, "exf"))
    told = json.loads(ask(home, "exf")[1])
    assert told["service"] == "exf"
    assert (told["phase"], told["ok"]) == ("running", True)
    assert 0.0 <= told["last_tick_age_s"] < 5.0
    assert ask(home, "exf", "/else")[0] == 404
    assert Path(f"/proc/{process.pid}/comm").read_text() == "dolphin-exf\n"

    # Loopback only.
    port = read_port(home, "exf")
    listening = {
        row.split()[1] for row in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in row
    }
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening

    code, text = until(
        lambda: (a := ask(home, "exf", "/metrics"))[0] == 200 and 'event="toy_ticks"' in a[1] and a
    )
    assert code == 200
    value = {name: float(number) for name, number in re.findall(r"^(\w+)\{[^}]*\} (\S+)$", text, re.M)}
    assert value["dolphin_toy_size"] == 3.0
    assert "dolphin_toy_unknown" not in text
    assert value["dolphin_healthy"] == 1.0
    assert value["dolphin_rss_bytes"] > 10e6
    assert value["dolphin_threads"] >= 2
    assert value["dolphin_tick_duration_seconds_count"] >= 1
    assert value["dolphin_tick_lateness_seconds_count"] >= 1
    assert value["dolphin_grid_connected"] == 1.0
    labels = {label for found in re.findall(r"\{(.*?)\}", text) for label in re.findall(r'(\w+)="', found)}
    assert labels == {"service", "event", "le"}

    # An orderly end.
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert (code, err) == (0, "")
    assert (home.root / "toys" / "stopped").read_text() == "exf\n"
    log = events(home, "exf")
    assert [e["event"] for e in log][-2:] == ["asked to stop", "stopped"]
    assert log[0]["event"] == "starts"
    assert any(e["event"] == "alert: exf has begun" and e["kind"] == "restart" for e in log)
    for event in log:
        assert event["service"] == "exf"
        assert abs(datetime.fromisoformat(event["time"]) - datetime.now(UTC)) < timedelta(minutes=2)
    assert "hunter2secret" not in (home.logs / "exf.jsonl").read_text()


def test_hung_loop_is_told_and_ends_at_the_second_signal(home: Home, start: Start) -> None:
    process = start()
    until(lambda: healthy(home))
    (home.root / "toys" / "exf.hangs").touch()
    until(lambda: ask(home, "exf")[0] == 503)
    told = json.loads(ask(home, "exf")[1])
    assert told["why"].startswith("hung: the last tick ended ")
    assert told["last_tick_age_s"] > 5.0
    process.send_signal(signal.SIGTERM)
    until(lambda: any(e["event"] == "asked to stop" for e in events(home, "exf")))
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM


def test_service_says_what_ails_it(home: Home, start: Start) -> None:
    start()
    until(lambda: healthy(home))
    (home.root / "toys" / "exf.ails").touch()
    until(lambda: ask(home, "exf")[0] == 503)
    assert json.loads(ask(home, "exf")[1])["why"] == "it ails"
    (home.root / "toys" / "exf.ails").unlink()
    until(lambda: healthy(home))


def test_unexpected_exception_ends_the_process_with_its_traceback_in_the_log(
    home: Home, start: Start
) -> None:
    process = start()
    until(lambda: healthy(home))
    (home.root / "toys" / "exf.fails").touch()
    code, err = ended(process)
    assert code == 1
    last = events(home, "exf")[-1]
    assert last["level"] == "error"
    assert last["event"] == "internal error, ZeroDivisionError: a toy breaks"
    assert 'raise ZeroDivisionError("a toy breaks")' in last["traceback"]
    assert "ZeroDivisionError" in err
    assert not (home.root / "toys" / "stopped").exists()


def test_memory_beyond_the_table_is_refused_by_the_kernel(home: Home, start: Start) -> None:
    process = start()
    until(lambda: healthy(home))
    limit = re.search(r"Max data size\s+(\d+)", Path(f"/proc/{process.pid}/limits").read_text())
    assert limit is not None
    assert int(limit[1]) == 512 * 1024 * 1024
    (home.root / "toys" / "exf.eats").touch()
    assert ended(process)[0] == 1
    assert events(home, "exf")[-1]["error"] == "MemoryError"


def test_process_waits_for_a_grid_that_is_away(home: Home, start: Start) -> None:
    away = home.root / "toys" / "away"
    away.touch()
    process = start()
    until(lambda: ask(home, "exf")[0] == 503 and "the grid is away" in ask(home, "exf")[1])
    away.unlink()
    until(lambda: healthy(home))
    assert [e["event"] for e in events(home, "exf")].count("the grid answers") == 1

    # Asked to stop while it waits: at once, and without a stop of what never began.
    away.touch()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    (home.root / "toys" / "stopped").unlink()
    second = start()
    until(lambda: "the grid is away" in ask(home, "exf")[1])
    second.send_signal(signal.SIGINT)
    assert ended(second)[0] == 0
    assert not (home.root / "toys" / "stopped").exists()


def test_second_process_of_a_service_is_refused_until_the_first_is_gone(home: Home, start: Start) -> None:
    first = start()
    until(lambda: healthy(home))
    refused = start()
    assert ended(refused) == (
        1, f"exf runs in {home.root} already (pid {first.pid}); one process a service: stop that one first\n"
    )  # fmt: skip
    start("acb")
    until(lambda: healthy(home, "acb"))
    # However it ends, the place is free.
    first.kill()
    first.communicate()
    again = start()
    until(lambda: healthy(home))
    assert again.poll() is None


def test_service_beside_a_manager_of_its_home_is_refused(home: Home, start: Start) -> None:
    claim = try_hold(home.supervisor / "claim")
    assert claim is not None
    claim.tell(pid=os.getpid(), manager="supervisord")
    code, err = ended(start())
    assert code == 1
    assert err.startswith(f"{home.root} is managed by supervisord (pid {os.getpid()})")
    claim.let_go()
    start()
    until(lambda: healthy(home))


def test_service_that_the_system_was_not_asked_for_is_told_how_to_be_part_of_it(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    claim = try_hold(home.supervisor / "claim")
    assert claim is not None
    claim.tell(pid=os.getpid(), manager="supervisord")
    with pytest.raises(
        ClaimError, match=r"which was not asked for obf; `dolphin down --home .*--with books "
    ):
        check_manager(home, "obf", home.supervisor / "supervisor.sock", {})
    home.save(msgspec.structs.replace(home.load(), senses=("books",)))
    with pytest.raises(ClaimError, match=r"`dolphin up obf --home .*` starts obf$"):
        check_manager(home, "obf", home.supervisor / "supervisor.sock", {})
    claim.let_go()


#: Starts what follows as its child, under the name of a manager.
MANAGER = """
import pathlib, subprocess, sys
pathlib.Path("/proc/self/comm").write_text(sys.argv[1])
raise SystemExit(subprocess.run(sys.argv[2:]).returncode)
"""


@pytest.mark.parametrize(
    ("name", "environ", "who"),
    [
        ("systemd", {}, "systemd (pid "),
        (
            "supervisord",
            {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": "unix:///tmp/other.sock"},
            "the supervisord at unix:///tmp/other.sock",
        ),
    ],
)
def test_service_of_another_manager_is_refused(
    home: Home, start: Start, name: str, environ: dict[str, str], who: str
) -> None:
    code, err = ended(start(parent=(sys.executable, "-c", MANAGER, name), **environ))
    assert code == 1
    assert err.startswith(f"exf was started by another process manager, {who}")
    assert err.count("\n") == 1
    assert not home.logs.exists()

"""The status of real homes in every state of ruin: in time, the truth, and nothing is touched."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from status_homes import make_home, write_journal

from dolphin.cli import main
from dolphin.commands.status import lines
from dolphin.domain import codes
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import EngineSnapshot, Heartbeat, MetaHealth, SafetyPayload
from dolphin.grid.topics import ENGINE_SNAPSHOT, HEARTBEAT, META_HEALTH, SAFETY, SAFETY_REFERENCE, encode
from dolphin.grid.typed import TypedGrid
from dolphin.services.alert_journal import AlertLine, append_alert
from dolphin.services.diagnosis import diagnose
from dolphin.services.facts import Facts
from dolphin.services.held import HeldServices
from dolphin.services.home import Home
from dolphin.services.kill_switch import KillSwitch
from dolphin.services.status_facts import TOGETHER_S, Collector
from dolphin.services.supervision import ServiceState, SupervisionError, Supervisor
from dolphin.services.supervisor_conf import prepare_socket
from dolphin.services.table import SERVICES


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nothing listens, and nothing else will."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def files(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with contents; a database's reader may make its index beside it."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if not path.name.endswith(("-shm", "-wal")) and not path.is_socket()
    }


def look(home: Home, **given: Any) -> Facts:
    """One look; it must change nothing and come in time."""
    before = files(home.root)
    collector = Collector(str(home.root), **given)
    began = time.monotonic()
    facts = collector.collect()
    took_s = time.monotonic() - began
    collector.close()
    assert files(home.root) == before
    assert took_s < TOGETHER_S + 3.0
    return facts


def told(home: Home, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """What a person gets to see."""
    code = main(["status", "--home", str(home.root)])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out.splitlines()


def test_no_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, screen = told(Home(tmp_path / "none"), capsys)
    assert code == 1
    assert screen[0] == "DOLPHIN  DOWN"
    assert screen[-1] == f"do       dolphin up --home {tmp_path}/none"
    assert not (tmp_path / "none").exists()


def test_folder_without_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter.txt").write_text("x")
    code, screen = told(Home(tmp_path), capsys)
    assert (code, screen[0]) == (1, "DOLPHIN  DOWN")
    assert "no system.json" in " ".join(screen)


def test_damaged_settings(tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(tmp_path, closed_port)
    home.settings_file.write_text("{")
    code, screen = told(home, capsys)
    assert (code, screen[0]) == (1, "DOLPHIN  DOWN")
    assert "the saved state is damaged" in " ".join(" ".join(screen).split())


def test_nothing_runs(tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, screen = told(make_home(tmp_path, closed_port), capsys)
    assert (code, screen[0]) == (1, "DOLPHIN  DOWN")
    assert f"do       dolphin up --home {tmp_path}" in screen
    assert "services   none  (the process manager is not running)" in screen


@pytest.mark.parametrize("action", [codes.ACTION_ENTER, codes.ACTION_HOLD])
def test_open_position_that_nobody_manages(
    action: int, tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_home(tmp_path, closed_port)
    write_journal(home, time.time_ns() - 40 * NS_PER_S, action=action)
    code, screen = told(home, capsys)
    assert (code, screen[0]) == (1, "DOLPHIN  MONEY AT RISK")
    assert f"do       dolphin up --all --home {tmp_path}" in screen
    assert any("ETCUSDT, 12,346 USDT, conviction 3.2" in line for line in screen)
    assert any("nobody leads; the last was trader, fence 7" in line for line in screen)


def test_closed_position_is_no_risk(tmp_path: Path, closed_port: int) -> None:
    home = make_home(tmp_path, closed_port)
    write_journal(home, time.time_ns(), action=codes.ACTION_EXIT)
    facts = look(home)
    assert facts.trader is not None
    assert (facts.trader.position, facts.trader.capital, facts.trader.equity) == (None, 25_100.0, 25_000.0)
    assert (facts.trader.fence, facts.trader.leader, facts.trader.scan_number) == (7, "trader:4242", 102)
    assert diagnose(facts).rule == "nothing_runs"


def test_ledger_that_does_not_balance(tmp_path: Path, closed_port: int) -> None:
    home = make_home(tmp_path, closed_port)
    write_journal(home, time.time_ns(), action=codes.ACTION_EXIT, violation="legs do not sum")
    verdict = diagnose(look(home))
    assert (verdict.rule, verdict.action) == ("ledger", f"dolphin audit {tmp_path}/trader")
    assert "legs do not sum" in verdict.cause


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be read as one" * 40])
def test_damaged_journal(content: bytes, tmp_path: Path, closed_port: int) -> None:
    home = make_home(tmp_path, closed_port)
    home.trader.mkdir()
    (home.trader / "journal.db").write_bytes(content)
    facts = look(home)
    assert facts.trader is None
    assert diagnose(facts).rule == "journal"


def test_kill_switch_and_a_damaged_one(tmp_path: Path, closed_port: int) -> None:
    home = make_home(tmp_path, closed_port)
    KillSwitch(home.kill_switch).engage("HALT", by="anna", reason="maintenance", now_ns=time.time_ns())
    assert "HALT by anna" in diagnose(look(home)).cause
    home.kill_switch.write_text("{")
    damaged = diagnose(look(home))
    assert (damaged.rule, damaged.action) == ("kill_switch", f"dolphin resume --all --home {home.root}")
    assert "1970" not in damaged.cause


def test_damaged_small_files_are_no_trouble(tmp_path: Path, closed_port: int) -> None:
    home = make_home(tmp_path, closed_port)
    home.run_logs.mkdir()
    for path in (home.run_logs / "meta_health.json", home.run_logs / "alerts.jsonl", home.state("held")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"{\xff damaged\n")
    facts = look(home)
    assert (facts.health, facts.alerts) == (None, ())
    (home.run_logs / "meta_health.json").write_text('{"rm_meta": "x"}')
    assert look(home).health is None
    (home.run_logs / "meta_health.json").write_text("[]")
    assert look(home).health is None


def test_full_disk(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path, closed_port)
    usage = type("Usage", (), {"free": 2_000_000})()
    monkeypatch.setattr("dolphin.services.status_facts.shutil.disk_usage", lambda path: usage)
    assert diagnose(look(home)).rule == "disk_full"


def test_grid_that_takes_connections_and_does_not_answer(tmp_path: Path, silent_port: int) -> None:
    """With the real client of the grid."""
    facts = look(make_home(tmp_path, silent_port))
    assert (facts.grid.connected, facts.grid.port_open) == (False, True)


def test_manager_that_does_not_answer(tmp_path: Path, closed_port: int) -> None:
    """With the real client of the manager, whose own patience is longer than ours."""
    home = make_home(tmp_path, closed_port)
    path = prepare_socket(home)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()
        facts = look(home)
    assert facts.manager == "silent"
    assert diagnose(facts).rule == "nothing_runs"
    assert look(home).manager == "down"


class Managing:
    """A manager in this process."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.error: Exception | None = None

    def services(self) -> list[ServiceState]:
        if self.error is not None:
            raise self.error
        return [
            ServiceState(s.name, s.group, self.states.get(s.name, "RUNNING"), 100, 500.0, 0, "")
            for s in SERVICES
        ]


class Living:
    """A home whose grid and manager live in this process."""

    def __init__(self, root: Path, port: int) -> None:
        self.home = make_home(root, port)
        self.grid = InProcessGrid()
        self.door = TypedGrid(self.grid)
        self.manager = Managing()
        self.now_ns = time.time_ns()
        now = iso_from_ns(self.now_ns)
        self.door.put(SAFETY, self.safety("APEX", 0.97, now))
        for spec in SERVICES:
            beat = Heartbeat.at(spec.name, "running", self.now_ns)
            self.door.put(HEARTBEAT, beat, service=spec.name)
        self.door.put(META_HEALTH, MetaHealth(
            rm_meta=0.86, status="GREEN", m4_control_plane=0.8, m1_data_infra=1.0, m1_trader=1.0,
            m2_heartbeat=1.0, m3_data_freshness=0.9, m5_coherence=0.5,
            service_status={"exf": {"restarts": 3}},
            hz_key_status={"exf_latest": {"score": 1.0, "state": "fresh"}}, timestamp=now,
        ))  # fmt: skip
        self.scan(self.now_ns)

    @staticmethod
    def safety(posture: Any, rm: float, now: str) -> SafetyPayload:
        sensors = {"invariant": {"value": 1.0}, "capital": {"value": 0.4}, "target": rm, "below": 0}
        return SafetyPayload(posture=posture, rm=rm, sensors=sensors, updated_at=now)

    def scan(self, at_ns: int) -> None:
        scan = {
            "scan_number": 7, "timestamp_ns": at_ns, "timestamp": iso_from_ns(at_ns),
            "assets": ["BTCUSDT"], "asset_prices": [84_000.0],
            "multi_window_results": {
                w: {"lambda_max": 1.0, "velocity": 0.0} for w in ("50", "150", "300", "750")
            },
        }  # fmt: skip
        self.grid.map("DOLPHIN_FEATURES").put("latest_eigen_scan", json.dumps(scan).encode())

    def look(self) -> Facts:
        return look(self.home, manager=self.manager, open_grid=lambda settings: self.grid.peer())


@pytest.fixture
def living(tmp_path: Path, silent_port: int) -> Living:
    return Living(tmp_path, silent_port)


def test_all_is_well(living: Living) -> None:
    write_journal(living.home, living.now_ns, action=codes.ACTION_HOLD)
    facts = living.look()
    assert diagnose(facts).verdict == "OK", diagnose(facts)
    assert facts.grid.connected
    assert facts.grid.nodes == 1
    assert facts.safety is not None
    assert (facts.safety.posture, facts.safety.weakest, facts.safety.weakest_value) == (
        "APEX",
        "capital",
        0.4,
    )
    assert facts.safety.target == 0.97
    assert facts.scan_number == 7
    assert facts.health is not None
    assert facts.health.keys == {"exf_latest": "fresh"}
    exf = facts.service("exf")
    assert exf is not None
    assert (exf.state, exf.pid, exf.phase, exf.restarts) == ("RUNNING", 100, "running", 3)
    assert exf.beat_age_s is not None
    assert 0.0 <= exf.beat_age_s < 60.0


def test_times_are_of_one_clock_at_another_speed(living: Living) -> None:
    """The manager counts machine seconds; ages are of the system's clock, ten times as fast."""
    settings = living.home.load()
    assert "clock  " not in "\n".join(lines(living.look(), diagnose(living.look())))
    living.home.save(
        msgspec.structs.replace(settings, speed=10.0, clock_origin_ns=time.time_ns() - 60 * NS_PER_S)
    )
    facts = living.look()
    exf = facts.service("exf")
    assert exf is not None
    assert exf.uptime_s == 5000.0
    assert exf.beat_age_s is not None
    assert 500.0 < exf.beat_age_s < 3000.0
    screen = list(lines(facts, diagnose(facts)))
    assert [line for line in screen if line.startswith("clock")] == [
        "clock      the system's: 10 times the machine's, and every time here is its time"
    ]
    assert all(len(line) <= 80 for n, line in enumerate(screen) if not line.startswith("do "))


def test_reference_of_the_posture_wins_unless_it_is_older(living: Living) -> None:
    reference = living.grid.atomic_reference(SAFETY_REFERENCE)
    reference.set(encode(living.safety("TURTLE", 0.6, iso_from_ns(living.now_ns))))
    facts = living.look()
    assert facts.safety is not None
    assert facts.safety.posture == "TURTLE"
    reference.set(encode(living.safety("HIBERNATE", 0.1, iso_from_ns(living.now_ns - NS_PER_S))))
    facts = living.look()
    assert facts.safety is not None
    assert facts.safety.posture == "APEX"
    reference.set(b"damaged")
    assert living.look().safety is not None


def test_without_a_journal_the_grid_tells_of_the_position(living: Living) -> None:
    position = {"asset": "ETCUSDT", "notional": 900.0, "leverage": 2.0}
    living.door.put(
        ENGINE_SNAPSHOT,
        EngineSnapshot(
            capital=25_000.0, open_positions=(position,), last_scan=6, scan_count=6,
            detail={"fence": 4, "halted": False, "equity": 24_990.0},
            updated_at=iso_from_ns(living.now_ns),
        ),
        deployment="BLUE",
    )  # fmt: skip
    facts = living.look()
    assert facts.trader is not None
    assert (facts.trader.source, facts.trader.fence, facts.trader.equity) == ("grid", 4, 24_990.0)
    assert facts.trader.position is not None
    assert facts.trader.position.asset == "ETCUSDT"
    living.manager.states = {"trader": "EXITED", "trader_standby": "STOPPED"}
    # Given up by the manager, and their processes live all the same: a position is not left alone.
    assert diagnose(living.look()).rule == "standby"


def test_operator_s_holds_and_alerts_are_shown(living: Living) -> None:
    HeldServices(living.home).hold("exf", by="anna", now_ns=living.now_ns)
    for n in range(9):
        line = AlertLine(time="", at_ns=living.now_ns - n, kind="restart", service="s", text=f"text {n}")
        append_alert(living.home, line)
    living.manager.states = {"exf": "STOPPED"}
    facts = living.look()
    assert [alert.text for alert in facts.alerts] == [f"text {n}" for n in range(4, 9)]
    assert "exf was stopped by anna" in diagnose(facts).cause


def test_manager_that_refuses_is_silent_and_not_down(living: Living) -> None:
    living.manager.error = SupervisionError("supervisord refused getAllProcessInfo: it is shutting down")
    facts = living.look()
    assert facts.manager == "silent"
    assert "shutting down" in facts.manager_trouble


def test_rejected_payloads_are_left_out(living: Living) -> None:
    for name, key in (
        ("DOLPHIN_SAFETY", "latest"), ("DOLPHIN_META_HEALTH", "latest"),
        ("DOLPHIN_HEARTBEAT", "exf_heartbeat"), ("DOLPHIN_FEATURES", "latest_eigen_scan"),
    ):  # fmt: skip
        living.grid.map(name).put(key, b"{damaged")
    facts = living.look()
    assert (facts.safety, facts.health, facts.scan_age_s) == (None, None, None)
    exf = facts.service("exf")
    assert exf is not None
    assert exf.beat_age_s is None


def test_source_that_hangs_is_asked_once_until_it_answers(living: Living) -> None:
    """A watch must not gather a thread a look."""
    import threading

    gate = threading.Event()
    asked: list[int] = []

    def hang() -> list[ServiceState]:
        asked.append(1)
        gate.wait(20)
        return []

    living.manager.services = hang  # type: ignore[method-assign]
    collector = Collector(
        str(living.home.root),
        manager=living.manager,
        open_grid=lambda settings: living.grid.peer(),
        together_s=0.2,
    )
    assert [collector.collect().manager for _ in range(3)] == ["silent"] * 3
    assert len(asked) == 1
    gate.set()
    collector.close()


def test_json_is_one_object(tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    home = make_home(tmp_path, closed_port)
    assert main(["status", "--home", str(home.root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["rule"]) == ("DOWN", "nothing_runs")
    assert found["facts"]["grid"]["port_open"] is False


def test_watch_looks_again_until_it_is_interrupted(
    tmp_path: Path, closed_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path, closed_port)
    looks: list[int] = []

    def pause() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("dolphin.commands.status._pause", pause)
    assert main(["status", "--home", str(home.root), "--watch", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == ["DOWN"] * 3


def test_real_supervisor_of_nothing_is_away_by_its_own_error(tmp_path: Path) -> None:
    """What `down` is made from: the cause inside the manager's error."""
    with pytest.raises(SupervisionError) as refused:
        Supervisor(Home(tmp_path)).services()
    assert isinstance(refused.value.__cause__, FileNotFoundError)


def test_services_on_request_are_shown_where_they_were_asked_for(living: Living) -> None:
    beat = Heartbeat.at("obf", "warmup", living.now_ns)
    living.door.put(HEARTBEAT, beat, service="obf")
    assert living.look().service("obf") is None
    living.home.save(msgspec.structs.replace(living.home.load(), senses=("books",)))
    facts = living.look()
    obf = facts.service("obf")
    assert obf is not None
    assert obf.phase == "warmup"
    assert "obf" in facts.expected()
    assert "esof" not in facts.expected()

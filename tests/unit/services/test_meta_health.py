"""The health service: what it sees, what it writes, what it tells, and that nothing it lacks stops it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import AcbBoost, ExfPayload, Heartbeat, MetaHealth, ObfUniverse
from dolphin.grid.port import GridError
from dolphin.grid.topics import ACB_BOOST, EXF, HEARTBEAT, META_HEALTH, OBF_UNIVERSE
from dolphin.grid.typed import TypedGrid
from dolphin.services.clock import VirtualClock
from dolphin.services.held import HeldServices
from dolphin.services.home import Home, SystemSettings
from dolphin.services.meta_health import META_HEALTH_FILE, MetaHealthService
from dolphin.services.ports import any_open, open_ports
from dolphin.services.service import Alert, Context, Hosted
from dolphin.services.supervision import StoppingError
from dolphin.services.table import CRITICAL, SENSES, SERVICES, table_of
from dolphin.services.worker import DaemonWorker

NOW_NS = 1_800_000_000 * NS_PER_S


@dataclass(frozen=True)
class Said:
    name: str
    state: str = "RUNNING"
    group: str = "dolphin_data"
    pid: int = 100
    uptime_s: float = 5.0


@dataclass
class Managing:
    """A process manager in this process."""

    said: dict[str, Said]
    started: list[str] = field(default_factory=list)
    away: Exception | None = None
    gate: threading.Event | None = None

    def services(self) -> list[Said]:
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.away is not None:
            raise self.away
        return list(self.said.values())

    def start_service(self, name: str) -> None:
        self.started.append(name)
        self.said[name] = replace(self.said[name], state="STARTING", pid=self.said[name].pid + 1)

    def put(self, name: str, state: str, pid: int = 0) -> None:
        self.said[name] = replace(self.said[name], state=state, pid=pid)


class Machine:
    """A health service with everything around it in this process."""

    def __init__(self, folder: Path, senses: tuple[str, ...] = ()) -> None:
        settings = SystemSettings(senses=senses)
        self.grid = InProcessGrid()
        self.writer = TypedGrid(self.grid)
        self.client = self.grid.peer()
        self.clock = VirtualClock(NOW_NS)
        self.manager = Managing({s.name: Said(s.name, group=s.group) for s in table_of(settings)})
        self.alerts: list[Alert] = []
        self.ports = {"127.0.0.1:5701": True, "127.0.0.1:4200": False}
        self.home = Home(folder)
        self.context = Context(
            name="meta_health", home=self.home, settings=settings, clock=self.clock,
            grid=TypedGrid(self.client), alert=self.alerts.append,
            options={"manager": self.manager, "probe": self.probe},
        )  # fmt: skip
        self.service = MetaHealthService(self.context)

    def probe(self, addresses: Sequence[str]) -> bool:
        return any(self.ports[address] for address in addresses)

    def feed(self, at_ns: int | None = None) -> None:
        """Fresh data of every organ."""
        at_ns = self.clock.now_ns() if at_ns is None else at_ns
        iso = iso_from_ns(at_ns)
        self.writer.put(EXF, ExfPayload(pushed_at=at_ns / NS_PER_S))
        self.writer.put(ACB_BOOST, AcbBoost(boost=1.5, beta=0.8, signals=1.0, day=iso[:10], updated_at=iso))
        self.writer.put(OBF_UNIVERSE, ObfUniverse(snapshot_utc=iso, n_assets=0, assets={}))
        self.scan(at_ns)
        for spec in SERVICES:
            self.writer.put(HEARTBEAT, Heartbeat.at(spec.name, "running", at_ns), service=spec.name)

    def scan(self, at_ns: int) -> None:
        scan = {
            "scan_number": 7, "timestamp_ns": at_ns, "timestamp": iso_from_ns(at_ns),
            "assets": ["BTCUSDT"], "asset_prices": [84_000.0],
            "multi_window_results": {
                w: {"lambda_max": 1.0, "velocity": 0.0} for w in ("50", "150", "300", "750")
            },
        }  # fmt: skip
        self.grid.map("DOLPHIN_FEATURES").put("latest_eigen_scan", json.dumps(scan).encode())

    def check(self) -> MetaHealth:
        self.service.tick()
        assert self.service.latest is not None
        return self.service.latest

    def after(self, seconds: float) -> None:
        self.clock.move_to(self.clock.now_ns() + int(seconds * NS_PER_S))

    def file(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.home.run_logs / META_HEALTH_FILE).read_text())
        return found

    def told(self, kind: str) -> list[str]:
        return [alert.text for alert in self.alerts if alert.kind == kind]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.service.start()
    return made


def test_all_is_well(machine: Machine) -> None:
    machine.feed()
    found = machine.check()
    assert (found.m4_control_plane, found.m1_data_infra, found.m3_data_freshness) == (0.8, 1.0, 1.0)
    assert (found.m5_coherence, found.m1_trader, found.m2_heartbeat) == (0.5, 1.0, 1.0)
    assert found.rm_meta == (0.35 * 0.8 + 0.35 * 1.0 + 0.20 * 1.0 + 0.10 * 0.5) / 1.0
    assert found.status == "GREEN"
    assert machine.alerts == []
    assert machine.manager.started == []
    assert TypedGrid(machine.grid).get(META_HEALTH) == found
    assert machine.file()["rm_meta"] == found.rm_meta
    assert machine.service.health() == (True, "rm_meta 0.88 GREEN")
    assert machine.service.gauges()["rm_meta"] == found.rm_meta


def test_keys_age_by_their_own_stamps(machine: Machine) -> None:
    machine.feed()
    machine.after(31)
    found = machine.check()
    assert found.m3_data_freshness == 0.625  # three at 0.5; the breaker counts by its presence
    assert found.hz_key_status["exf_latest"] == {"score": 0.5, "state": "late", "age_s": 31.0}
    machine.after(90)
    found = machine.check()
    assert found.m3_data_freshness == 0.25
    assert found.hz_key_status["latest_eigen_scan"]["state"] == "stale"
    assert found.hz_key_status["acb_boost"] == {"score": 1.0, "state": "fresh"}
    assert machine.told("stale_data") == [
        "data are stale (freshness 0.25): exf_latest, latest_eigen_scan, obf_universe_latest"
    ]
    machine.feed()
    assert machine.check().m3_data_freshness == 1.0
    assert machine.told("stale_data")[1:] == ["data are fresh again"]
    assert machine.manager.started == []


def test_stamp_of_the_future_is_stale_but_not_its_rounding(machine: Machine) -> None:
    machine.feed()
    for offset in range(0, 1000, 37):
        machine.clock.move_to(NOW_NS + offset)
        machine.writer.put(EXF, ExfPayload(pushed_at=machine.clock.now_ns() / NS_PER_S))
        assert machine.check().hz_key_status["exf_latest"]["state"] == "fresh"
    machine.writer.put(EXF, ExfPayload(pushed_at=machine.clock.now_ns() / NS_PER_S + 1.0))
    assert machine.check().hz_key_status["exf_latest"]["state"] == "stale"


def test_absent_keys_count_half_and_raise_nothing(machine: Machine) -> None:
    found = machine.check()
    assert found.m3_data_freshness == 0.5
    assert found.m5_coherence == 0.0
    assert machine.told("stale_data") == []


@pytest.mark.parametrize(
    "boost", [b'{"boost":3.5,"beta":0.5}', b'{"boost":1.5,"beta":-1}', b'{"boost":"x"}', b"{", b"[]"]
)
def test_incoherent_breaker_is_seen_though_no_typed_reader_takes_it(machine: Machine, boost: bytes) -> None:
    machine.feed()
    assert machine.check().m5_coherence == 0.5
    machine.grid.map("DOLPHIN_FEATURES").put("acb_boost", boost)
    assert machine.check().m5_coherence == 0.0


def test_dead_service_is_started_within_one_check(machine: Machine) -> None:
    machine.feed()
    machine.check()
    machine.manager.put("exf", "FATAL")
    found = machine.check()
    assert found.m1_data_infra == 1.0 - 1.0 / len(CRITICAL)
    assert machine.manager.started == ["exf"]
    assert machine.told("restart") == ["exf was FATAL and was started again"]
    machine.manager.put("exf", "RUNNING", pid=555)
    machine.after(10)
    machine.feed()
    found = machine.check()
    assert found.m1_data_infra == 1.0
    assert found.service_status["exf"]["restarts"] == 1
    assert machine.manager.started == ["exf"]


def test_service_that_the_manager_has_started_again_is_told_and_an_order_is_not(machine: Machine) -> None:
    machine.feed()
    machine.check()
    machine.manager.put("scanner", "RUNNING", pid=200)
    machine.check()
    machine.check()
    assert machine.told("restart") == ["scanner ended and was started again"]
    # By the operator, or by this service, which has said so.
    for state in ("STOPPED", "FATAL"):
        machine.manager.put("acb", state)
        machine.after(10)
        machine.check()
        machine.manager.put("acb", "RUNNING", pid=300 + len(state))
        machine.check()
    assert machine.told("restart")[1:] == [
        "acb was STOPPED and was started again", "acb was FATAL and was started again",
    ]  # fmt: skip
    machine.manager.put("oracle", "STOPPED")
    machine.check()
    machine.manager.put("oracle", "RUNNING", pid=400)
    found = machine.check()
    assert len(machine.told("restart")) == 3
    assert found.service_status["oracle"]["restarts"] == 1


def test_restart_does_not_depend_on_the_score(machine: Machine) -> None:
    """The score is DEAD or GREEN: the same service is healed."""
    machine.ports["127.0.0.1:5701"] = False
    for name in CRITICAL:
        machine.manager.put(name, "STOPPED")
    assert machine.check().status == "DEAD"
    assert machine.manager.started == list(CRITICAL)


@pytest.mark.parametrize("name", ["trader", "trader_standby", "scanner", "scan_bridge", "watchdog", "oracle"])
@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_others_are_shown_and_never_started(machine: Machine, name: str, state: str) -> None:
    machine.feed()
    machine.manager.put(name, state)
    for _ in range(100):
        machine.after(10)
        found = machine.check()
    assert found.service_status[name]["state"] == state
    assert machine.manager.started == []
    # Stopped is an intention and is not told; given up is told every five minutes.
    assert len(machine.told("service")) == (0 if state == "STOPPED" else 4)


def test_books_are_healed_and_count_nothing_the_universe_counts_and_esof_is_the_operator_s(
    tmp_path: Path,
) -> None:
    """Spec 07: the universe is critical, books are started again; the rest is shown."""
    machine = Machine(tmp_path, SENSES)
    machine.feed()
    assert machine.check().m1_data_infra == 1.0
    for name in ("obf", "esof"):
        machine.manager.put(name, "FATAL")
    found = machine.check()
    assert found.m1_data_infra == 1.0
    assert machine.manager.started == ["obf"]
    assert machine.told("restart") == ["obf was FATAL and was started again"]
    assert machine.told("service") == ["esof is FATAL; only the operator starts it again"]
    assert {n: found.service_status[n]["critical"] for n in ("obf", "esof", "obf_universe")} == {
        "obf": False, "esof": False, "obf_universe": True,
    }  # fmt: skip
    machine.manager.put("obf_universe", "EXITED")
    assert machine.check().m1_data_infra == 2.0 / 3.0
    assert machine.manager.started == ["obf", "obf_universe"]


def test_held_service_is_shown_and_left_alone(machine: Machine) -> None:
    HeldServices(machine.home).hold("exf", by="anna", now_ns=NOW_NS)
    machine.manager.put("exf", "STOPPED")
    found = machine.check()
    assert machine.manager.started == []
    assert found.service_status["exf"]["held"] is True
    assert found.service_status["acb"]["held"] is False


def test_manager_away_is_a_value(machine: Machine) -> None:
    machine.feed()
    machine.manager.away = ConnectionRefusedError("socket")
    found = machine.check()
    assert found.m1_data_infra == 0.0
    assert found.status == "CRITICAL"
    healthy, why = machine.service.health()
    assert not healthy
    assert "ConnectionRefusedError" in why
    assert len(machine.told("manager")) == 1
    machine.manager.away = None
    machine.after(10)
    machine.feed()
    assert machine.check().status == "GREEN"
    assert machine.told("manager")[-1] == "the process manager answers again"


def test_grid_away_is_a_value_and_the_file_is_written(machine: Machine) -> None:
    machine.feed()
    machine.check()
    machine.client.drop_connection()
    machine.ports["127.0.0.1:5701"] = False
    machine.after(200)
    with pytest.raises(GridError):
        machine.service.tick()
    found = machine.file()
    assert found["m4_control_plane"] == 0.0
    assert found["timestamp"] == iso_from_ns(machine.clock.now_ns())
    assert machine.told("grid") == ["the grid is lost: nothing listens on its port"]
    hosted = Hosted(machine.service, machine.context)
    hosted.due_ns = machine.clock.now_ns()
    hosted.step()
    assert "not reachable" in hosted.grid_error
    machine.client.restore_connection()
    machine.ports["127.0.0.1:5701"] = True
    machine.after(10)
    machine.feed()
    assert machine.check().status == "GREEN"
    assert machine.told("grid")[-1] == "the grid is back"


def test_grid_away_from_the_first_moment(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.client.drop_connection()
    machine.service.start()
    with pytest.raises(GridError):
        machine.service.tick()
    assert machine.file()["m1_data_infra"] == 1.0
    machine.client.restore_connection()
    machine.feed()
    assert machine.check().m3_data_freshness == 1.0


def test_open_port_of_a_member_that_does_not_answer_is_a_lost_grid(machine: Machine) -> None:
    machine.client.drop_connection()
    with pytest.raises(GridError):
        machine.service.tick()
    assert machine.told("grid") == ["the grid is lost: this service has no connection to it"]


def test_trouble_that_lasts_is_told_every_five_minutes(machine: Machine) -> None:
    machine.manager.away = OSError("gone")
    for _ in range(61):
        machine.check()
        machine.after(10)
    assert len(machine.told("manager")) == 3


def test_bad_score_is_told_when_it_lasts(machine: Machine) -> None:
    machine.feed()
    for name in CRITICAL:
        machine.manager.put(name, "BACKOFF")
    machine.ports["127.0.0.1:5701"] = False
    assert machine.check().status == "DEAD"
    machine.after(10)
    machine.feed()
    machine.check()
    assert machine.told("red") == []
    machine.after(10)
    machine.feed()
    machine.check()
    assert machine.told("red") == ["meta-health is DEAD: 0.25"]
    for name in CRITICAL:
        machine.manager.put(name, "RUNNING", pid=7)
    machine.ports["127.0.0.1:5701"] = True
    machine.check()
    assert machine.told("red")[1:] == ["meta-health is GREEN again"]


def checked(machine: Machine, seconds: float) -> None:
    """Checks every 10 s, with fresh data, for so long."""
    for _ in range(int(seconds // 10)):
        machine.after(10)
        machine.feed()
        machine.check()


def test_an_ordinary_start_is_not_red(machine: Machine) -> None:
    """Nothing published yet, both data services inside their start seconds: nobody is woken."""
    for name in CRITICAL:
        machine.manager.put(name, "STARTING", pid=7)
    for _ in range(3):
        assert machine.check().status in ("CRITICAL", "DEAD")
        machine.after(10)
    for name in CRITICAL:
        machine.manager.put(name, "RUNNING", pid=7)
    machine.feed()
    machine.check()
    checked(machine, 60)
    assert machine.alerts == []


def test_a_service_that_does_not_come_up_is_red_after_its_start_time(machine: Machine) -> None:
    machine.feed()
    machine.check()
    for name in CRITICAL:
        machine.manager.put(name, "STARTING", pid=7)
    machine.check()
    checked(machine, 40)
    assert machine.told("red") == []
    checked(machine, 20)
    assert len(machine.told("red")) == 1


def test_one_that_dies_again_and_again_at_its_start_is_excused_once(machine: Machine) -> None:
    machine.feed()
    machine.check()
    for k in range(12):
        for name in CRITICAL:
            machine.manager.put(name, "BACKOFF" if k % 2 else "STARTING")
        checked(machine, 10)
    assert machine.told("red") != []


def test_services_on_their_way_hide_no_lost_grid(machine: Machine) -> None:
    machine.ports["127.0.0.1:5701"] = False
    for name in CRITICAL:
        machine.manager.put(name, "STARTING", pid=7)
    machine.check()
    for _ in range(2):
        machine.after(10)
        machine.check()
    assert len(machine.told("red")) == 1


def test_what_the_operator_holds_down_is_not_red(machine: Machine) -> None:
    HeldServices(machine.home).hold(*CRITICAL, by="anna", now_ns=NOW_NS)
    for name in CRITICAL:
        machine.manager.put(name, "STOPPED")
    machine.feed()
    assert machine.check().status == "CRITICAL"
    checked(machine, 120)
    assert machine.told("red") == []
    HeldServices(machine.home).release()
    for name in CRITICAL:
        machine.manager.put(name, "BACKOFF")
    checked(machine, 40)
    assert len(machine.told("red")) == 1


def test_an_ordered_down_alarms_nobody(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.feed()
    machine.check()
    machine.manager.away = StoppingError(6, "supervisord refused getAllProcessInfo: the manager is stopping")
    with caplog.at_level("INFO"):
        checked(machine, 60)
    assert machine.alerts == []
    assert [r.levelname for r in caplog.records if "was asked to end" in r.message] == ["INFO"]
    # A manager that is gone without having been asked is told at once.
    machine.manager.away = ConnectionRefusedError("socket")
    checked(machine, 10)
    assert len(machine.told("manager")) == 1


def test_a_manager_that_is_busy_at_the_start_is_given_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.manager.gate = threading.Event()
    worker = DaemonWorker("look", jobs_max=1)
    service = MetaHealthService(machine.context, manager=machine.manager, probe=machine.probe, worker=worker)
    service.start()
    machine.feed()
    for told in (0, 0, 0, 1):
        service.tick()
        assert len(machine.told("manager")) == told
        machine.after(10)
        machine.feed()
    machine.manager.gate.set()
    assert worker.idle(10)


def test_hung_service_shows_in_its_heartbeat(machine: Machine) -> None:
    machine.feed()
    machine.after(60)
    running = [s.name for s in SERVICES if s.name != "meta_health"]
    for name in running[1:]:
        beat = Heartbeat.at(name, "running", machine.clock.now_ns())
        machine.writer.put(HEARTBEAT, beat, service=name)
    found = machine.check()
    assert found.m2_heartbeat == (len(running) - 1) / len(running)
    assert found.service_status[running[0]]["heartbeat_age_s"] == 60.0


def test_slow_manager_delays_no_check_and_its_old_answer_expires(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    worker = DaemonWorker("look", jobs_max=1)
    service = MetaHealthService(machine.context, manager=machine.manager, probe=machine.probe, worker=worker)
    service.start()
    machine.feed()
    service.tick()
    assert worker.idle(10)
    machine.manager.gate = threading.Event()
    for seconds, expected in ((10, 1.0), (10, 1.0), (20, 0.0)):
        machine.after(seconds)
        service.tick()
        assert service.latest is not None
        assert service.latest.m1_data_infra == expected
    machine.manager.gate.set()
    assert worker.idle(10)
    service.tick()
    assert worker.idle(10)
    service.tick()
    assert service.latest.m1_data_infra == 1.0


def test_file_that_cannot_be_written_stops_nothing(machine: Machine) -> None:
    machine.home.run_logs.parent.mkdir(parents=True, exist_ok=True)
    machine.home.run_logs.write_text("a file where the folder should be")
    machine.feed()
    assert machine.check().status == "GREEN"
    assert machine.context.counts["files_not_written"] == 1
    assert TypedGrid(machine.grid).get(META_HEALTH) is not None


def test_ports_open_closed_and_nonsense() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        closed = f"127.0.0.1:{reserved.getsockname()[1]}"
        found = open_ports([taken, closed, "nonsense", "127.0.0.1:x", "127.0.0.1:99999999"])
        assert found == {
            taken: True, closed: False, "nonsense": False, "127.0.0.1:x": False, "127.0.0.1:99999999": False,
        }  # fmt: skip
        assert any_open([closed, taken])
        assert not any_open([closed])


def test_stop_lets_go_of_the_grid(machine: Machine) -> None:
    machine.feed()
    machine.check()
    machine.service.stop()
    machine.service.stop()
    machine.after(200)
    machine.feed()
    assert machine.service._views == {}

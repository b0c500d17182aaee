"""What a process tells of itself, from inside: when it counts as hung, which labels, which port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.typed import TypedGrid
from dolphin.services import metrics
from dolphin.services.clock import VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.metrics import (
    EVENTS_MAX,
    Histogram,
    Monitor,
    port_file,
    port_of,
    read_port,
    serve_near,
)
from dolphin.services.service import Context, Hosted
from dolphin.services.table import SERVICES


class Still:
    """A service that is well."""

    period_s = 10.0
    phase = "running"

    def start(self) -> None: ...

    def tick(self) -> None: ...

    def stop(self) -> None: ...

    def health(self) -> tuple[bool, str]:
        return True, ""

    def gauges(self) -> dict[str, float]:
        return {"a-b": 1.0}


class Machine:
    """A monotonic clock that is moved by hand."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(metrics, "time", made)
    return made


@pytest.fixture
def hosted(tmp_path: Path) -> Hosted:
    context = Context("exf", Home(tmp_path), SystemSettings(), VirtualClock(0), TypedGrid(InProcessGrid()))
    return Hosted(Still(), context)


@pytest.mark.parametrize(("speed", "allowed_s"), [(1.0, 35.0), (10.0, 8.0)])
def test_loop_counts_as_hung_after_three_periods_and_five_seconds(
    machine: Machine, hosted: Hosted, speed: float, allowed_s: float
) -> None:
    """A period is a time of the system, the grace one of the machine."""
    monitor = Monitor("exf", speed=speed)
    assert (monitor.healthz()["ok"], monitor.healthz()["why"]) == (False, "starting")
    monitor.waits("the grid is away")
    assert monitor.healthz()["why"] == "the grid is away"
    monitor.starts(hosted)
    monitor.ticked(0.001, 0.0)
    monitor.looks()
    machine.now_s += allowed_s
    assert monitor.healthz()["ok"]
    machine.now_s += 0.5
    told = monitor.healthz()
    assert not told["ok"]
    assert (
        told["why"] == f"hung: the last tick ended {allowed_s + 0.5:.1f} s ago, {allowed_s:.1f} s are allowed"
    )
    assert told["last_tick_age_s"] == allowed_s + 0.5
    monitor.ticked(0.001, None)
    assert monitor.healthz()["ok"]
    monitor.ends("stopped")
    machine.now_s += 100.0
    assert (monitor.healthz()["ok"], monitor.healthz()["why"]) == (False, "stopped")


def test_counters_are_bounded_and_listener_failures_are_among_them(hosted: Hosted) -> None:
    monitor = Monitor("exf")
    monitor.starts(hosted)
    hosted.context.counts.update({f"z{n:03}": 1 for n in range(2 * EVENTS_MAX)})
    hosted.context.counts["grid_errors"] = 7
    grid = hosted.context.grid.grid

    def fails(event: object) -> None:
        raise ValueError("a listener")

    grid.map("M").listen(fails)
    grid.map("M").put("k", b"1")
    (events,) = (family for family in monitor.collect() if family.name == "dolphin_events")
    values = {sample.labels["event"]: sample.value for sample in events.samples}
    assert len(values) == EVENTS_MAX
    assert (values["grid_errors"], values["listener_failures"], values["payloads_rejected"]) == (
        7.0,
        1.0,
        0.0,
    )


def test_names_of_gauges_are_what_prometheus_takes(hosted: Hosted) -> None:
    monitor = Monitor("exf")
    monitor.starts(hosted)
    monitor.looks()
    assert "dolphin_a_b" in {family.name for family in monitor.collect()}


def test_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 60.0):
        histogram.add(seconds)
    rows = dict(histogram.cumulative())
    assert (rows["0.0005"], rows["0.001"], rows["0.002"], rows["10.0"], rows["+Inf"]) == (1, 2, 3, 3, 4)
    assert histogram.total_s == pytest.approx(60.0021)


def test_ports_follow_the_table_and_a_taken_one_stops_nobody(tmp_path: Path) -> None:
    ports = [port_of(spec.name, 9400) for spec in SERVICES]
    assert ports == list(range(9400, 9400 + len(SERVICES)))
    assert port_of("exf", 0) == port_of("unknown", 9400) == 0
    home = Home(tmp_path)
    assert read_port(home, "exf") is None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        endpoint, as_asked = serve_near(Monitor("exf"), port, port_file(home, "exf"))
        try:
            assert not as_asked
            assert endpoint.port != port
            assert read_port(home, "exf") == endpoint.port
        finally:
            endpoint.close()
    port_file(home, "exf").write_text("damaged")
    assert read_port(home, "exf") is None

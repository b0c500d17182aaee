"""A real supervisord over toy services: who is restarted, one manager only, the order of the end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toy_system import SCRIPT, TABLE, ask, events, make_home, until

from dolphin.services.claims import ClaimError, take_claim
from dolphin.services.home import Home
from dolphin.services.orphans import living
from dolphin.services.supervision import SupervisionError, Supervisor

Make = Callable[..., Supervisor]
LAUNCH = (sys.executable, str(SCRIPT))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Supervisor] = []

    def begin(name: str = "a home, 100%s of it", **settings: object) -> Supervisor:
        root = tmp_path / name
        home = Home(root) if root.exists() else make_home(root)
        options = {"services": TABLE, "launch": LAUNCH, "units": (), **settings}
        made.append(Supervisor(home, **options))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for supervisor in made:
        supervisor.shutdown()


def states(supervisor: Supervisor) -> dict[str, str]:
    return {state.name: state.state for state in supervisor.services()}


def test_life_under_a_supervisor(make: Make) -> None:
    """One story, for each chapter needs the one before."""
    supervisor = make()
    home = supervisor.home
    assert not supervisor.running()
    assert supervisor.pid is None
    assert not supervisor.shutdown()
    with pytest.raises(SupervisionError, match=r"no process manager answers on .*`dolphin up --home "):
        supervisor.services()

    # What autostarts does, the rest waits for a person.
    assert supervisor.start()
    seen: list[str] = []
    (exf,) = supervisor.wait_for(("exf",), 30.0, on_change=lambda state: seen.append(state.state))
    assert exf.up
    assert seen[-1] == "RUNNING"
    assert exf.pid > 0
    assert exf.group == "dolphin_data"
    assert exf.uptime_s >= 1.0
    assert states(supervisor) == {"exf": "RUNNING", "acb": "STOPPED", "trader": "STOPPED"}
    assert supervisor.start_service("acb")
    assert supervisor.start_service("trader")
    assert not supervisor.start_service("exf")
    assert all(state.up for state in supervisor.wait_for(("exf", "acb", "trader"), 30.0))
    with pytest.raises(SupervisionError, match=r"'tradr' is no service. Did you mean 'trader'"):
        supervisor.start_service("tradr")
    assert stat.S_IMODE(supervisor.socket.stat().st_mode) == 0o700

    # A second `dolphin up` finds it; a second manager of any kind is refused.
    assert not make().start()
    with pytest.raises(ClaimError, match=rf"is claimed by supervisord \(pid {supervisor.pid}\)"):
        take_claim(home)
    other = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", home.supervisor / "supervisord.conf"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert other.returncode != 0
    assert "Another program is already listening" in other.stderr
    assert supervisor.running()

    # Killed: the data service is back within 30 s, the trader stays down.
    before = {state.name: state.pid for state in supervisor.services()}
    began = time.monotonic()
    os.kill(before["exf"], signal.SIGKILL)
    os.kill(before["trader"], signal.SIGKILL)
    until(lambda: (now := supervisor.service("exf")).up and now.pid != before["exf"])
    assert time.monotonic() - began < 30.0
    until(lambda: ask(home, "exf")[0] == 200)
    trader = supervisor.service("trader")
    assert (trader.state, trader.pid, trader.exit_status) == ("EXITED", 0, -1)
    assert trader.down
    assert supervisor.service("acb").pid == before["acb"]

    # One stopped and started by a person.
    assert supervisor.stop_service("acb")
    assert not supervisor.stop_service("acb")
    assert supervisor.service("acb").exit_status == 0
    assert supervisor.start_service("acb")
    assert supervisor.start_service("trader")
    assert all(state.up for state in supervisor.wait_for(("acb", "trader"), 30.0))

    # The end: the trader before the data services, each in order, nothing left behind.
    for state in supervisor.services():
        # Up for supervisord may still be importing: the lock's file tells whose the endpoint is.
        until(
            lambda state=state: living(home).get(state.name) == state.pid and ask(home, state.name)[0] == 200
        )
    (home.root / "toys" / "stopped").unlink()
    pids = [state.pid for state in supervisor.services()]
    assert supervisor.shutdown()
    stopped = (home.root / "toys" / "stopped").read_text().split()
    assert stopped[0] == "trader"
    assert sorted(stopped) == ["acb", "exf", "trader"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert supervisor.pid is None
    take_claim(home).let_go()


def test_trader_that_breaks_at_its_start_is_tried_once(make: Make) -> None:
    supervisor = make(
        services=[
            replace(spec, autostart=False, start_seconds=5 if spec.name == "trader" else 1) for spec in TABLE
        ]
    )
    supervisor.start()
    for name in ("exf", "trader"):
        (supervisor.home.root / "toys" / f"{name}.fails").touch()
        supervisor.start_service(name)
    assert [state.state for state in supervisor.wait_for(("trader",), 30.0)] == ["FATAL"]

    def starts(name: str) -> int:
        return [event["event"] for event in events(supervisor.home, name)].count("starts")

    # The data service is tried again, and comes up once what ails it is gone.
    until(lambda: starts("exf") >= 2)
    (supervisor.home.root / "toys" / "exf.fails").unlink()
    until(lambda: supervisor.service("exf").up)
    assert starts("trader") == 1
    assert supervisor.service("trader").state == "FATAL"


def test_home_with_a_long_path_has_a_short_socket_of_its_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        supervisor = make("x" * 120, services=[replace(spec, autostart=False) for spec in TABLE])
        assert supervisor.socket.parent.parent == Path(folder)
        assert supervisor.start()
        assert stat.S_IMODE(supervisor.socket.parent.stat().st_mode) == 0o700
        assert set(states(supervisor).values()) == {"STOPPED"}
        assert supervisor.shutdown()


@pytest.mark.parametrize(
    ("line", "claims"),
    [
        ("ExecStart=/usr/bin/dolphin trade --home {home}", True),
        ("ExecStart=-/opt/v/bin/python -m dolphin acb", True),
        ("ExecStart=/opt/v/bin/python -m dolphin.cli acb --home={home}", True),
        ("ExecStart=/bin/dolphin \\\n  exf", True),
        ("ExecStart=/usr/bin/dolphin trade --home /srv/another", False),
        ("ExecStart=/usr/bin/dolphin up --home {home}", False),
        ("ExecStart=/usr/bin/dolphin books --home {home}", True),
        ("ExecStart=/usr/bin/dolphin universe pick --home {home} --out u.yml", False),
        ("# ExecStart=/usr/bin/dolphin trade", False),
    ],
)
def test_unit_of_systemd_that_names_a_service_of_ours_is_a_claim(
    make: Make, tmp_path: Path, line: str, claims: bool
) -> None:
    units = tmp_path / "units"
    units.mkdir()
    supervisor = make("home", units=(tmp_path / "nowhere", units))
    text = line.format(home=supervisor.home.root)
    (units / "bot.service").write_text(f"[Service]\n{text}\n")
    if claims:
        with pytest.raises(ClaimError, match=f"^{units}/bot.service claims the service .*disable that unit"):
            supervisor.start()
        assert not supervisor.socket.exists()
    else:
        supervisor.check_claims()

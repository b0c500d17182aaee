"""The kill switch: durable, local, never opened by damage."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dolphin.cli import main
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import StoreError
from dolphin.journal.store import Journal
from dolphin.services import kill_switch
from dolphin.services.durable import DurableState, write_durably
from dolphin.services.home import Home, SystemSettings
from dolphin.services.kill_switch import (
    DAMAGED,
    OPERATOR,
    ORACLE,
    SWITCH_FILE,
    Engagement,
    KillSwitch,
    SwitchState,
)
from dolphin.services.live_hold import WarmupHold

NOW = 1_767_571_200_000_000_000


def test_engaged_read_and_lifted_by_different_objects(tmp_path: Path) -> None:
    one, other = KillSwitch(tmp_path / "k.json"), KillSwitch(tmp_path / "k.json")
    assert one.read() is None
    assert one.lift() == {}
    made = one.engage("HALT", by="op", reason="why not", now_ns=NOW)
    seen = other.read()
    assert made == Engagement(state="HALT", by="op", reason="why not", at_ns=NOW)
    assert seen == SwitchState(engaged={OPERATOR: made})
    assert seen.told() == "HALT by op since 2026-01-05T00:00:00Z: why not"
    assert other.lift() == {OPERATOR: made}
    assert one.read() is None


def test_every_change_is_seen_although_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    writer, reader = KillSwitch(tmp_path / "k.json"), KillSwitch(tmp_path / "k.json")
    for k in range(50):
        writer.engage("FLATTEN", by="op", reason=f"reason {k:02d}", now_ns=NOW)
        found = reader.read()
        assert found is not None
        assert found.reason == f"reason {k:02d}"
        assert reader.read() is found


def test_a_flatten_is_not_weakened(tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path / "k.json")
    flatten = switch.engage("FLATTEN", by="op", reason="all out", now_ns=NOW)
    assert switch.engage("HALT", by="op", reason="only halt", now_ns=NOW + 1) == flatten
    assert switch.engage("FLATTEN", by="op", reason="again", now_ns=NOW + 2).reason == "again"


@pytest.mark.parametrize("first", [OPERATOR, ORACLE])
def test_operator_and_oracle_hold_it_on_each_for_itself(first: str, tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path / "k.json")
    for name in sorted((OPERATOR, ORACLE), key=lambda name: name != first):
        if name == OPERATOR:
            switch.engage("FLATTEN", by="anna", reason="maintenance", now_ns=NOW)
        else:
            switch.engage("HALT", name=ORACLE, by="oracle", reason="scan 7 differs", now_ns=NOW + 1)
    both = KillSwitch(switch.path).read()
    assert both is not None
    assert both.state == "FLATTEN"
    assert {name: (each.by, each.reason) for name, each in both.engaged.items()} == {
        OPERATOR: ("anna", "maintenance"), ORACLE: ("oracle", "scan 7 differs"),
    }  # fmt: skip
    assert "FLATTEN by anna since 2026-01-05T00:00:00Z: maintenance" in both.told()
    assert "HALT by oracle since 2026-01-05T00:00:00Z: scan 7 differs" in both.told()
    assert list(switch.lift(OPERATOR)) == [OPERATOR]
    left = KillSwitch(switch.path).read()
    assert left is not None
    assert (left.state, left.by, left.reason) == ("HALT", "oracle", "scan 7 differs")
    assert switch.lift(OPERATOR) == {}
    assert list(switch.lift(ORACLE)) == [ORACLE]
    assert switch.read() is None


@pytest.mark.parametrize(("by", "name"), [("anna", OPERATOR), ("oracle", ORACLE)])
def test_a_file_of_an_earlier_version_is_read(by: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text(f'{{"state":"FLATTEN","by":"{by}","reason":"out","at_ns":{NOW}}}\n')
    found = KillSwitch(path).read()
    assert found is not None
    assert found.engaged == {name: Engagement(state="FLATTEN", by=by, reason="out", at_ns=NOW)}


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """Every one reads the file, and writes it with its own word added."""
    names = [f"holder {k}" for k in range(8)]
    together = threading.Barrier(len(names))

    def engage(name: str) -> None:
        together.wait(20)
        KillSwitch(tmp_path / "k.json").engage("HALT", name=name, by=name, reason="x", now_ns=NOW)

    threads = [threading.Thread(target=engage, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    found = KillSwitch(tmp_path / "k.json").read()
    assert found is not None
    assert sorted(found.engaged) == names


def test_a_stopped_process_that_holds_the_turn_delays_no_halt_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_switch, "TURN_S", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        KillSwitch(tmp_path / "k.json").engage("HALT", by="op", reason="now", now_ns=NOW)
    finally:
        os.close(folder)
    assert KillSwitch(tmp_path / "k.json").read() is not None


@pytest.mark.parametrize("content", [b"", b"{", b'{"state":"OPEN"}', b"[]", b'{"engaged":{}}', b"\xff\xfe"])
def test_a_damaged_switch_is_an_engaged_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_bytes(content)
    found = KillSwitch(path).read()
    assert found is not None
    assert found.state == "HALT"
    assert "is damaged" in found.told()
    assert list(found.engaged) == [DAMAGED]


def test_a_damaged_switch_is_dated_by_its_file_and_stays_on_record(tmp_path: Path) -> None:
    """What the file held is lost, perhaps the oracle's word: a halt does not make it forgotten."""
    path = tmp_path / "k.json"
    path.write_bytes(b"{")
    os.utime(path, ns=(NOW, NOW))
    switch = KillSwitch(path)
    found = switch.read()
    assert found is not None
    assert found.told().startswith(
        "HALT by the switch itself since 2026-01-05T00:00:00Z: its file is damaged"
    )
    switch.engage("HALT", by="op", reason="look", now_ns=NOW)
    found = KillSwitch(path).read()
    assert found is not None
    assert list(found.engaged) == [DAMAGED, OPERATOR]
    assert list(switch.lift(OPERATOR)) == [OPERATOR]
    found = switch.read()
    assert found is not None
    assert list(found.engaged) == [DAMAGED]
    switch.lift()
    assert switch.read() is None


def test_an_unknown_time_is_told_as_such() -> None:
    assert Engagement(state="HALT", by="op", reason="x").told() == "HALT by op since an unknown time: x"


def test_a_switch_that_cannot_be_read_is_an_engaged_one(tmp_path: Path) -> None:
    (tmp_path / "k.json").mkdir()
    found = KillSwitch(tmp_path / "k.json").read()
    assert found is not None
    assert found.state == "HALT"


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path)
    Home(tmp_path).save(SystemSettings())
    assert main(["halt", "--home", home, "--reason", "maintenance"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("on: HALT by ")
    assert ": maintenance\n" in out
    assert f"dolphin resume --home {home}" in out
    assert main(["flatten", "--home", home]) == 0
    assert "closes on the next scan" in capsys.readouterr().out
    assert main(["halt", "--home", home]) == 0
    assert capsys.readouterr().out.startswith("already stronger: FLATTEN")
    assert main(["resume", "--home", home]) == 0
    assert capsys.readouterr().out.startswith("lifted: it was FLATTEN")
    assert main(["resume", "--home", home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"engaged": False, "was": None, "lifted": {}, "left": {}}
    assert main(["halt", "--home", home + "/nowhere"]) == 2
    assert "no such folder; give the folder of a system, or of a live run" in capsys.readouterr().err


def test_resume_names_the_oracle_or_leaves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path)
    switch = KillSwitch(tmp_path / "kill_switch.json")
    switch.engage("HALT", name=ORACLE, by="oracle", reason="scan 7 differs", now_ns=NOW)
    assert main(["halt", "--home", home, "--reason", "maintenance"]) == 0
    capsys.readouterr()
    assert main(["resume", "--home", home]) == 1
    out = capsys.readouterr().out
    assert out.startswith("lifted: it was HALT by ")
    assert "still on: HALT by oracle since 2026-01-05T00:00:00Z: scan 7 differs\n" in out
    assert f"dolphin resume --oracle --home {home}" in out
    assert main(["resume", "--json", "--home", home]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["engaged"], told["was"], list(told["left"])) == (True, None, [ORACLE])
    assert main(["resume", "--oracle", "--home", home]) == 0
    assert "lifted (the oracle): it was HALT by oracle" in capsys.readouterr().out
    assert switch.read() is None


def test_resume_of_a_damaged_switch_asks_for_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path)
    (tmp_path / "kill_switch.json").write_bytes(b"{")
    assert main(["resume", "--home", home]) == 1
    out = capsys.readouterr().out
    assert "1970" not in out
    assert "look with `dolphin logs oracle`" in out
    assert main(["resume", "--oracle", "--home", home]) == 1
    assert main(["resume", "--all", "--home", home]) == 0
    assert not (tmp_path / "kill_switch.json").exists()


def test_a_halt_is_stamped_by_the_clock_of_its_system(tmp_path: Path) -> None:
    """All of a system's times are of one clock, also at ten times the speed."""
    now_ns = time.time_ns()
    Home(tmp_path).save(SystemSettings(speed=100.0, clock_origin_ns=now_ns - 3600 * NS_PER_S))
    assert main(["halt", "--home", str(tmp_path)]) == 0
    found = KillSwitch(tmp_path / "kill_switch.json").read()
    assert found is not None
    assert found.engaged[OPERATOR].at_ns >= now_ns + 98 * 3600 * NS_PER_S


def test_it_works_without_any_extra(tmp_path: Path) -> None:
    """The operator's way out works where every extra is broken."""
    (tmp_path / "trader").mkdir()
    code = (
        "import sys\n"
        "for name in ('hazelcast', 'supervisor', 'apprise', 'prometheus_client', 'psutil', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "from dolphin.cli import main\n"
        f"raise SystemExit(main(['halt', '--home', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert KillSwitch(tmp_path / "kill_switch.json").read() is not None


def live_run(folder: Path, feed: str | None = "binance", status: str = "running") -> Path:
    """A run's folder as far as a switch looks into it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({} if feed is None else {"feed": feed}))
    journal = Journal.create(folder / "journal.db", {})
    journal.set_meta({"status": status})
    journal.close()
    return folder


def test_the_switch_of_a_live_run_is_engaged_and_lifted_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = live_run(tmp_path / "run")
    assert main(["halt", "--home", str(folder), "--reason", "news"]) == 0
    assert "no entries from the next scan on" in capsys.readouterr().out
    # The run's own, which holds its warm-up too, hears it.
    heard = WarmupHold(folder / SWITCH_FILE, lambda: 1, NOW, needed=1).read()
    assert heard is not None
    assert (heard.state, heard.reason) == ("HALT", "news")
    assert main(["flatten", "--home", str(folder)]) == 0
    assert main(["resume", "--home", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("as far as the posture allows\n")
    assert not (folder / SWITCH_FILE).exists()


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_live_run_that_has_ended_says_when_the_switch_holds(
    status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = live_run(tmp_path, status=status)
    assert main(["halt", "--home", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["note"] == f"the run here is {status}: the switch holds from the next `dolphin run --resume` on"
    )
    assert main(["flatten", "--home", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "--resume` on\n" in out
    assert "closes on the next scan" not in out


@pytest.mark.parametrize("damage", ["journal.db", "settings.json"])
def test_a_live_run_in_ruins_can_be_halted(damage: str, tmp_path: Path) -> None:
    folder = live_run(tmp_path)
    (folder / damage).write_bytes(b"{")
    assert main(["halt", "--home", str(folder)]) == 0
    assert KillSwitch(folder / SWITCH_FILE).read() is not None


def test_a_system_without_its_settings_can_be_halted(tmp_path: Path) -> None:
    (tmp_path / "trader").mkdir()
    assert main(["halt", "--home", str(tmp_path)]) == 0
    assert KillSwitch(tmp_path / SWITCH_FILE).read() is not None


@pytest.mark.parametrize("command", ["halt", "flatten", "resume"])
def test_a_folder_that_nothing_hears_is_refused_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, synthetic, cache, system = (tmp_path / name for name in ("empty", "synthetic", "cache", "system"))
    empty.mkdir()
    Home(system).save(SystemSettings())
    for folder, text in (
        (empty, "neither a system (system.json) nor a run on live prices (settings.json)"),
        (live_run(synthetic, "synthetic"), "a run of synthetic, which hears no switch"),
        (live_run(cache, None), "a run of a scan cache, which hears no switch"),
        (live_run(system / "trader"), f"the system is in the folder above; give --home {system}"),
    ):
        assert main([command, "--home", str(folder)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert text in said.err
        assert len(said.err.splitlines()) == 1
        assert not (folder / SWITCH_FILE).exists()


def test_a_durable_state_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    state: DurableState[Engagement] = DurableState(tmp_path / "a" / "s.json", Engagement)
    assert state.load() is None
    made = Engagement(state="HALT", by="x", reason="y", at_ns=1)
    state.save(made)
    assert state.load() == made
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["s.json"]
    (tmp_path / "a" / "s.json").write_bytes(b"{}")
    with pytest.raises(Exception, match="the saved state is damaged"):
        state.load()


def test_a_disk_that_refuses_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    write_durably(path, b"old")
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from dolphin.services.durable import write_durably\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n"
        f"    write_durably(Path({str(path)!r}), b'x' * 100)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StoreError")
    assert "cannot be written" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["s.json"]


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        write_durably(tmp_path / "f" / "s.json", b"x")

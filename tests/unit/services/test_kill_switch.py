"""The kill switch: durable, local, never opened by damage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dolphin.cli import main
from dolphin.domain.errors import StoreError
from dolphin.services.durable import DurableState, write_durably
from dolphin.services.kill_switch import KillSwitch, SwitchState

NOW = 1_767_571_200_000_000_000


def test_engaged_read_and_lifted_by_different_objects(tmp_path: Path) -> None:
    one, other = KillSwitch(tmp_path / "k.json"), KillSwitch(tmp_path / "k.json")
    assert one.read() is None
    assert one.lift() is None
    one.engage("HALT", by="op", reason="why not", now_ns=NOW)
    seen = other.read()
    assert seen == SwitchState(state="HALT", by="op", reason="why not", at_ns=NOW)
    assert seen.told() == "HALT by op since 2026-01-05T00:00:00Z: why not"
    assert other.lift() == seen
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
    assert switch.engage("HALT", by="oracle", reason="mismatch", now_ns=NOW + 1) == flatten
    assert switch.engage("FLATTEN", by="op", reason="again", now_ns=NOW + 2).reason == "again"


@pytest.mark.parametrize("content", [b"", b"{", b'{"state":"OPEN"}', b"\xff\xfe"])
def test_a_damaged_switch_is_an_engaged_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_bytes(content)
    found = KillSwitch(path).read()
    assert found is not None
    assert found.state == "HALT"
    assert "is damaged" in found.told()


def test_a_switch_that_cannot_be_read_is_an_engaged_one(tmp_path: Path) -> None:
    (tmp_path / "k.json").mkdir()
    found = KillSwitch(tmp_path / "k.json").read()
    assert found is not None
    assert found.state == "HALT"


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path)
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
    assert capsys.readouterr().out == '{"engaged": false, "was": null}\n'
    assert main(["halt", "--home", home + "/nowhere"]) == 2
    assert "no system here" in capsys.readouterr().err


def test_it_works_without_any_extra(tmp_path: Path) -> None:
    """The operator's way out works where every extra is broken."""
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


def test_a_durable_state_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    state: DurableState[SwitchState] = DurableState(tmp_path / "a" / "s.json", SwitchState)
    assert state.load() is None
    made = SwitchState(state="HALT", by="x", reason="y", at_ns=1)
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

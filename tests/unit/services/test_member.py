"""Members as processes: what is missing is said in one line, and a port that is taken is no member."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from dolphin.domain.errors import UsageError
from dolphin.grid.port import GridError
from dolphin.services import member as members
from dolphin.services.member import Member, find_jar, find_java, free_ports


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_java_the_way_out_is_told(nothing_installed):
    with pytest.raises(UsageError, match=r"no `java` on PATH; install .*OpenJDK 17.*dolphin run"):
        find_java()


def test_without_jar_and_maven_the_way_out_is_told(nothing_installed):
    with pytest.raises(UsageError, match=r"no `mvn` on PATH.*DOLPHIN_HAZELCAST_JAR"):
        find_jar()


def test_a_maven_that_fails_is_quoted(nothing_installed):
    fake = nothing_installed / "mvn"
    fake.write_text("#!/bin/sh\necho 'the repository is shut'\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(UsageError, match=r"Maven could not fetch it \(the repository is shut\)"):
        find_jar()


def test_the_jar_of_the_local_repository_and_the_named_one(nothing_installed, monkeypatch):
    kept = nothing_installed / ".m2/repository/com/hazelcast/hazelcast/5.3.8/hazelcast-5.3.8.jar"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    assert find_jar() == kept
    monkeypatch.setenv("DOLPHIN_HAZELCAST_JAR", str(nothing_installed / "other.jar"))
    with pytest.raises(UsageError, match="which is no file"):
        find_jar()
    (nothing_installed / "other.jar").write_bytes(b"")
    assert find_jar().name == "other.jar"


def test_a_port_that_is_taken_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(GridError, match="answers already"):
            Member(tmp_path, port, [f"127.0.0.1:{port}"]).start()


def fake_java(folder: Path, body: str) -> None:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{body}\n")
    java.chmod(0o755)


@pytest.fixture
def faked(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "jar").write_bytes(b"")
    monkeypatch.setenv("DOLPHIN_HAZELCAST_JAR", str(tmp_path / "jar"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (port,) = free_ports(1)
    return tmp_path, Member(tmp_path / "grid", port, [f"127.0.0.1:{port}"])


def test_a_member_that_ends_at_its_start_says_where_to_read(faked):
    folder, member = faked
    fake_java(folder / "bin", "echo it cannot be; exit 1")
    member.start()
    with pytest.raises(GridError, match=r"ended at its start; read .*member-\d+\.log"):
        member.wait_until_ready(20.0)
    assert "it cannot be" in member.log_file.read_text()
    member.stop()
    assert not member.pid_file.exists()


def alive(stat: Path) -> bool:
    """Whether a process is there that is more than a name, by its /proc/PID/stat."""
    try:
        return stat.read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_member_is_known_to_whoever_has_its_folder_and_ends_with_all_it_started(faked):
    folder, member = faked
    fake_java(folder / "bin", f"trap '' TERM; cat /dev/zero > /dev/null & echo $! > {folder}/child; wait")
    member.start()
    pid = member.pid
    other = Member(member.folder, member.port, member.members)
    assert other.pid == pid
    with pytest.raises(GridError, match="not ready after"):
        other.wait_until_ready(0.1)
    assert "-Dhazelcast.phone.home.enabled=false" in member.command()
    # It does not listen to the first word.
    member.stop(timeout_s=0.2)
    assert not member.running
    assert not other.running
    child = Path(f"/proc/{(folder / 'child').read_text().strip()}/stat")
    # Gone, or dead and waiting for somebody to ask; a moment after the kill, for it was busy.
    moment = threading.Event()
    assert any(not alive(child) or moment.wait(0.01) for _ in range(1000))
    member.stop()


def test_the_end_of_a_process_is_waited_for_and_not_looked_for():
    """Also where it is a zombie; and where the kernel has no such handle, another look is all there is."""
    child = subprocess.Popen(["sleep", "60"])
    began = time.monotonic()
    members._wait_for_end(child.pid, 0.01)
    assert child.poll() is None
    child.kill()
    members._wait_for_end(child.pid, 60.0)
    assert time.monotonic() - began < 30.0
    assert child.wait(10) == -9
    members._wait_for_end(child.pid, 60.0)
    assert time.monotonic() - began < 30.0


def test_a_kernel_without_handles_of_processes_is_asked_again_soon(monkeypatch):
    def refuse(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    began = time.monotonic()
    members._wait_for_end(os.getpid(), 60.0)
    assert time.monotonic() - began < 30.0


def test_a_pid_that_was_given_to_somebody_else_is_not_the_member_s(tmp_path):
    member = Member(tmp_path, 1, ["127.0.0.1:1"])
    assert member.pid is None
    member.pid_file.write_text(f"{os.getpid()}\n")
    assert member.pid is None
    member.kill()
    assert members.answers("127.0.0.1:1", 0.2) is False

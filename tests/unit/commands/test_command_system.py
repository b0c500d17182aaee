"""up, down, logs and the services' commands: what they refuse, and what they say without a system."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import msgspec
import pytest
from command_line import invoke

from dolphin.services.home import Home
from dolphin.services.orphans import living
from dolphin.services.supervision import Supervisor

#: A grid that nobody runs: nothing is started, whatever a test gets wrong.
NOBODY = ("--grid", "127.0.0.1:1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that was made and whose grid, somebody else's, is away."""
    root = tmp_path / "home"
    told = invoke("up", "--home", root, *NOBODY, "--seed", "7", "--speed", "10")
    assert told.code == 2
    assert told.error.startswith(
        "dolphin up: no member answers at 127.0.0.1:1; start it, or leave --grid out"
    )
    return root


def test_first_up_makes_the_home_and_sets_its_clock(home: Path) -> None:
    settings = Home(home).load()
    assert (settings.seed, settings.speed, settings.grid_members) == (7, 10.0, ("127.0.0.1:1",))
    assert settings.members == 0
    assert settings.clock_origin_ns > 1_700_000_000 * 10**9
    assert 0 <= settings.market_origin_ns - settings.clock_origin_ns < 60 * 10**9
    assert settings.market_origin_ns % (5 * 10**9) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--seed", "8"), "was made with seed 7, now it is 8; leave it out, or choose another --home"),
        (("--speed", "1"), "was made with speed 10.0, now it is 1.0;"),
        (("--assets", "20"), "was made with assets None, now it is 20;"),
        (("--grid", "hazelcast"), "was made for the members 127.0.0.1:1, now it is --grid hazelcast;"),
        (
            ("--grid", "127.0.0.1:2"),
            "was made with grid_members 127.0.0.1:1, now it is 127.0.0.1:2;",
        ),
    ],
)
def test_up_refuses_other_settings_for_a_home_that_exists(
    home: Path, words: tuple[str, ...], line: str
) -> None:
    before = (home / "system.json").read_bytes()
    told = invoke("up", "--home", home, *words)
    assert told.code == 2
    assert f"{home}: {line}" in told.error
    assert (home / "system.json").read_bytes() == before
    # The same settings are no others.
    assert "no member answers" in invoke("up", "--home", home, "--seed", "7").error


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("tradr",), "'tradr' is no service. Did you mean 'trader'? There are: exf, acb,"),
        (("--grid", "localhost"), "--grid 'localhost': expected hazelcast, or HOST:PORT like 127.0.0.1:5701"),
        (("--grid", "h:99999"), "--grid 'h:99999': expected hazelcast"),
        (("--grid", ","), "--grid ',': expected hazelcast"),
        (("--grid", "h:1", "--members", "3"), "leave --members and --grid-port out"),
        (("--members", "2"), "argument --members: "),
        ((*NOBODY, "--set", "glod"), "expected one of champion, gold, green. Did you mean 'gold'?"),
        ((*NOBODY, "--feed", "recorded"), "a recorded feed needs a path"),
        ((*NOBODY, "--speed", "0"), "speed is 0.0, expected more than 0"),
        ((*NOBODY, "--speed", "1000"), "speed is 1000.0, expected more than 0 and at most 100"),
        ((*NOBODY, "--metrics-port", "65535"), "metrics port is 65535, expected 0 (any free ones) to 65522"),
        ((*NOBODY, "--deployment", "a-b"), "deployment from command line is 'a-b', expected ASCII letters"),
        ((*NOBODY, "--assets", "0"), "assets from command line is 0"),
        (
            (*NOBODY, "--with", "bookz"),
            "'bookz' is nothing to run with. Did you mean 'books'? There are: books, esof, universe",
        ),
        ((*NOBODY, "--with", ","), "--with ',': expected books, esof, universe, or none"),
        (
            (*NOBODY, "--with", "books", "--speed", "10"),
            "books: books come at the speed of the world, not 10",
        ),
        ((*NOBODY, "--exchange", "http://h.example"), "exchange address 'http://h.example' must begin with"),
    ],
)
def test_up_refuses_what_cannot_be_before_anything_is_made(
    tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    told = invoke("up", "--home", tmp_path / "home", *words)
    assert told.code in (1, 2)
    assert line in told.error
    assert not (tmp_path / "home").exists()


def test_senses_on_request_are_remembered_and_change_only_while_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "home"
    asked = ("--with", "universe, books", "--exchange", "http://127.0.0.1:1", "--record-raw")
    assert "no member answers" in invoke("up", "--home", root, *NOBODY, *asked).error
    settings = Home(root).load()
    assert settings.senses == ("books", "universe")
    assert (settings.exchange, settings.record_raw) == ("http://127.0.0.1:1", True)
    # Whoever names nothing, changes nothing; what is part of the system, can be named.
    assert "no member answers" in invoke("up", "obf", "--home", root).error
    assert Home(root).load() == settings
    assert invoke("down", "obf_universe", "--home", root).code == 0
    for command in ("up", "down"):
        told = invoke(command, "esof", "--home", root)
        assert told.code == 2
        assert "esof is not part of this system; `dolphin down`, then `dolphin up --with esof`" in told.error

    monkeypatch.setattr(Supervisor, "pid", property(lambda self: 4711))
    told = invoke("up", "--with", "esof", "--home", root)
    assert (
        f"runs with books, universe, now it is esof; leave --with out, or `dolphin down --home {root}`"
        in (told.error)
    )
    assert Home(root).load() == settings
    monkeypatch.undo()
    for words, senses in ((("--with", "esof"), ("esof",)), (("--with", "none"), ())):
        assert "no member answers" in invoke("up", "--home", root, *words).error
        assert Home(root).load() == msgspec.structs.replace(settings, senses=senses)
    assert "was made with exchange 'http://127.0.0.1:1', now it is" in (
        invoke("up", "--home", root, "--exchange", "http://127.0.0.1:2").error
    )


def test_books_without_their_extra_are_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "ccxt" else found(name))
    for words, what in (
        (("--with", "books,esof"), "--with books"),
        (("--exchange", "https://h"), "--exchange"),
    ):
        told = invoke("up", "--home", tmp_path / "home", *NOBODY, *words)
        assert told.code == 2
        assert f"{what} needs the feeds extra; `make feeds` installs it" in told.error
        assert not (tmp_path / "home").exists()
    # Esoteric factors go on without a sky.
    assert "no member answers" in invoke("up", "--home", tmp_path / "home", *NOBODY, "--with", "esof").error


def test_down_of_what_is_down_is_no_failure(home: Path) -> None:
    for words in ((), ("trader", "exf"), ()):
        told = invoke("down", "--home", home, *words)
        assert (told.code, told.err) == (0, "")
        assert told.out == f"down: {', '.join(words) or 'everything'}\n"
    assert invoke("down", "--home", home, "--json").json == {"home": str(home), "down": "all"}


def test_down_names_a_service_that_lives_without_a_manager(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dolphin.services.system.living", lambda home: {**living(home), "trader": 4711})
    assert invoke("down", "--home", home, "exf").code == 0
    told = invoke("down", "--home", home, "trader")
    assert told.code == 1
    assert "trader (pid 4711) without a process manager; `dolphin down --home " in told.error


@pytest.mark.parametrize("command", ["down", "trade", "exf", "logs"])
def test_folder_without_a_system_is_told_and_left_alone(tmp_path: Path, command: str) -> None:
    told = invoke(command, "--home", tmp_path / "nowhere")
    assert told.code in (1, 2)
    assert str(tmp_path / "nowhere") in told.error
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("count", ["x", "-3", "1.5"])
def test_logs_says_what_a_number_of_lines_is(tmp_path: Path, count: str) -> None:
    told = invoke("logs", "--home", tmp_path, f"-n={count}")
    assert told.code == 2
    assert f"{count!r} is no number of lines, expected 0 or more, like 100" in told.error.replace("=", "")


def test_audit_of_a_system_s_folder_names_its_run(tmp_path: Path) -> None:
    (tmp_path / "trader").mkdir()
    (tmp_path / "trader" / "journal.db").touch()
    told = invoke("audit", tmp_path)
    assert told.code == 1
    assert f"no journal here; expected the folder of a run, like {tmp_path}/trader" in told.error


def test_logs_shows_people_lines_and_machines_objects(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for n, (service, level) in enumerate((("exf", "info"), ("acb", "error"), ("exf", "warning"))):
        time = f"2026-01-05T00:00:0{n}+00:00"
        line = {"time": time, "service": service, "level": level, "event": f"e{n}", "n": n}
        with (folder / f"{service}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    told = invoke("logs", "--home", tmp_path)
    assert told.code == 0
    assert [line.split()[4] for line in told.out.splitlines()] == ["e0", "e1", "e2"]
    assert told.out.splitlines()[0] == "2026-01-05 00:00:00+00: info    exf            e0 n=0"
    newest = invoke("logs", "--home", tmp_path, "-n", "1").out
    assert newest.splitlines() == told.out.splitlines()[-1:]
    assert invoke("logs", "--home", tmp_path, "-n", "0").out == ""
    objects = invoke("logs", "--home", tmp_path, "--json").out.splitlines()
    assert [json.loads(line)["n"] for line in objects] == [0, 1, 2]
    assert invoke("logs", "exf", "--home", tmp_path, "--lines", "1").out.split()[4] == "e2"
    assert "e0" not in invoke("logs", "--home", tmp_path, "--level", "warning").out
    assert "no log of 'trader'" in invoke("logs", "trader", "--home", tmp_path).error


def test_a_port_that_somebody_else_answers_is_no_grid_of_this_home(tmp_path: Path) -> None:
    """Two systems on one grid would trade each other's scans."""
    import socket

    from dolphin.domain.errors import UsageError
    from dolphin.services.home import Home, SystemSettings
    from dolphin.services.system import start_grid

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = SystemSettings(grid_members=(f"127.0.0.1:{taken.getsockname()[1]}",))
        with pytest.raises(UsageError, match="that this home has not started"):
            start_grid(Home(tmp_path), settings, lambda text: None)

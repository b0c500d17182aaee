"""The process manager's configuration is the table of services, and what is checked in is what is made."""

from __future__ import annotations

import configparser
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dolphin.domain.errors import StoreError, UsageError
from dolphin.services.home import Home, SystemSettings
from dolphin.services.supervision import SupervisionError, Supervisor
from dolphin.services.supervisor_conf import (
    SOCKET_PATH_MAX,
    check_path,
    configuration,
    prepare_socket,
    socket_path,
)
from dolphin.services.table import DATA, SERVICES, TRADING, table_in, table_of

DEPLOYED = Path(__file__).resolve().parents[3] / "deploy" / "supervisor" / "supervisord.conf"
SERVER = Home(Path("/srv/dolphin"))


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def read(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(text)
    return parser


def test_configuration_that_is_checked_in_is_what_is_made() -> None:
    assert configuration(SERVER, launch=("dolphin",)) == DEPLOYED.read_text()


def test_every_row_of_the_table_is_a_program() -> None:
    made = read(configuration(SERVER, launch=("dolphin",)))
    programs = {name.removeprefix("program:") for name in made.sections() if name.startswith("program:")}
    assert programs == {spec.name for spec in SERVICES}
    for spec in SERVICES:
        program = made[f"program:{spec.name}"]
        assert program["command"] == f"dolphin {spec.command} --home /srv/dolphin"
        assert program.getint("startsecs") == spec.start_seconds
        assert program.getboolean("autostart") == spec.autostart
        assert program.getboolean("autorestart") == spec.autorestart
        assert (program.getint("startretries") > 0) == spec.autorestart
        assert program.getint("stopwaitsecs") == 30
        assert program.getboolean("stopasgroup")
        assert program.getboolean("killasgroup")
    groups = {name: made[f"group:{name}"] for name in (DATA, TRADING)}
    for name, group in groups.items():
        assert group["programs"].split(",") == [spec.name for spec in SERVICES if spec.group == name]
    assert groups[DATA].getint("priority") < groups[TRADING].getint("priority")
    assert made["unix_http_server"]["chmod"] == "0700"
    assert 'OPENBLAS_NUM_THREADS="1"' in made["supervisord"]["environment"]


def test_what_is_on_request_is_a_program_of_the_system_that_asked_only() -> None:
    settings = SystemSettings(senses=("books", "universe"))
    made = read(configuration(SERVER, table_of(settings), launch=("dolphin",)))
    programs = [name.removeprefix("program:") for name in made.sections() if name.startswith("program:")]
    assert programs == [spec.name for spec in table_of(settings)]
    assert set(programs) == {spec.name for spec in SERVICES} | {"obf", "obf_universe"}
    assert made["program:obf"]["command"] == "dolphin books --home /srv/dolphin"
    assert made["program:obf_universe"]["command"] == "dolphin universe --home /srv/dolphin"
    for name in ("obf", "obf_universe"):
        assert name in made[f"group:{DATA}"]["programs"].split(",")
        assert made[f"program:{name}"].getboolean("autostart")
        assert made[f"program:{name}"].getboolean("autorestart")
    # Unasked, or with settings that cannot be read, the system is the plain one.
    assert table_of(SystemSettings()) == SERVICES
    assert table_in(Home(Path("/nowhere/at/all"))) == SERVICES


def test_manager_of_a_home_has_the_rows_that_its_settings_ask_for(short_tmp: Path) -> None:
    home = Home(short_tmp / "home")
    home.save(SystemSettings(senses=("esof",)))
    supervisor = Supervisor(home)
    with pytest.raises(SupervisionError, match="no process manager answers"):
        supervisor.start_service("esof")
    with pytest.raises(SupervisionError, match="'obf' is no service"):
        supervisor.start_service("obf")


def test_traders_are_started_by_hand_and_never_again() -> None:
    made = read(configuration(SERVER))
    for name in ("trader", "trader_standby"):
        assert not made[f"program:{name}"].getboolean("autostart")
        assert not made[f"program:{name}"].getboolean("autorestart")
        assert made[f"program:{name}"].getint("startretries") == 0


def test_percent_signs_are_doubled_everywhere(tmp_path: Path) -> None:
    made = configuration(Home(tmp_path / "100% safe"), launch=("dolphin",))
    assert "100%% safe" in made
    assert "100% safe" not in made.replace("%%", "")
    assert "100%" not in made.replace("100%%", "")


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b", "a ;b", "a #b", "a\nb"])
def test_home_that_the_parser_would_misread_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="supervisord cannot hold this path"):
        configuration(Home(Path("/srv") / name))
    check_path(Path("/srv/a;b#c ä%"))


def test_socket_fits_its_address() -> None:
    short = Home(Path("/srv/d"))
    assert socket_path(short) == Path("/srv/d/supervisor/supervisor.sock")
    room = SOCKET_PATH_MAX - len("/supervisor/supervisor.sock")
    assert socket_path(Home(Path("/" + "x" * (room - 1)))).parts[1] == "x" * (room - 1)
    deep = [Home(Path("/" + letter * room)) for letter in "xy"]
    assert all(len(str(socket_path(home))) <= SOCKET_PATH_MAX for home in deep)
    assert socket_path(deep[0]) != socket_path(deep[1])


def test_folder_of_somebody_else_is_not_taken_for_the_socket(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of temporary files is everybody's: a prepared one could hand the manager over."""
    monkeypatch.setattr("tempfile.tempdir", str(short_tmp))
    home = Home(short_tmp / ("x" * 120))
    folder = socket_path(home).parent
    folder.mkdir(mode=0o755)
    with pytest.raises(StoreError, match="is not a folder that only you can enter"):
        prepare_socket(home)
    folder.rmdir()
    folder.symlink_to(short_tmp)
    with pytest.raises(StoreError, match="is not a folder that only you can enter"):
        prepare_socket(home)
    folder.unlink()
    assert prepare_socket(home).parent.stat().st_mode & 0o777 == 0o700

"""`dolphin universe pick`: from parts and from the grid, to a universe file that a run takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Told, invoke

from dolphin import cli
from dolphin.commands import universe
from dolphin.domain.clock import NS_PER_S, day_start_ns, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.topics import OBF_UNIVERSE
from dolphin.grid.typed import TypedGrid
from dolphin.market.universe import read_universe
from dolphin.market.universe_files import universe_table, universe_writer
from dolphin.orderbook.universe import BookHealth
from dolphin.services import grid_client, process
from dolphin.services.home import Home, SystemSettings
from dolphin.services.table import SERVICES, ServiceSpec
from dolphin.services.universe import payload_of

NEWEST = day_start_ns("2026-03-02") + 3_600 * NS_PER_S
#: symbol → (spread in bps, depth in USD)
BOOKS = {
    "BTCUSDT": (0.1, 2e6), "ETHUSDT": (0.3, 9e5), "SOLUSDT": (1.0, 3e5), "THINUSDT": (2.0, 900.0),
    "WIDEUSDT": (25.0, 5e4), "USDCUSDT": (0.5, 5e6),
}  # fmt: skip


def rows_of(books: dict[str, tuple[float, float]]) -> dict[str, tuple[BookHealth, float]]:
    return {
        symbol: (BookHealth(spread, depth, 0.5, 0.5, 0.1, 99.0, 101.0, 5, 5), 0.2)
        for symbol, (spread, depth) in books.items()
    }


@pytest.fixture
def parts() -> Path:
    """Ten minutes of snapshots in the home that is the default."""
    folder = Path("dolphin-home/ob_universe")
    writer = universe_writer(folder)
    for k in range(10):
        writer.write([universe_table(NEWEST - k * 60 * NS_PER_S, rows_of(BOOKS))])
    return folder


def test_the_deepest_of_the_healthy_become_a_universe(parts: Path) -> None:
    told = invoke("universe", "pick", "--out", "symbols.yml")
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    assert lines[0] == f"3 of 6 symbols picked, 10 snapshots up to {iso_from_ns(NEWEST)}"
    assert lines[1] == "  left out   1 thin, 1 stablecoin, 1 wide"
    assert lines[3].split() == ["BTCUSDT", "0.10", "2,000,000", "0.50", "0.10"]
    assert [line.split()[0] for line in lines[3:6]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert read_universe(Path("symbols.yml")) == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert "# 0.30 bps, 900,000 USD" in Path("symbols.yml").read_text()


def test_csv_json_and_options(parts: Path) -> None:
    told = invoke(
        "universe", "pick", "--dir", str(parts.parent), "--out", "s.csv", "--json",
        "--min-depth", "500", "--max-spread", "30", "--top", "4", "--minutes", "5",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert [row["symbol"] for row in told.json["picked"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "WIDEUSDT"]
    assert told.json["left_out"] == {"stablecoin": 1, "beyond the top": 1}
    assert told.json["snapshots"] == 5
    assert told.json["symbols_seen"] == 6
    assert read_universe(Path("s.csv")) == ("BTCUSDT", "ETHUSDT", "SOLUSDT", "WIDEUSDT")
    assert Path("s.csv").read_text().splitlines()[1] == "BTCUSDT,0.1,2000000.0,0.5,0.1,1.0"


def test_without_btc_and_beyond_what_is_shown_it_says_so() -> None:
    many = {f"T{k:02d}USDT": (1.0, 1e6 - k) for k in range(universe.SHOWN + 3)}
    universe_writer(Path("books")).write([universe_table(NEWEST, rows_of(many))])
    (Path("books") / "date=2026-03-02" / "part-001.parquet").write_bytes(b"damaged")
    told = invoke("universe", "pick", "--dir", "books")
    assert told.code == 0, told.err
    assert "  and 3 more\n" in told.out
    assert "BTCUSDT is not among them" in told.out
    assert "left out: " in told.err
    assert "part-001.parquet" in told.err
    assert not list(Path().glob("*.yml"))


def test_a_run_takes_the_file(parts: Path, run: Callable[..., Told]) -> None:
    assert invoke("universe", "pick", "--out", "symbols.yml").code == 0
    told = run(None, "out", "--universe", "symbols.yml")
    assert told.code == 0, told.err
    settings = json.loads(Path("out/settings.json").read_text())
    assert settings["symbols"] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


def test_from_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = InProcessGrid("inline")
    monkeypatch.setattr(grid_client, "open_grid", lambda settings: memory.peer())
    Home(Path("home")).save(SystemSettings())
    asked = ("universe", "pick", "--grid", "--home", "home", "--out", "s.yml")
    empty = invoke(*asked)
    assert empty.code == 1
    assert "no snapshot of the universe there" in empty.error
    TypedGrid(memory.peer()).put(OBF_UNIVERSE, payload_of(NEWEST, rows_of(BOOKS)))
    told = invoke(*asked)
    assert told.code == 0, told.err
    assert "3 of 6 symbols picked, 1 snapshot up to" in told.out
    assert read_universe(Path("s.yml")) == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    memory.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "s.txt"), "--out s.txt: expected a name that ends with .yml, .yaml or .csv"),
        (("--min-depth", "-1"), "--min-depth -1: expected a number from 0"),
        (("--max-spread", "nan"), "--max-spread nan: expected a number from 0"),
        (("--minutes", "0"), "--minutes 0: expected above 0"),
        (("--top", "0"), "--top 0: expected 1 or more"),
        (("--dir", "absent"), "absent: no such folder"),
        (("--dir", "a", "--grid"), "not allowed with argument"),
        (("--min-depth", "1e12"), "none of 6 symbols is healthy enough (5 thin, 1 stablecoin); loosen"),
    ],
)
def test_what_is_wrong_is_one_line(parts: Path, words: tuple[str, ...], said: str) -> None:
    told = invoke("universe", "pick", *words)
    assert told.code in (1, 2)
    assert said in told.error


def test_the_service_has_a_command_and_is_started_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[ServiceSpec, Home, dict[str, object]]] = []

    def run_service(spec: ServiceSpec, home: Home, *, options: dict[str, object], log_level: str) -> int:
        ran.append((spec, home, options))
        return 0

    monkeypatch.setattr(process, "run_service", run_service)
    assert invoke("universe", "--home", "h", "--max-file-age-days", "7").code == 0
    assert invoke("universe").code == 0
    (spec, home, options), (_, default, plain) = ran
    assert (spec.name, spec.command, home.root) == ("obf_universe", "universe", Path("h"))
    assert options["max_file_age_days"] == 7.0
    assert (plain["max_file_age_days"], default.root) == (0.0, Path("dolphin-home"))
    assert "universe" in cli.COMMANDS
    assert "obf_universe" not in {row.name for row in SERVICES}
    assert "from 0" in invoke("universe", "--max-file-age-days", "-1").error

"""What the status says of the senses: present, stale or absent, how old, and the esoteric lane."""

from __future__ import annotations

from pathlib import Path

import pytest
from status_homes import well
from test_status import Living, closed_port, look, silent_port  # noqa: F401

from dolphin.commands.status import lines
from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import EngineSnapshot, EsofPayload, ExfPayload, ObfLatest
from dolphin.grid.topics import ENGINE_SNAPSHOT, ESOF, EXF, OBF
from dolphin.grid.typed import TypedGrid
from dolphin.services.diagnosis import age, diagnose
from dolphin.services.esof_told import band_of, why_of
from dolphin.services.facts import Facts
from dolphin.services.senses_facts import read_senses, senses_of, told
from dolphin.services.status_facts import Collector

NOW = 1_800_000_000 * NS_PER_S


class Sky:
    """A grid on which senses say something, some seconds ago."""

    def __init__(self) -> None:
        self.grid = InProcessGrid()
        self.door = TypedGrid(self.grid)

    def books(self, age_s: float, **changes: object) -> None:
        payload = ObfLatest(
            timestamp=iso_from_ns(NOW - round(age_s * NS_PER_S)), n_assets=50, median_imbalance=0.0,
            agreement_pct=0.5, depth_pressure=0.0, cascade_count=0, regime_signal=0.0, depth_velocity=0.0,
            acceleration=0.0, **changes,  # type: ignore[arg-type]
        )  # fmt: skip
        self.door.put(OBF, payload)

    def factors(self, age_s: float, **values: float | None) -> None:
        self.door.put(EXF, ExfPayload(pushed_at=NOW / NS_PER_S - age_s, **values))  # type: ignore[arg-type]

    def esof(self, score: float | None, age_s: float, n_trades: int | None = 42) -> None:
        components = {"n_trades": n_trades}
        at_ns = NOW - round(age_s * NS_PER_S)
        self.door.put(ESOF, EsofPayload(score=score, components=components, timestamp=iso_from_ns(at_ns)))

    def told(self, books: str = "") -> str:
        engine = None
        if books:
            engine = EngineSnapshot(
                capital=1.0, open_positions=(), last_scan=1, scan_count=1, detail={"books": books},
                updated_at=iso_from_ns(NOW),
            )  # fmt: skip
        return told(senses_of(read_senses(self.door), engine, NOW), age)


def test_nothing_was_ever_heard() -> None:
    assert Sky().told() == "books absent; factors absent; esof absent, lane 1.00"


def test_all_are_there() -> None:
    sky = Sky()
    sky.books(1.0)
    sky.factors(12.0, funding_btc=1e-4, dvol_btc=55.0, fng=40.0, taker=None)
    sky.esof(0.034, 20.0)
    assert sky.told() == (
        "books present (1 s), 50 assets; factors present (12 s), 3 of 4;"
        " esof present (20 s), score +0.03, lane 0.81"
    )


def test_all_are_stale() -> None:
    sky = Sky()
    sky.books(6.0, degraded=True)
    sky.factors(181.0, fng=40.0)
    sky.esof(0.034, 901.0)
    assert sky.told() == (
        "books stale (6 s), degraded; factors stale (3 min), 1 of 4;"
        " esof stale (15 min), score +0.03, lane 0.40"
    )


@pytest.mark.parametrize(
    ("score", "n_trades", "expected"),
    [
        (0.0, 0, "esof present (20 s), no history, lane 0.80"),
        (None, None, "esof stale (20 s), no score, lane 0.40"),
        (-0.4, 7, "esof present (20 s), score -0.40, lane 0.30"),
    ],
)
def test_the_esoteric_lane(score: float | None, n_trades: int | None, expected: str) -> None:
    sky = Sky()
    sky.esof(score, 20.0, n_trades)
    assert sky.told().endswith(expected)


def test_a_source_without_any_value_is_no_factor_at_all() -> None:
    sky = Sky()
    sky.factors(1.0)
    assert "factors absent (1 s), 0 of 4" in sky.told()


def test_a_payload_that_does_not_validate_is_absent() -> None:
    sky = Sky()
    sky.grid.map("DOLPHIN_FEATURES").put("esof_latest", b'{"score": 7}')
    assert sky.told().endswith("esof absent, lane 1.00")


def test_books_from_the_file_are_told_whatever_the_grid_has() -> None:
    sky = Sky()
    assert sky.told(books="file").startswith("books present, the trader decides by its file;")
    sky.books(60.0)
    assert sky.told(books="file").startswith("books stale (60 s), the trader decides by its file;")
    assert sky.told(books="grid").startswith("books stale (60 s), 50 assets;")


@pytest.fixture
def living(tmp_path: Path, silent_port: int) -> Living:  # noqa: F811
    return Living(tmp_path, silent_port)


def senses_line(facts: Facts) -> str:
    screen = list(lines(facts, diagnose(facts)))
    assert all(len(line) <= 80 for line in screen if not line.startswith("do "))
    (at,) = [k for k, line in enumerate(screen) if line.startswith("senses")]
    rest = " ".join(line.strip() for line in screen[at + 1 :] if line.startswith(" " * 11))
    return f"{screen[at][11:]} {rest}".partition(" control ")[0].strip()


def test_the_screen_tells_them(living: Living) -> None:
    assert senses_line(living.look()) == "books absent; factors absent; esof absent, lane 1.00"
    score = EsofPayload(score=0.0, components={"n_trades": 0}, timestamp=iso_from_ns(living.now_ns))
    living.door.put(ESOF, score)
    living.door.put(
        ENGINE_SNAPSHOT,
        EngineSnapshot(
            capital=25_000.0, open_positions=(), last_scan=6, scan_count=6, detail={"books": "file"},
            updated_at=iso_from_ns(living.now_ns),
        ),
        deployment="BLUE",
    )  # fmt: skip
    said = senses_line(living.look())
    assert said.startswith("books present, the trader decides by its file;")
    assert said.endswith("no history, lane 0.80")


def test_with_the_grid_away_nobody_knows(living: Living, closed_port: int) -> None:  # noqa: F811
    collector = Collector(str(living.home.root), manager=living.manager, open_grid=lambda settings: 1 / 0)
    facts = collector.collect()
    collector.close()
    assert facts.senses == ()
    assert senses_line(facts) == "unknown: the grid is away"


@pytest.mark.parametrize(
    ("score", "word"),
    [(-1.0, "UNFAVOURABLE"), (-0.26, "EDGE, between the levels on both sides of -0.25"),
     (-0.1, "below neutral"), (0.0, "NEUTRAL"), (0.2, "above neutral"), (0.3, "favourable, from")],
)  # fmt: skip
def test_bands(score: float, word: str) -> None:
    assert band_of(score).startswith(word)


def test_why() -> None:
    assert why_of("absent") == "absent: no producer was ever heard, and nothing is cut"
    assert why_of("stale", 0.5, 3).startswith("STALE FALLBACK")
    assert why_of("ok") == "a fresh score"
    assert why_of("ok", 0.0, 0).startswith("NEUTRAL: no closed trades")
    assert why_of("ok", -0.3, 1) == "score -0.300 of 1 trade: UNFAVOURABLE, below -0.25"


def test_a_scanner_that_warms_up_says_how_far_it_is() -> None:
    facts = well(scanner={"phase": "warmup", "bars": 12, "of": 752}, scan_age_s=None)
    assert "last scan  none yet; the scanner warms up, bar 12 of 752" in list(lines(facts, diagnose(facts)))
    assert all("warms up" not in line for line in lines(well(), diagnose(well())))

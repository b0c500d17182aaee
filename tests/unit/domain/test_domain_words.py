"""Symbols, clock, codes, errors, scans: the small words that everything is told in."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain import clock, codes, errors, symbols
from dolphin.domain.bar import Bar
from dolphin.domain.scan import COLUMNS, Scan, regime_from_vel_div, row_from_scan

# Clock

NS_2100 = 4_102_444_800 * clock.NS_PER_S


def test_an_instant_is_written_with_nine_digits() -> None:
    assert clock.iso_from_ns(0) == "1970-01-01T00:00:00.000000000Z"
    assert clock.iso_from_ns(1_617_321_660_000_000_001) == "2021-04-02T00:01:00.000000001Z"
    assert clock.iso_from_ns(-1) == "1969-12-31T23:59:59.999999999Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00", 0),
        ("1970-01-01 00:00:00.5", 500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.1234567899Z", 123_456_789),
        ("1970-01-01T01:00:00.25+01:00", 250_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("1970-01-02", clock.NS_PER_DAY),
    ],
)
def test_an_instant_is_read_with_or_without_offset_and_fraction(text: str, expected: int) -> None:
    assert clock.ns_from_iso(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2021-13-01T00:00:00Z", "2021-04-02T25:00:00Z"])
def test_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        clock.ns_from_iso(text)


@given(st.integers(-(10**18), NS_2100))
def test_instants_survive_the_round_trip_and_sort_like_their_text(ns: int) -> None:
    text = clock.iso_from_ns(ns)
    assert clock.ns_from_iso(text) == ns
    assert clock.iso_from_ns(ns + 1) > text
    assert (
        clock.day_start_ns(clock.day_from_ns(ns))
        <= ns
        < clock.day_start_ns(clock.day_from_ns(ns)) + clock.NS_PER_DAY
    )


def test_one_is_told_from_many() -> None:
    assert [errors.plural(n, "bar") for n in (0, 1, 1_000)] == ["0 bars", "1 bar", "1,000 bars"]


def test_days_and_times_of_day() -> None:
    noon = int(datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC).timestamp()) * clock.NS_PER_S
    assert clock.day_from_ns(noon) == "2024-02-29"
    assert clock.day_from_ns(clock.day_start_ns("2024-03-01") - 1) == "2024-02-29"
    assert clock.time_of_day(noon) == "123456"
    assert clock.NS_PER_DAY == 86_400_000_000_000


# Codes


def test_codes_are_positions_in_their_words() -> None:
    for words in (
        codes.POSTURES, codes.DC_NAMES, codes.IRP_ACTIONS, codes.ACTIONS, codes.REASONS, codes.BOUNDS,
        codes.BUCKETS, codes.MC_STATUSES,
    ):  # fmt: skip
        assert len(set(words)) == len(words)
    for word in codes.REASONS[1:]:
        assert codes.REASONS[getattr(codes, word)] == word
    assert codes.REASONS[codes.REASON_NONE] == "NONE"
    for word in codes.POSTURES:
        assert codes.POSTURES[getattr(codes, word)] == word
    for prefix, words in (("DC_", codes.DC_NAMES), ("ACTION_", codes.ACTIONS), ("MC_", codes.MC_STATUSES)):
        for word in words:
            assert words[getattr(codes, prefix + word)] == word
    for word in codes.IRP_ACTIONS:
        assert codes.IRP_ACTIONS[getattr(codes, word)] == word


def test_the_numbers_of_the_canonical_record_never_move() -> None:
    """A renumbered word would change every digest ever written."""
    assert codes.ACTIONS == ("NONE", "ENTER", "HOLD", "EXIT")
    assert codes.BOUNDS[:6] == (
        "NONE", "RAW", "MAX_LEVERAGE_LANES", "ABS_MAX_LEVERAGE", "POSTURE_CAP", "MIN_LEVERAGE",
    )  # fmt: skip
    assert [codes.BOUND_NONE, codes.BOUND_RAW, codes.BOUND_LANES] == [0, 1, 2]
    assert [codes.BOUND_ABS_MAX, codes.BOUND_POSTURE, codes.BOUND_MIN] == [3, 4, 5]
    assert codes.REASONS[:23] == (
        "NONE", "HIBERNATE_HALT", "SUBDAY_ACB_NORMALIZATION", "LIQUIDATION_GUARD", "FIXED_TP", "STOP_LOSS",
        "VD_ADVERSE_TURN", "TREND_RECOVERY", "MAX_HOLD", "SIGNAL", "NO_SIGNAL", "WARMING_UP", "VOL_GATE",
        "JUST_EXITED", "DAY_HALT", "POSTURE_HALT", "NO_CAPITAL", "NO_ASSET", "DC_REFUSED", "OB_REFUSED",
        "STALE_SCAN", "LEDGER_HALT", "OPERATOR_HALT",
    )  # fmt: skip


def test_caution_is_stalker_and_nothing_else_is() -> None:
    assert codes.posture_code("CAUTION") == codes.STALKER
    assert [codes.posture_code(w) for w in codes.POSTURES] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"."):
        codes.posture_code("caution")


# Symbols


@pytest.mark.parametrize("symbol", ["A", "btcusdt", "BTC-USDT", "BTC USDT", "", "BTCUSDT\n", "A" * 25])
def test_what_is_no_symbol_is_refused_with_its_source(symbol: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"^list\.csv: .* is no symbol; expected 2 to 24 capitals"):
        symbols.check_universe(["BTCUSDT", symbol], "list.csv")


def test_a_universe_keeps_its_order() -> None:
    names = ("ZZUSDT", "AA", "1000PEPEUSDT", "A" * 24)
    assert symbols.check_universe(list(names), "x") == names


def test_an_empty_or_doubled_universe_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"^x: no symbols"):
        symbols.check_universe([], "x")
    with pytest.raises(errors.ConfigError, match=r"^x: AAUSDT stands twice"):
        symbols.check_universe(["AAUSDT", "BBUSDT", "AAUSDT"], "x")


def test_the_universe_id_knows_symbols_and_order() -> None:
    assert symbols.universe_id(["AB", "CD"]) == hashlib.sha256(b"AB\nCD").hexdigest()[:16]
    assert len({symbols.universe_id(u) for u in (["AB", "CD"], ["CD", "AB"], ["ABCD"], ["AB"])}) == 4


def test_stablecoins_are_pairs_against_the_dollar() -> None:
    assert len(symbols.STABLECOINS) == 10
    assert symbols.check_universe(sorted(symbols.STABLECOINS), "x")
    assert symbols.BTC not in symbols.STABLECOINS


# Errors


def test_errors_know_how_a_command_ends() -> None:
    assert errors.DolphinError.exit_code == 1
    assert errors.UsageError.exit_code == errors.ConfigError.exit_code == 2
    for kind in (errors.DriftError, errors.DataError, errors.StoreError, errors.InvariantError):
        assert issubclass(kind, errors.DolphinError)
        assert kind.exit_code == 1


def test_the_nearest_word_is_offered_when_there_is_one() -> None:
    assert errors.nearest("seeed", ["seed", "fraction"]) == " Did you mean 'seed'?"
    assert errors.nearest("zzzz", ["seed", "fraction"]) == ""
    assert errors.nearest("x", []) == ""


# Bars and scans


def scan(**changes: object) -> Scan:
    values: dict[str, object] = {
        f"w{w}_{name}": 1.0 + w / 1000
        for w in (50, 150, 300, 750)
        for name in ("lambda_max", "velocity", "rotation", "instability")
    }
    values |= {
        "scan_number": 3,
        "timestamp_ns": 5,
        "vel_div": -0.03,
        "regime_signal": -1.0,
        "instability_composite": 0.5,
        "assets": ("AA", "BB"),
        "asset_prices": (1.5, None),
        "asset_loadings": None,
        "stale_assets": ("BB",),
        "certified_bits": (520, 512, 515, 516),
    }
    return Scan(**(values | changes))  # type: ignore[arg-type]


def test_the_store_has_27_columns_in_order() -> None:
    assert len(COLUMNS) == 27
    assert COLUMNS[:2] == ("scan_number", "timestamp_ns")
    assert COLUMNS[-1] == "missing_asset_count"


@pytest.mark.parametrize(
    ("vel_div", "regime"),
    [
        (math.nextafter(-0.02, -1.0), -1.0), (-0.02, 0.0), (0.0, 0.0), (0.01, 0.0),
        (math.nextafter(0.01, 1.0), 1.0),
    ],
)  # fmt: skip
def test_the_regime_signal_is_strict_at_both_thresholds(vel_div: float, regime: float) -> None:
    assert regime_from_vel_div(vel_div) == regime


def test_a_row_takes_from_a_scan_what_a_decision_needs() -> None:
    row = row_from_scan(scan())
    assert (row.scan_number, row.timestamp_ns, row.vel_div) == (3, 5, -0.03)
    assert (row.v50_velocity, row.v750_velocity, row.instability_50) == (1.05, 1.75, 1.05)
    assert row.prices[0] == 1.5
    assert np.isnan(row.prices[1])
    assert row.stale == ("BB",)
    assert row.certified_bits == 512
    assert row.lambdas == (1.05, 1.15, 1.3, 1.75)


def test_a_row_of_a_clustered_or_uncertified_scan() -> None:
    row = row_from_scan(scan(w50_instability=None, certified_bits=()))
    assert math.isnan(row.instability_50)
    assert row.certified_bits == 0


def test_a_bar_is_a_value() -> None:
    bar = Bar(7, np.array([1.0]))
    with pytest.raises(AttributeError):
        bar.timestamp_ns = 8  # type: ignore[misc]

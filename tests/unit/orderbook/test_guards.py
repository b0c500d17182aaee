"""Guards of the live flow on given times."""

from __future__ import annotations

from dolphin.domain.clock import NS_PER_S
from dolphin.orderbook.guards import GuardRules, SymbolGuard

RULES = GuardRules(first_flush_ns=0)


def guard(rules: GuardRules = RULES, started_ns: int = 0) -> SymbolGuard:
    return SymbolGuard("BTCUSDT", started_ns, rules)


def test_a_sound_book_is_published() -> None:
    verdict = guard().update(0, 99.0, 100.0)
    assert verdict.publish
    assert verdict == ("ok", "", False)


def test_an_empty_side_is_not_crossed() -> None:
    assert guard().update(0, 99.0, 0.0).state == "ok"
    assert guard().update(0, 0.0, 99.0).state == "ok"


def test_a_crossed_book_is_dropped_counted_and_told_once_a_minute() -> None:
    g = guard()
    told = [k for k in range(121) if g.update(k * NS_PER_S, 100.0, 100.0).notice]
    assert told == [0, 60, 120]
    assert g.n_crossed == 121
    assert not g.update(121 * NS_PER_S, 101.0, 100.0).publish
    assert g.update(122 * NS_PER_S, 99.0, 100.0).publish


def test_a_book_that_stays_crossed_wants_a_snapshot() -> None:
    g = guard()
    assert [g.update(0, 2.0, 1.0).resync for _ in range(7)] == [False, False, True] * 2 + [False]
    g.update(0, 1.0, 2.0)
    assert [g.update(0, 2.0, 1.0).resync for _ in range(3)] == [False, False, True]


def test_twelve_dark_updates_are_stale_data_and_eleven_are_not() -> None:
    g = guard()
    assert [g.difference(volume=False) for _ in range(11)] == [""] * 11
    assert g.update(0, 99.0, 100.0).publish
    g.difference(volume=True)
    assert [g.difference(volume=False) for _ in range(11)] == [""] * 11
    assert "STALE_DATA" in g.difference(volume=False)
    assert g.stale
    assert g.difference(volume=False) == ""
    assert g.update(0, 99.0, 100.0) == ("STALE_DATA", "", False)
    g.difference(volume=True)
    back = g.update(0, 99.0, 100.0)
    assert back.state == "STALE_DATA"
    assert back.resync
    assert g.update(0, 99.0, 100.0).publish
    assert not g.stale
    assert g.n_dark == 24


def test_nothing_is_published_before_the_first_flush() -> None:
    g = guard(GuardRules(), started_ns=5 * NS_PER_S)
    assert g.update(65 * NS_PER_S - 1, 99.0, 100.0).state == "early"
    assert g.update(65 * NS_PER_S, 99.0, 100.0).publish


def test_silence_of_thirty_seconds_wants_a_reconnect_every_thirty() -> None:
    g = guard()
    assert not g.stalled(10**15)
    g.begin(0)
    assert not g.stalled(30 * NS_PER_S - 1)
    assert not g.stale
    assert g.stalled(30 * NS_PER_S)
    assert g.stale
    assert not g.stalled(31 * NS_PER_S)
    assert g.stalled(60 * NS_PER_S)
    assert g.n_stalls == 2
    g.update(61 * NS_PER_S, 99.0, 100.0)
    assert not g.stale
    assert not g.stalled(90 * NS_PER_S)
    assert g.stalled(91 * NS_PER_S)


def test_a_wait_for_ones_turn_is_no_silence() -> None:
    g = guard()
    g.begin(0)
    g.pause()
    assert g.silence_ns(100 * NS_PER_S) == 0
    assert not g.stalled(100 * NS_PER_S)
    g.begin(100 * NS_PER_S)
    assert g.stalled(130 * NS_PER_S)

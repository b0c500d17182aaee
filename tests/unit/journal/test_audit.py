"""The audit finds every planted tampering, and nothing in an honest book."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from scan_market import scans, traded, trader_of

from dolphin.domain.clock import day_from_ns
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, REASONS, STOP_LOSS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import GOLD, NAMED_SETS, ParameterSet
from dolphin.journal.audit import FINDINGS_SHOWN, AuditResult, PriceOf, audit
from dolphin.journal.fenced import FencedJournal
from dolphin.journal.ledger import LEGS, ClosedTrade, legs_of
from dolphin.journal.store import Journal

MARKET = scans(21, 420)
PRICES = {
    (s.scan_number, a, s.timestamp_ns): p
    for s in MARKET
    for a, p in zip(s.assets, s.asset_prices, strict=True)
}


def price_of(scan_number: int, asset: str, timestamp_ns: int) -> float | None:
    return PRICES.get((scan_number, asset, timestamp_ns))


def price_before(decision: Decision) -> float | None:
    """What the asset cost on the scan before."""
    return next(p for (n, a, _), p in PRICES.items() if (n, a) == (decision.scan_number - 1, decision.asset))


def audited(path: Path, name: str = "gold") -> AuditResult:
    journal = Journal.read_only(path)
    try:
        return audit(journal, NAMED_SETS[name], price_of)
    finally:
        journal.close()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    traded(path, MARKET)
    journal = Journal.open(path)
    journal.set_meta({"decisions_sha256": journal.decisions_sha256()})
    journal.close()
    return path


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def forge(path: Path, where: str, **fields: object) -> None:
    """Change a decision as somebody would who knows the format: record, row and checksum agree afterwards."""
    connection = sqlite3.connect(path)
    bar, equity, bits, lambdas, detail = connection.execute(
        f"SELECT bar_idx, equity, certified_bits, lambdas, detail FROM decisions WHERE {where} LIMIT 1"
    ).fetchone()
    decision = msgspec.structs.replace(msgspec.msgpack.decode(detail, type=Decision), **fields)
    canonical, detail = decision.canonical(), msgspec.msgpack.encode(decision)
    checksum = zlib.crc32(detail, zlib.crc32(canonical, zlib.crc32(lambdas, zlib.crc32(
        struct.pack("<dq", equity, bits)))))  # fmt: skip
    with connection:
        connection.execute(
            "UPDATE decisions SET asset = ?, action = ?, canonical = ?, detail = ?, checksum = ?"
            " WHERE bar_idx = ?",
            (decision.asset, decision.action, canonical, detail, checksum, bar),
        )
    connection.close()


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_an_honest_book_has_no_finding(name: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    trader = trader_of(path, name, deployment="TEST")
    for scan in MARKET:
        trader.on_scan(scan)
    trader.stop()
    trader.journal.close()
    result = audited(path, name)
    assert result.findings == []
    assert result.balanced
    assert result.bars == len(MARKET)
    assert result.trades >= 2
    assert result.cash_flows == 6 * result.trades
    assert result.prices_checked == 2 * result.trades
    assert result.balance != result.initial


SECOND = "(SELECT trade_id FROM trades ORDER BY entry_bar LIMIT 1 OFFSET 1)"
SECOND_EXIT = "(SELECT exit_bar FROM trades ORDER BY entry_bar LIMIT 1 OFFSET 1)"
WITHOUT_UNIQUE = (
    "CREATE TABLE loose (id INTEGER PRIMARY KEY, trade_id TEXT, leg TEXT, amount_e8 INTEGER,"
    " bar_idx INTEGER, timestamp_ns INTEGER)",
    "INSERT INTO loose SELECT * FROM cash_flows",
    "INSERT INTO loose (trade_id, leg, amount_e8, bar_idx, timestamp_ns)"
    " SELECT trade_id, leg, amount_e8, bar_idx, timestamp_ns FROM cash_flows WHERE id = 8",
    "DROP TABLE cash_flows",
    "ALTER TABLE loose RENAME TO cash_flows",
)

TAMPERED: dict[str, tuple[tuple[str, ...], str]] = {
    "a missing bar": (("DELETE FROM decisions WHERE bar_idx = 150",), "bar 150 is missing"),
    "missing last bars": (("DELETE FROM decisions WHERE bar_idx > 415",), "differs from the recorded"),
    "bars out of time": (
        ("UPDATE decisions SET timestamp_ns = 5 WHERE bar_idx = 200",),
        "bar 200: its time does not come after",
    ),
    "a duplicate leg": (WITHOUT_UNIQUE, "leg entry_fee is booked twice"),
    "a foreign leg": (
        (f"INSERT INTO cash_flows VALUES (9999, {SECOND}, 'gift', 1, 1, 1)",),
        "legs .*gift.* booked, expected",
    ),
    "an altered amount": (
        (f"UPDATE cash_flows SET amount_e8 = amount_e8 + 5 WHERE leg = 'exit_fee' AND trade_id = {SECOND}",),
        "exit_fee is booked as",
    ),
    "two amounts that cancel": (
        (
            f"UPDATE cash_flows SET amount_e8 = amount_e8 + 9 WHERE leg = 'exit_fee' AND trade_id = {SECOND}",
            "UPDATE cash_flows SET amount_e8 = amount_e8 - 9 WHERE leg = 'price_pnl'"
            f" AND trade_id = {SECOND}",
        ),
        "exit_fee is booked as",
    ),
    "an altered entry price": (
        (f"UPDATE trades SET entry_price = entry_price * 1.0001 WHERE trade_id = {SECOND}",),
        "scan .* says",
    ),
    "an altered exit price": (
        (f"UPDATE trades SET exit_price = exit_scan_price * 0.99 WHERE trade_id = {SECOND}",),
        "slippage is in our favour",
    ),
    "an altered leverage": (
        (f"UPDATE trades SET leverage = 9.5 WHERE trade_id = {SECOND}",),
        "leverage is booked as 9.5, decided was",
    ),
    "an altered reason": (
        (f"UPDATE trades SET reason = 'LUCK' WHERE trade_id = {SECOND}",),
        "reason is booked as 'LUCK'",
    ),
    "an altered direction": (
        (f"UPDATE trades SET direction = 1 WHERE trade_id = {SECOND}",),
        "direction is booked as 1, decided was -1",
    ),
    "a deleted trade": (
        (
            "PRAGMA foreign_keys=OFF",
            f"DELETE FROM cash_flows WHERE trade_id = {SECOND}",
            f"DELETE FROM trades WHERE trade_id = {SECOND}",
        ),
        "an exit without a booked trade",
    ),
    "a trade deleted from under its legs": (
        (f"DELETE FROM trades WHERE trade_id = {SECOND}",),
        "cash flows of .* belong to no trade",
    ),
    "a deleted leg": (
        (f"DELETE FROM cash_flows WHERE leg = 'funding' AND trade_id = {SECOND}",),
        "legs .* booked, expected",
    ),
    "an invented trade": (
        (
            "INSERT INTO trades SELECT 'INVENTED', asset, direction, 398, 399, entry_ns, exit_ns,"
            " entry_price, exit_scan_price, exit_price, notional, leverage, reason, entry_fee, exit_fee,"
            " ob_edge, net, 0"
            f" FROM trades WHERE trade_id = {SECOND}",
        ),
        "no matching entry and exit decisions at bars 398, 399",
    ),
    "an altered decision blob": (
        (f"UPDATE decisions SET detail = x'85' WHERE bar_idx = {SECOND_EXIT}",),
        "the record cannot be read",
    ),
    "a blob that is none": (
        ("UPDATE decisions SET detail = 'text' WHERE bar_idx = 100",),
        "bar 100: the record cannot be read",
    ),
    "another bar's blob": (
        (
            "UPDATE decisions SET detail = (SELECT detail FROM decisions WHERE bar_idx = 120)"
            " WHERE bar_idx = 121",
        ),
        "bar 121: the row is not the one that was written",
    ),
    "an altered canonical record": (
        ("UPDATE decisions SET canonical = zeroblob(length(canonical)) WHERE bar_idx = 7",),
        "bar 7: the decision inside is not the one that the row and the digest tell",
    ),
    "an altered column": (
        ("UPDATE decisions SET reason = 3 WHERE bar_idx = 8",),
        "bar 8: the decision inside",
    ),
    "altered equity": (
        ("UPDATE decisions SET equity = equity + 1 WHERE bar_idx = 300",),
        "bar 300: equity is",
    ),
    "equity that is no number": (
        ("UPDATE decisions SET equity = 9e999 WHERE bar_idx = 300",),
        "bar 300: equity is inf",
    ),
    "altered eigenvalues": (
        ("UPDATE decisions SET lambdas = zeroblob(32) WHERE bar_idx = 301",),
        "bar 301: the row is not the one that was written",
    ),
    "a foreign digest": (
        (f"UPDATE meta SET value = '{hashlib.sha256(b'').hexdigest()}' WHERE key = 'decisions_sha256'",),
        "digest .* differs from the recorded e3b0c44298fc1c14",
    ),
    "an altered day": (
        ("""UPDATE days SET result = replace(result, '"capital":', '"capital":1')""",),
        "day 2026-01-05: booked to end with",
    ),
    "a deleted day": (("DELETE FROM days",), "day 2026-01-05 is over and has no result"),
    "an invented day": (
        ("""INSERT INTO days VALUES ('2031-01-01', '{"date":"2031-01-01","capital":1.0}')""",),
        "day 2031-01-01 has a result, but no bar",
    ),
}


@pytest.mark.parametrize("case", sorted(TAMPERED))
def test_tampering_is_found(case: str, book: Path) -> None:
    statements, words = TAMPERED[case]
    change(book, *statements)
    result = audited(book)
    assert not result.balanced
    assert any(re.search(words, text) for text in result.findings), result.findings


FORGED: dict[str, tuple[str, Callable[[], dict[str, object]], str]] = {
    "an overlapping position": (
        "action = 2",
        lambda: {"action": 1, "asset": "XRPUSDT"},
        "enters XRPUSDT while .* is open",
    ),
    "a position that was not judged": ("action = 2", lambda: {"action": 0, "asset": ""}, "was not judged"),
    "a position from nowhere": ("action = 0", lambda: {"action": 2, "asset": "XRPUSDT"}, "open is nothing"),
    "an altered price of a decision": (
        "action = 3",
        lambda: {"scan_price": 1.0},
        "exit_scan_price is booked as",
    ),
    "an altered net of a decision": (
        "action = 3",
        lambda: {"net": 1.0},
        "net is booked as .*, decided was 1.0",
    ),
    "capital from nowhere": ("action = 0", lambda: {"capital": 26_000.0}, "without an exit it stays"),
    "a negative holding": ("action = 2", lambda: {"bars_held": -106}, "bars_held is -106"),
}


@pytest.mark.parametrize("case", sorted(FORGED))
def test_a_forged_decision_is_found_though_its_checksum_is_right(case: str, book: Path) -> None:
    where, fields, words = FORGED[case]
    forge(book, where, **fields())
    result = audited(book)
    assert any(re.search(words, text) for text in result.findings), result.findings


# -- the whole book told anew ----------------------------------------------------------------------------

#: (stage, number of the trade, decision as it is) → fields to tell instead.
Tell = Callable[[str, int, Decision], dict[str, object]]

_POSITION = (
    "lane_base",
    "lane_dc",
    "lane_regime",
    "lane_ob",
    "lane_esof",
    "raw",
    "cap",
    "leverage",
    "notional",
)


def rebook(path: Path, tell: Tell, params: ParameterSet = GOLD) -> None:
    """Tell every bar, trade, leg, day and digest anew, with all money following from what `tell` changes.

    Its stages: `entry`, before the notional follows; `size`, after it; `exit`, before costs and result
    follow; `told`, after them.
    """

    def changed(decision: Decision, stage: str) -> Decision:
        return msgspec.structs.replace(decision, **tell(stage, n, decision))

    def fee(maker: float) -> float:
        return (0.0002 * maker + 0.0005 * (1.0 - maker)) * decision.notional

    journal = Journal.read_only(path)
    records = list(journal.records())
    ids = [trade.trade_id for trade in journal.trades()]
    journal.close()
    held: Decision | None = None
    capital, n = params.initial_capital, 0
    rows, trades, flows = [], [], []
    closes: dict[str, float] = {}
    digest = hashlib.sha256()
    for record in records:
        decision = msgspec.structs.replace(record.decision(), capital=capital)
        if decision.action == ACTION_ENTER:
            n += 1
            decision = changed(decision, "entry")
            notional = capital * decision.fraction * decision.leverage * decision.proxy_scale
            held = decision = changed(msgspec.structs.replace(decision, notional=notional), "size")
        elif decision.action in (ACTION_HOLD, ACTION_EXIT):
            assert held is not None
            same = {name: getattr(held, name) for name in _POSITION}
            decision = msgspec.structs.replace(decision, entry_price=held.price, **same)
        if decision.action == ACTION_EXIT:
            assert held is not None
            decision = changed(decision, "exit")
            entry_fee, exit_fee = fee(params.sp_maker_entry_rate), fee(params.sp_maker_exit_rate)
            share = params.direction * (decision.price - held.price) / held.price + decision.ob_edge
            net = share * decision.notional - entry_fee - exit_fee
            capital += net
            decision = msgspec.structs.replace(
                decision, entry_fee=entry_fee, exit_fee=exit_fee, net=net, capital=capital,
                gross=share * decision.notional,
            )  # fmt: skip
            honest, decision = decision, changed(decision, "told")
            trade = _trade_of(ids[n - 1], held, decision, params)
            legs = legs_of(_trade_of(ids[n - 1], held, honest, params))
            trades.append(msgspec.structs.astuple(trade))
            flows += [(trade.trade_id, leg, legs[leg], trade.exit_bar, trade.exit_ns) for leg in LEGS]
            held = None
        equity = capital
        if held is not None:
            equity += params.direction * (decision.price - held.price) / held.price * held.notional
        closes[day_from_ns(decision.timestamp_ns)] = capital
        canonical, detail = decision.canonical(), msgspec.msgpack.encode(decision)
        digest.update(canonical)
        checksum = zlib.crc32(detail, zlib.crc32(canonical, zlib.crc32(record.lambdas or b"", zlib.crc32(
            struct.pack("<dq", equity, record.certified_bits)))))  # fmt: skip
        rows.append((decision.scan_number, decision.action, decision.reason, decision.asset, equity,
                     canonical, detail, checksum, decision.bar_idx))  # fmt: skip
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany(
            "UPDATE decisions SET scan_number = ?, action = ?, reason = ?, asset = ?, equity = ?,"
            " canonical = ?, detail = ?, checksum = ? WHERE bar_idx = ?",
            rows,
        )
        connection.execute("DELETE FROM cash_flows")
        connection.execute("DELETE FROM trades")
        connection.executemany(f"INSERT INTO trades VALUES ({', '.join('?' * 18)})", trades)
        connection.executemany(
            "INSERT INTO cash_flows (trade_id, leg, amount_e8, bar_idx, timestamp_ns) VALUES (?, ?, ?, ?, ?)",
            flows,
        )
        for date, text in connection.execute("SELECT date, result FROM days").fetchall():
            day = json.loads(text) | {"capital": closes[date]}
            connection.execute("UPDATE days SET result = ? WHERE date = ?", (json.dumps(day), date))
        connection.execute("UPDATE meta SET value = ? WHERE key = 'decisions_sha256'", (digest.hexdigest(),))
    connection.close()


def _trade_of(trade_id: str, entry: Decision, leave: Decision, params: ParameterSet) -> ClosedTrade:
    return ClosedTrade(
        trade_id=trade_id,
        asset=leave.asset,
        direction=params.direction,
        entry_bar=entry.bar_idx,
        exit_bar=leave.bar_idx,
        entry_ns=entry.timestamp_ns,
        exit_ns=leave.timestamp_ns,
        entry_price=entry.price,
        exit_scan_price=leave.scan_price,
        exit_price=leave.price,
        notional=leave.notional,
        leverage=leave.leverage,
        reason=REASONS[leave.reason],
        entry_fee=leave.entry_fee,
        exit_fee=leave.exit_fee,
        ob_edge=leave.ob_edge,
        net=leave.net,
        stale_price=leave.stale_price,
    )


def on_second(stage: str, fields: Callable[[Decision], dict[str, object]]) -> Tell:
    """Change the second trade at one stage."""
    return lambda at, n, decision: fields(decision) if (at, n) == (stage, 2) else {}


def sized(decision: Decision, **fields: float) -> dict[str, object]:
    """Changed lanes, raw or cap, with the leverage that follows from raw and cap."""
    new = msgspec.structs.replace(decision, **fields)
    return {**fields, "leverage": max(GOLD.min_leverage, min(new.raw, new.cap))}


RETOLD: dict[str, tuple[Tell, str]] = {
    "a fill with half the slippage": (
        on_second("exit", lambda d: {"price": d.scan_price * 1.00005}),
        r"trade \S+-000002: exit is filled at .*, scan price and slippage 0.0001 give",
    ),
    "a fill with too much slippage": (
        on_second("exit", lambda d: {"price": d.scan_price * 1.0002}),
        "exit is filled at",
    ),
    "a forced exit that pays like an ordinary one": (
        on_second("exit", lambda d: {"reason": STOP_LOSS}),
        "exit is filled at .*slippage 0.0005 give",
    ),
    "an edge turned over": (
        on_second("exit", lambda d: {"ob_edge": 0.0005 - d.ob_edge}),
        "the order-book edge is .*, the draw of this exit gives",
    ),
    "an edge of another size": (
        on_second("exit", lambda d: {"ob_edge": 0.0015}),
        "the order-book edge is 0.0015, the draw of this exit gives",
    ),
    "an edge beyond what books can give": (
        on_second("exit", lambda d: {"ob_edge": 0.0015, "books": "present"}),
        # An exit with books takes no draw, so that the next exit's comes from another place of the stream.
        "the order-book edge is (0.0015, books can give 0 to 0.0005|0.0005, the draw of this exit gives 0.0)",
    ),
    "a larger notional": (
        on_second("size", lambda d: {"notional": d.notional * 1.5}),
        "notional is .*, capital, fraction and leverage give",
    ),
    "a notional a little larger": (
        on_second("size", lambda d: {"notional": d.notional * (1.0 + 1e-9)}),
        "notional is .*, capital, fraction and leverage give",
    ),
    "a larger fraction": (
        on_second("entry", lambda d: {"fraction": 0.6}),
        "fraction is 0.6, the set allows 0.02 to 0.2",
    ),
    "a size factor of nobody": (
        on_second("entry", lambda d: {"proxy_scale": 2.0}),
        "proxy_scale is 2.0",
    ),
    "another leverage": (
        on_second("entry", lambda d: {"leverage": d.leverage + 1.0}),
        "leverage is .*, raw and cap give",
    ),
    "another raw leverage": (
        on_second("entry", lambda d: sized(d, raw=d.raw * 1.25)),
        "raw leverage is .*, the lanes give",
    ),
    "another lane": (
        on_second("entry", lambda d: {"lane_dc": d.lane_dc * 1.000001}),
        "raw leverage is .*, the lanes give",
    ),
    "another cap": (
        on_second("entry", lambda d: sized(d, cap=0.55)),
        "the leverage's cap is 0.55, lanes and set give",
    ),
    "a stalker without his cap": (
        on_second("entry", lambda d: {"posture": 1}),
        "the leverage's cap is .*, lanes and set give 2.0",
    ),
    "a lane that is no number": (
        on_second("entry", lambda d: {"lane_ob": math.nan}),
        "a lane, raw or cap is not finite",
    ),
    "another fee beside the legs": (
        on_second("told", lambda d: {"entry_fee": d.entry_fee * 0.5}),
        "entry_fee is told as",
    ),
    "another net beside the legs": (
        on_second("told", lambda d: {"net": d.net + 1.0}),
        "net is told as .*, its legs sum to",
    ),
    "another scan for the price": (
        on_second("size", lambda d: {"scan_number": d.scan_number - 1, "price": price_before(d)}),
        r"bar \d+: its scan \d+ does not come after scan|its entry price is not proved",
    ),
}


def test_a_book_told_anew_without_a_change_has_no_finding(book: Path) -> None:
    before = audited(book)
    rebook(book, lambda stage, n, decision: {})
    after = audited(book)
    assert after.findings == []
    assert (after.balance, after.decisions_sha256) == (before.balance, before.decisions_sha256)


@pytest.mark.parametrize("case", sorted(RETOLD))
def test_a_forgery_that_fits_everywhere_else_is_found_by_its_rule_alone(case: str, book: Path) -> None:
    tell, words = RETOLD[case]
    rebook(book, tell)
    result = audited(book)
    assert result.findings
    assert all(re.search(words, text) for text in result.findings), result.findings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"use_ob_edge": False}, "the order-book edge is 0.0005, this set has none"),
        ({"seed": 43}, "the draw of this exit gives"),
        ({"ob_confirm_rate": 0.0}, "the order-book edge is 0.0005, the draw of this exit gives 0.0"),
        ({"ob_edge_bps": 4.0}, "the order-book edge is 0.0005, the draw of this exit gives 0.0004"),
        ({"use_sp_slippage": False}, "exit is filled at .* slippage 0.0002 give"),
        ({"sp_maker_exit_rate": 0.4}, "exit is filled at .* slippage 0.00012 give"),
        ({"min_leverage": 5.0}, "leverage is .*, raw and cap give 5.0"),
        ({"abs_max_leverage": 7.0}, "the leverage's cap is .*, lanes and set give 7.0"),
        ({"fraction": 0.03}, "the set allows 0.02 to 0.03"),
    ],
    ids=str,
)
def test_other_parameters_do_not_explain_the_book(values: dict[str, object], words: str, book: Path) -> None:
    journal = Journal.read_only(book)
    result = audit(journal, GOLD.with_values(values), price_of)
    journal.close()
    assert any(re.search(words, text) for text in result.findings), result.findings


@pytest.mark.parametrize("field", ["price", "scan_price", "notional", "capital"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0])
@pytest.mark.parametrize("action", [1, 3])
def test_numbers_that_are_none_are_findings(action: int, value: float, field: str, book: Path) -> None:
    forge(book, f"action = {action}", **{field: value})
    assert audited(book).findings or (action, field) == (1, "scan_price")


def test_a_reason_that_is_none_is_a_finding(book: Path) -> None:
    forge(book, "action = 3", reason=200)
    assert any("decided was '200'" in text for text in audited(book).findings)
    forge(book, "action = 0", asset="BTCUSDT")
    change(book, "UPDATE trades SET exit_price = 'much'", "UPDATE trades SET notional = 9e999")
    assert any("no number to reckon with" in text for text in audited(book).findings)


def test_a_run_that_ended_without_a_digest_is_a_finding(book: Path) -> None:
    change(book, "DELETE FROM meta WHERE key = 'decisions_sha256'")
    assert audited(book).balanced  # still running: it has none yet
    for status in ("finished", "interrupted"):
        change(book, f"UPDATE meta SET value = '{status}' WHERE key = 'status'")
        assert audited(book).findings == [f"the run is {status} and has no recorded digest of its decisions"]
    change(book, "INSERT INTO meta VALUES ('decisions_sha256', '')")
    assert audited(book).findings_total == 1


# -- prices of the scans ---------------------------------------------------------------------------------


def priced(path: Path, look_up: PriceOf | None) -> AuditResult:
    journal = Journal.read_only(path)
    try:
        return audit(journal, GOLD, look_up)
    finally:
        journal.close()


def test_prices_of_another_market_are_found(book: Path) -> None:
    result = priced(book, lambda scan, asset, stamp: 1.0)
    assert result.findings_total == 2 * result.trades
    assert len(result.findings) == min(FINDINGS_SHOWN, result.findings_total)


@pytest.mark.parametrize("error", [DataError, StoreError, OSError, ValueError])
def test_a_scan_that_cannot_be_read_is_a_finding(error: type[Exception], book: Path) -> None:
    def damaged(scan: int, asset: str, stamp: int) -> float:
        raise error("is no whole Arrow file")

    result = priced(book, damaged)
    assert result.findings_total == 2 * result.trades
    assert "cannot be read (is no whole Arrow file)" in result.findings[0]


@pytest.mark.parametrize(("side", "bar"), [("entry", "entry_bar"), ("exit", "exit_bar")])
def test_a_scan_of_a_trade_that_is_not_there_is_a_finding(side: str, bar: str, book: Path) -> None:
    journal = Journal.read_only(book)
    trade = journal.trades()[1]
    journal.close()
    missing = MARKET[getattr(trade, bar)].scan_number
    result = priced(book, lambda *scan: None if scan[0] == missing else PRICES[scan])
    assert result.findings == [
        f"trade {trade.trade_id}: its {side} price is not proved, scan {missing} is not stored"
        f" or has no price of {trade.asset}"
    ]
    assert result.prices_checked == 2 * result.trades - 1


def test_without_a_store_no_price_is_proved(book: Path) -> None:
    result = priced(book, None)
    assert result.balanced
    assert result.prices_checked == 0


def test_a_scanner_that_began_again_is_no_finding_where_scans_are_told_apart_by_time(
    tmp_path: Path,
) -> None:
    """A system of services survives its scanner: numbers begin again, and a price is its own scan's."""
    path = tmp_path / "journal.db"
    again = {s.timestamp_ns: 1 + k % 200 for k, s in enumerate(MARKET)}
    trader = trader_of(path)
    for scan in MARKET:
        trader.on_scan(msgspec.structs.replace(scan, scan_number=again[scan.timestamp_ns]))
    trader.stop()
    trader.journal.close()
    renumbered = {(again[stamp], asset, stamp): price for (_, asset, stamp), price in PRICES.items()}

    def look_up(scan: int, asset: str, stamp: int) -> float | None:
        return renumbered.get((scan, asset, stamp))

    assert any("its scan 1 does not come after" in text for text in priced(path, look_up).findings)
    FencedJournal.take_term(path, {}, fence=1, owner="trader", now_ns=0).close()
    found = priced(path, look_up)
    assert found.balanced
    assert found.prices_checked == 2 * found.trades > 0


def test_another_set_does_not_explain_the_book(book: Path) -> None:
    assert not audited(book, "green").balanced

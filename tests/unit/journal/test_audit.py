"""The audit finds every planted tampering, and nothing in an honest book."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "sim"))

from scan_market import scans, traded

from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError
from dolphin.domain.params import NAMED_SETS
from dolphin.journal.audit import FINDINGS_SHOWN, AuditResult, audit
from dolphin.journal.store import Journal

MARKET = scans(21, 420)
PRICES = {(s.scan_number, a): p for s in MARKET for a, p in zip(s.assets, s.asset_prices, strict=True)}


def price_of(scan_number: int, asset: str) -> float | None:
    return PRICES.get((scan_number, asset))


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
    traded(path, MARKET, name)
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


def test_prices_of_another_market_are_found(book: Path) -> None:
    journal = Journal.read_only(book)
    result = audit(journal, NAMED_SETS["gold"], lambda scan, asset: 1.0)
    assert result.findings_total == 2 * result.trades
    assert len(result.findings) == min(FINDINGS_SHOWN, result.findings_total)

    def damaged(scan: int, asset: str) -> float:
        raise DataError("is no whole Arrow file")

    result = audit(journal, NAMED_SETS["gold"], damaged)
    journal.close()
    assert "cannot be read (is no whole Arrow file)" in result.findings[0]


def test_scans_that_are_not_at_hand_are_counted_not_invented(book: Path) -> None:
    journal = Journal.read_only(book)
    result = audit(journal, NAMED_SETS["gold"], lambda scan, asset: None)
    journal.close()
    assert result.balanced
    assert result.prices_checked == 0


def test_another_set_does_not_explain_the_book(book: Path) -> None:
    assert not audited(book, "green").balanced

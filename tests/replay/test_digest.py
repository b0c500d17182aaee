"""The digest of a run's decisions: the same for the same market, another for any changed word of a bar."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_market import scans, traded

from dolphin.domain.codes import ACTIONS, BOUNDS, REASONS
from dolphin.domain.decision import CANONICAL_BYTES, Decision
from dolphin.domain.params import NAMED_SETS
from dolphin.journal.store import Journal

CANONICAL = (
    "bar_idx", "timestamp_ns", "action", "reason", "asset", "lane_base", "lane_dc", "lane_regime", "lane_ob",
    "lane_esof", "raw", "cap", "bound", "leverage", "notional", "price", "net",
)  # fmt: skip
OTHERS = tuple(name for name in Decision.__struct_fields__ if name not in CANONICAL)
MARKET = scans(21, 420)

numbers = st.floats(allow_nan=False, allow_infinity=False)
decisions = st.builds(
    Decision,
    bar_idx=st.integers(0, 2**40),
    timestamp_ns=st.integers(0, 2**62),
    action=st.integers(0, len(ACTIONS) - 1),
    reason=st.integers(0, len(REASONS) - 1),
    bound=st.integers(0, len(BOUNDS) - 1),
    asset=st.sampled_from(["", "BTCUSDT", "1000SHIBUSDT"]),
    **{name: numbers for name in CANONICAL[5:] if name != "bound"},
)


def digest_of(path: Path) -> str:
    journal = Journal.read_only(path)
    try:
        return journal.decisions_sha256()
    finally:
        journal.close()


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_the_same_run_twice_has_the_same_digest(name: str, tmp_path: Path) -> None:
    traded(tmp_path / "a.db", MARKET, name)
    traded(tmp_path / "b.db", MARKET, name)
    assert digest_of(tmp_path / "a.db") == digest_of(tmp_path / "b.db")


def test_sets_and_markets_differ_in_their_digests(tmp_path: Path) -> None:
    digests = set()
    for name in NAMED_SETS:
        for seed in (21, 22):
            path = tmp_path / f"{name}{seed}.db"
            traded(path, scans(seed, 420), name)
            digests.add(digest_of(path))
    assert len(digests) == 2 * len(NAMED_SETS)


def test_scan_numbers_are_no_part_of_a_digest(tmp_path: Path) -> None:
    """Every host can produce it: a scan cache of another scanner has other numbers."""
    traded(tmp_path / "a.db", MARKET)
    traded(tmp_path / "b.db", scans(21, 420, first_number=9_000))
    assert digest_of(tmp_path / "a.db") == digest_of(tmp_path / "b.db")


@pytest.mark.parametrize("name", CANONICAL)
def test_any_changed_word_of_any_bar_changes_the_digest(name: str, tmp_path: Path) -> None:
    traded(tmp_path / "a.db", MARKET)
    journal = Journal.read_only(tmp_path / "a.db")
    made = list(journal.decisions())
    expected = journal.decisions_sha256()
    journal.close()
    held = next(k for k, d in enumerate(made) if d.action == 3)
    for bar in (0, held, len(made) - 1):
        value = getattr(made[bar], name)
        other = value + "X" if isinstance(value, str) else value + 1
        changed = [*made[:bar], msgspec.structs.replace(made[bar], **{name: other}), *made[bar + 1 :]]
        found = hashlib.sha256(b"".join(d.canonical() for d in changed)).hexdigest()
        assert found != expected, (name, bar)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(decisions, decisions)
def test_canonical_records_are_equal_exactly_when_their_words_are(a: Decision, b: Decision) -> None:
    def words(d: Decision) -> list[object]:
        # -0.0 == 0.0, and their bytes differ: the last bit counts here.
        return [v.hex() if isinstance(v, float) else v for v in (getattr(d, name) for name in CANONICAL)]

    assert len(a.canonical()) == CANONICAL_BYTES
    assert (a.canonical() == b.canonical()) == (words(a) == words(b))
    assert msgspec.structs.replace(b, **{n: getattr(a, n) for n in CANONICAL}).canonical() == a.canonical()


def test_attribution_is_no_part_of_a_canonical_record() -> None:
    plain = Decision(bar_idx=1, timestamp_ns=2)
    for name in OTHERS:
        value = getattr(plain, name)
        other = "x" if isinstance(value, str) else (not value if isinstance(value, bool) else value + 1)
        assert msgspec.structs.replace(plain, **{name: other}).canonical() == plain.canonical(), name

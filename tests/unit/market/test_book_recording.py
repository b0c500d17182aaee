"""Raw recordings of an invented exchange: boundaries, damage, the touch, bands, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from book_market import Exchange
from book_raw import Message, depth, depth_data, session, snapshot, ticker, wrapped, write_raw

from dolphin.domain.errors import DataError, DolphinError, StoreError
from dolphin.market.book_messages import RAW_SCHEMA, count_messages, read_messages
from dolphin.market.book_recording import DAMAGE, N_LEVELS, STEP_NS, BookReplay, TopRow
from dolphin.orderbook.book import Difference, Outcome


def replayed(
    path: Path, messages: list[Message], symbol: str | None = None
) -> tuple[BookReplay, list[TopRow]]:
    replay = BookReplay(write_raw(path / "raw.parquet", messages), symbol)
    return replay, list(replay.rows())


def event_ns(message: Message) -> int:
    return int(json.loads(message[1])["data"]["E"]) * 1_000_000


def top(exchange: Exchange, update_id: int) -> list[float]:
    """The 80 values of a row, from the exchange's own book."""
    bids, asks = exchange.past[update_id]
    values: list[float] = []
    for levels in (sorted(bids.items(), reverse=True), sorted(asks.items())):
        for column in (0, 1):
            best = [level[column] for level in levels[:N_LEVELS]]
            values += best + [np.nan] * (N_LEVELS - len(best))
    return values


def damage_of(replay: BookReplay) -> dict[str, int]:
    return {word: n for word, n in replay.damage.items() if n}


def test_a_boundary_shows_the_book_after_the_last_message_up_to_it(tmp_path: Path) -> None:
    exchange, messages = session()
    replay, rows = replayed(tmp_path, messages)
    after = messages[[m[0] for m in messages].index("snapshot") :]
    times = [(event_ns(m), json.loads(m[1])["data"]["u"]) for m in after if m[0] == "depth"]
    # The first boundary follows the first message that came on the founded book.
    boundaries = range(-(-times[0][0] // STEP_NS) * STEP_NS, times[-1][0] + 1, STEP_NS)
    assert [row.timestamp_ns for row in rows] == list(boundaries)
    for row in rows:
        expected = [u for at, u in times if at <= row.timestamp_ns][-1]
        assert row.last_update_id == expected
        assert np.array_equal(row.values, top(exchange, expected), equal_nan=True)
    assert replay.n_rows == len(rows) > 20
    assert (replay.symbol, replay.n_depth, replay.n_snapshots, replay.n_messages) == ("AAAUSDT", 60, 1, 121)
    assert (replay.n_resyncs, replay.n_boundaries_missing, replay.known_at_end) == (0, 0, True)
    assert replay.lost_ns is None
    assert damage_of(replay) == {}
    assert tuple(replay.damage) == DAMAGE


def chain(*steps: tuple[int, list[tuple[float, float]], list[tuple[float, float]]]) -> list[Message]:
    """A founded book with the touch 99/101, then differences at these milliseconds."""
    base = 1_700_000_000_000
    exchange = Exchange(1)
    start = exchange.snapshot()
    bids, asks = ((99.0, 1.0), (98.0, 2.0)), ((101.0, 1.0), (102.0, 2.0))
    messages = [snapshot(type(start)(base * 1_000_000, 10, bids, asks))]
    for k, (ms, more_bids, more_asks) in enumerate(steps):
        messages.append(
            depth(Difference((base + ms) * 1_000_000, 10 + k, 10 + k + 1, 10 + k, more_bids, more_asks))
        )
    return messages


def shown(rows: list[TopRow]) -> list[tuple[int, int]]:
    return [(row.timestamp_ns // 1_000_000 - 1_700_000_000_000, row.last_update_id) for row in rows]


def test_a_message_on_the_boundary_belongs_to_it(tmp_path: Path) -> None:
    _, rows = replayed(
        tmp_path, chain((50, [], []), (100, [], []), (100, [], []), (101, [], []), (300, [], []))
    )
    assert shown(rows) == [(100, 13), (200, 14), (300, 15)]


def test_times_that_go_back_a_little_do_not_show_a_boundary_twice(tmp_path: Path) -> None:
    _, rows = replayed(
        tmp_path, chain((50, [], []), (210, [], []), (190, [], []), (250, [], []), (330, [], []))
    )
    assert shown(rows) == [(100, 11), (200, 11), (300, 14)]
    _, rows = replayed(tmp_path, chain((210, [], []), (190, [], []), (350, [], [])))
    assert shown(rows) == [(300, 12)]


def test_one_wrong_time_fills_no_file_and_stops_nothing(tmp_path: Path) -> None:
    steps = [(50, [], []), (10**10, [], []), (150, [], []), (250, [], []), (350, [], [])]
    replay, rows = replayed(tmp_path, chain(*steps))
    assert shown(rows) == [(200, 13), (300, 14)]
    assert replay.n_boundaries_missing == 0
    # Nor is a boundary shown again when time is right again.
    steps = [(50, [], []), (150, [], []), (250, [], []), (10**10, [], []), (190, [], []), (350, [], [])]
    _, rows = replayed(tmp_path, chain(*steps))
    assert shown(rows) == [(100, 11), (200, 12), (300, 15)]


def test_a_long_silence_shows_nothing(tmp_path: Path) -> None:
    steps = [(50, [], []), (150, [], []), (60_150, [], []), (120_250, [], []), (120_350, [], [])]
    replay, rows = replayed(tmp_path, chain(*steps))
    # A minute is not too long, 100 ms more are.
    assert [at for at, _ in shown(rows)] == [100, *range(200, 60_150, 100), 120_300]
    assert replay.n_boundaries_missing == 601


def test_a_crossed_book_and_an_empty_side_show_nothing(tmp_path: Path) -> None:
    replay, rows = replayed(
        tmp_path,
        chain(
            (50, [], []), (150, [(101.0, 5.0)], []), (250, [(101.0, 0.0)], []),
            (350, [], [(101.0, 0.0), (102.0, 0.0)]), (450, [], [(103.0, 1.0)]), (550, [], []),
        ),
    )  # fmt: skip
    assert [at for at, _ in shown(rows)] == [100, 300, 500]
    assert damage_of(replay) == {"crossed": 1}
    assert replay.n_boundaries_missing == 2


def test_levels_that_are_not_there_are_nan(tmp_path: Path) -> None:
    _, rows = replayed(tmp_path, chain((50, [], []), (150, [], [])))
    values = rows[0].values.reshape(4, N_LEVELS)
    assert values[:, :2].tolist() == [[99.0, 98.0], [1.0, 2.0], [101.0, 102.0], [1.0, 2.0]]
    assert np.isnan(values[:, 2:]).all()


def test_levels_beyond_a_cut_snapshot_are_not_shown(tmp_path: Path) -> None:
    exchange = Exchange(3)
    messages: list[Message] = [snapshot(exchange.snapshot(limit=10))]
    messages += [depth(exchange.step()) for _ in range(30)]
    replay, rows = replayed(tmp_path, messages)
    assert len(replay.book.bids) > replay.book.bids.n_known()
    for row in rows:
        true = np.array(top(exchange, row.last_update_id))
        here = np.isfinite(row.values)
        assert 4 <= here.sum() < 80
        assert np.array_equal(row.values[here], true[here])


@pytest.mark.parametrize("later_snapshot", [True, False])
def test_rows_stop_at_a_gap_until_a_snapshot(tmp_path: Path, later_snapshot: bool) -> None:
    _, messages = session(2, snapshots_after=(5, 40) if later_snapshot else (5,))
    depths = [k for k, m in enumerate(messages) if m[0] == "depth"]
    lost = depths[20]
    replay, rows = replayed(tmp_path, [m for k, m in enumerate(messages) if k != lost])
    _, all_rows = replayed(tmp_path, messages)
    assert damage_of(replay) == {"gap": 1}
    # It shows at the next difference; the lost one's bookTicker stands between.
    assert replay.first_damage["gap"][0] == lost + 1
    last_before = event_ns(messages[depths[19]])
    gone = [
        r
        for r in all_rows
        if r.timestamp_ns > last_before and r.timestamp_ns not in {x.timestamp_ns for x in rows}
    ]
    assert replay.n_boundaries_missing == len(gone) == len(all_rows) - len(rows) > 5
    by_time = {row.timestamp_ns: row for row in all_rows}
    for row in rows:
        assert row.last_update_id == by_time[row.timestamp_ns].last_update_id
        assert np.array_equal(row.values, by_time[row.timestamp_ns].values, equal_nan=True)
    if later_snapshot:
        assert (replay.n_resyncs, replay.known_at_end, replay.lost_ns) == (1, True, None)
        assert rows[-1].timestamp_ns == all_rows[-1].timestamp_ns
    else:
        assert (replay.n_resyncs, replay.known_at_end, replay.lost_ns) == (0, False, last_before)
        assert rows[-1].timestamp_ns <= last_before


def test_duplicates_and_late_messages_change_no_row_that_is_shown(tmp_path: Path) -> None:
    _, messages = session(4)
    whole, all_rows = replayed(tmp_path, messages)
    depths = [k for k, m in enumerate(messages) if m[0] == "depth"]
    twice = list(messages)
    twice.insert(depths[25] + 3, messages[depths[25]])
    replay, rows = replayed(tmp_path, twice)
    assert damage_of(replay) == {"duplicate": 1}
    assert replay.agreement.n_compared == whole.agreement.n_compared
    assert [r.values.tobytes() for r in rows] == [r.values.tobytes() for r in all_rows]
    late = list(messages)
    late.insert(depths[27], late.pop(depths[25]))
    replay, rows = replayed(tmp_path, late)
    assert damage_of(replay) == {"gap": 1, "reordered": 1}
    assert (replay.n_resyncs, replay.known_at_end) == (1, True)
    by_time = {row.timestamp_ns: row.values.tobytes() for row in all_rows}
    assert all(by_time[row.timestamp_ns] == row.values.tobytes() for row in rows)
    assert len(all_rows) - len(rows) == replay.n_boundaries_missing <= 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-9],
        lambda text: text.replace('"u":', '"x":', 1),
        lambda text: text.replace('"a":[', '"a":[["nan","1.0"],', 1),
        lambda text: text.replace('"a":[', '"a":[["-5.0","1.0"],', 1),
        lambda text: text.replace('"a":[', '"a":[["5.0"],', 1),
        lambda text: text.replace('"pu":', '"pu":9', 1),
        lambda text: text.replace('"U":', '"U":9', 1),
        lambda text: "",
    ],
)
def test_a_malformed_message_is_refused_whole_and_leaves_a_gap(tmp_path: Path, spoil: Any) -> None:
    _, messages = session(5, snapshots_after=(5, 40))
    k = [k for k, m in enumerate(messages) if m[0] == "depth"][20]
    messages[k] = ("depth", spoil(messages[k][1]))
    replay, rows = replayed(tmp_path, messages)
    assert damage_of(replay) == {"malformed": 1, "gap": 1}
    row, text = replay.first_damage["malformed"]
    assert row == k
    assert text.startswith("depth message refused: ")
    assert replay.n_resyncs == 1
    assert rows


def test_malformed_snapshots_and_tickers_are_counted(tmp_path: Path) -> None:
    _, messages = session(6)
    messages.insert(0, ("snapshot", '{"code":-1003,"msg":"Too many requests"}'))
    messages.append(("bookTicker", "{}"))
    messages.append(("trade", "nothing that is read"))
    replay, _ = replayed(tmp_path, messages)
    assert damage_of(replay) == {"malformed": 2}
    assert replay.first_damage["malformed"][1].startswith("depth snapshot refused: ")


def test_a_snapshot_that_is_too_old_is_counted(tmp_path: Path) -> None:
    exchange = Exchange(1)
    old = snapshot(exchange.snapshot())
    exchange.step()
    exchange.step()
    messages = [depth(exchange.step()), old, depth(exchange.step())]
    replay, rows = replayed(tmp_path, messages)
    assert damage_of(replay) == {"snapshot_old": 1}
    assert rows == []
    assert replay.lost_ns is None
    assert replay.n_boundaries_missing == 0


def test_bare_messages_are_read_too(tmp_path: Path) -> None:
    _, messages = session(7)
    bare = [
        (kind, text if kind == "snapshot" else json.dumps(json.loads(text)["data"]))
        for kind, text in messages
    ]
    _, rows = replayed(tmp_path, messages)
    replay, bare_rows = replayed(tmp_path, bare)
    assert [r.values.tobytes() for r in rows] == [r.values.tobytes() for r in bare_rows]
    assert damage_of(replay) == {}


def test_messages_of_another_symbol_are_counted_and_left_out(tmp_path: Path) -> None:
    exchange, messages = session(8)
    messages.insert(30, depth(exchange.step(), "BBBUSDT"))
    messages.insert(30, ticker(exchange, "BBBUSDT"))
    replay, _ = replayed(tmp_path, messages)
    assert damage_of(replay) == {"other_symbol": 2}
    assert replay.agreement.n_equal == replay.agreement.n_compared


def test_the_touch_is_held_against_book_ticker(tmp_path: Path) -> None:
    _, messages = session(9)
    replay, _ = replayed(tmp_path, messages)
    touch = replay.agreement
    # The last state waits for a later bookTicker, which alone says that all up to it were here.
    assert (touch.n_compared, touch.n_equal) == (53, 53)
    assert (touch.n_same_id, touch.n_same_id_equal, touch.first_unequal_id) == (53, 53, None)


def test_a_touch_that_differs_is_told(tmp_path: Path) -> None:
    exchange = Exchange(10)
    messages = [snapshot(exchange.snapshot())]
    ids = []
    for k in range(20):
        messages.append(depth(exchange.step()))
        ids.append(exchange.update_id)
        messages.append(ticker(exchange, **({"B": "77777.000"} if k in (7, 9) else {})))
    replay, _ = replayed(tmp_path, messages)
    touch = replay.agreement
    assert (touch.n_compared - touch.n_equal, touch.n_same_id - touch.n_same_id_equal) == (2, 2)
    assert touch.first_unequal_id == ids[7]


def test_a_touch_that_last_changed_before_is_taken_as_of_then(tmp_path: Path) -> None:
    exchange = Exchange(11)
    messages = [snapshot(exchange.snapshot())]
    for _ in range(20):
        messages.append(depth(exchange.step()))
        kind, text = ticker(exchange)
        data = json.loads(text)["data"]
        # One id before the difference was closed; and it came twice.
        messages += [(kind, wrapped("x", {**data, "u": data["u"] - 1}))] * 2
    replay, _ = replayed(tmp_path, messages)
    touch = replay.agreement
    assert (touch.n_same_id, touch.n_compared, touch.n_equal) == (0, 19, 19)


def test_without_book_tickers_nothing_is_compared(tmp_path: Path) -> None:
    _, messages = session(12)
    replay, rows = replayed(tmp_path, [m for m in messages if m[0] != "bookTicker"])
    assert rows
    assert replay.agreement.n_compared == 0


def test_snapshots_are_the_bands_of_the_same_boundaries(tmp_path: Path) -> None:
    _, messages = session(13)
    path = write_raw(tmp_path / "raw.parquet", messages)
    rows = list(BookReplay(path).rows())
    snapshots = list(BookReplay(path).snapshots())
    assert [s.timestamp_ns for s in snapshots] == [r.timestamp_ns for r in rows]
    assert [s.push_seq for s in snapshots] == list(range(1, len(rows) + 1))
    assert all(b.pushed_ns >= a.pushed_ns > 0 for a, b in pairwise(snapshots))
    for s in snapshots:
        # The invented book is whole and lies within 1 % of its mid.
        assert np.isfinite(s.bid_notional).all()
        assert s.visible_bps == 100.0
        assert s.visible_bid == s.bid_notional[0] > 0.0
        assert s.ask_notional[1:].tolist() == [0.0] * 4


# -- files -----------------------------------------------------------------------------------------------


def two_symbols() -> list[Message]:
    a, b = session(14)[1], session(15)[1]
    both = [(*m, "AAAUSDT") for m in a]
    for k, (kind, text) in enumerate(b):
        both.insert(2 * k, (kind, text.replace("AAAUSDT", "BBBUSDT"), "BBBUSDT"))
    return both


def test_one_symbol_of_a_file_of_several(tmp_path: Path) -> None:
    both = two_symbols()
    for symbol, seed in (("AAAUSDT", 14), ("BBBUSDT", 15)):
        replay, rows = replayed(tmp_path, both, symbol)
        assert damage_of(replay) == {}
        alone, alone_rows = replayed(tmp_path, session(seed)[1])
        assert [r.values.tobytes() for r in rows] == [r.values.tobytes() for r in alone_rows]
        assert replay.n_messages == alone.n_messages


def test_several_symbols_must_be_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds BBBUSDT and AAAUSDT; say which one with --symbol"):
        replayed(tmp_path, two_symbols())
    with pytest.raises(DataError, match=r"holds no message of CCCUSDT"):
        replayed(tmp_path, two_symbols(), "CCCUSDT")


def test_files_that_follow_one_another_are_one_recording(tmp_path: Path) -> None:
    _, messages = session(16)
    whole, rows = replayed(tmp_path, messages)
    folder = tmp_path / "raw"
    parts = []
    for k, begin in enumerate(range(0, len(messages), 50)):
        day = folder / f"date=2023-11-{14 + k // 2}"
        day.mkdir(parents=True, exist_ok=True)
        parts.append(write_raw(day / f"part-{k:06d}.parquet", messages[begin : begin + 50]))
    (folder / "date=2023-11-14" / ".part-000009.parquet").write_text("being written")
    assert len(parts) == 3
    for source in (folder, str(folder), parts):
        replay = BookReplay(source)
        assert [r.values.tobytes() for r in replay.rows()] == [r.values.tobytes() for r in rows]
        assert damage_of(replay) == {}
        assert replay.n_messages == replay.n_file_rows == whole.n_messages
        assert count_messages(source) == len(messages)
    # Without the part in between the chain is broken; rows are numbered on from the first part's.
    replay = BookReplay([parts[0], parts[2]])
    assert list(replay.rows())
    assert damage_of(replay) == {"gap": 1}
    assert replay.first_damage["gap"][0] >= 50


def test_no_recording_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no Parquet file; give a recording of raw messages"):
        list(read_messages(tmp_path))
    with pytest.raises(DataError, match="no recording of raw messages was given"):
        list(read_messages([]))


def test_a_recorder_may_write_the_schema_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "raw.parquet"
    row = {"recv_ts": 1_700_000_000_000_000_001, "kind": "depth", "raw": "{}", "symbol": "AAAUSDT"}
    pq.write_table(pa.Table.from_pylist([row], RAW_SCHEMA), path)
    (message,) = read_messages(path)
    assert (message.row, message.recv_ns, message.kind, message.raw) == (0, row["recv_ts"], "depth", "{}")
    assert count_messages(path) == 1


def test_times_of_other_units_are_read_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "raw.parquet"
    stamps = pa.array([1_700_000_000_000, None], pa.timestamp("ms", tz="UTC"))
    pq.write_table(pa.table({"recv_ts": stamps, "kind": ["depth", None], "raw": ["x", None]}), path)
    first, second = read_messages(path)
    assert first.recv_ns == 1_700_000_000_000_000_000
    assert (second.recv_ns, second.kind, second.raw) == (0, "", "")


def spoiled(path: Path, kind: str) -> Path:
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no Parquet at all")
    elif kind == "column":
        pq.write_table(pa.table({"recv_ts": [1], "kind": ["depth"]}), path)
    elif kind == "time":
        pq.write_table(pa.table({"recv_ts": [1], "kind": ["depth"], "raw": ["x"]}), path)
    elif kind == "damaged":
        pq.write_table(pa.table({k: column(k) for k in ("recv_ts", "kind", "raw")}), path, compression="zstd")
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
        path.write_bytes(content)
    return path


def column(name: str) -> Any:
    chance = np.random.default_rng(1)
    if name == "recv_ts":
        return pa.array(chance.integers(0, 2**60, 2_000), pa.timestamp("ns", tz="UTC"))
    return [chance.bytes(20).hex() for _ in range(2_000)]


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("none", StoreError, "no such file; check the path"),
        ("folder", DataError, "holds no Parquet file"),
        ("text", DataError, "is no Parquet file"),
        (
            "column",
            DataError,
            "no column 'raw' (columns: recv_ts, kind); expected a recording of raw messages",
        ),
        ("time", DataError, "recv_ts is int64, expected a timestamp"),
        ("damaged", DataError, "cannot be read after row 0"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_in_one_line(
    tmp_path: Path, kind: str, error: type[DolphinError], words: str
) -> None:
    path = spoiled(tmp_path / "raw.parquet", kind)
    with pytest.raises(error) as refused:
        list(BookReplay(path).rows())
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_words_of_damage_are_those_of_the_book() -> None:
    assert {o.value for o in Outcome} >= set(DAMAGE) - {"malformed", "other_symbol"}
    assert depth_data(Difference(1, 2, 3, 1, (), ()))["pu"] == 1

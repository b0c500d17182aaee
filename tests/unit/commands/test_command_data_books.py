"""`dolphin data books`: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from book_raw import Message, session, write_raw
from command_line import invoke


def raw(messages: list[Message], name: str = "raw.parquet") -> Path:
    return write_raw(Path(name), messages)


def without(messages: list[Message], n: int) -> list[Message]:
    """All but the n-th depth message."""
    lost = [k for k, m in enumerate(messages) if m[0] == "depth"][n]
    return [m for k, m in enumerate(messages) if k != lost]


def test_a_whole_recording_is_told_in_words_and_in_json() -> None:
    path = raw(session()[1])
    told = invoke("data", "books", path, "--out", "rows.parquet")
    assert told.code == 0
    lines = told.out.splitlines()
    assert lines[0].endswith("s → rows.parquet")
    assert lines[1] == "  messages   121: 60 of depth, 1 snapshot"
    assert [line[13:] for line in lines[2:6]] == ["0 gaps", "0 duplicates", "0 reordered", "0 crossed"]
    assert lines[6] == "  resyncs    0"
    assert lines[7] == "  bookTicker 100.000 % of 53 states have its best bid and ask"
    assert lines[8] == "             53 of 53 at the same update id"
    assert len(lines) == 9
    told = invoke("data", "books", path, "--out", "rows.parquet", "--json")
    assert told.err == ""
    result = told.json
    assert result["rows"] == pq.read_metadata("rows.parquet").num_rows > 20
    assert (result["rows_missing"], result["resyncs"], result["known_at_end"], result["lost"]) == (
        0,
        0,
        True,
        None,
    )
    assert set(result["damage"].values()) == {0}
    assert "compare" not in result


def test_a_gap_without_another_snapshot_is_told_as_lost() -> None:
    told = invoke("data", "books", raw(without(session()[1], 30)), "--out", "rows.parquet")
    assert told.code == 0
    assert "  damage     1 gap, first in row " in told.out
    assert ": the book was not known there\n" in told.out
    assert ": no later snapshot brings the book back\n" in told.out
    # One bookTicker after another is newer than the book; none of them is held against it.
    assert "bookTicker 100.000 % of 24 states" in told.out


def test_a_gap_with_another_snapshot_is_a_resync() -> None:
    path = raw(without(session(1, 60, (5, 40))[1], 30))
    result = invoke("data", "books", path, "--out", "rows.parquet", "--json").json
    assert (result["damage"]["gap"], result["resyncs"], result["known_at_end"], result["lost"]) == (
        1,
        1,
        True,
        None,
    )
    assert result["rows_missing"] > 0
    assert result["first_damage"]["gap"]["row"] > 60


def test_compare_says_what_is_equal_and_where_it_is_not() -> None:
    whole, part = raw(session()[1]), raw(without(session()[1], 30), "part.parquet")
    assert invoke("data", "books", whole, "--out", "whole_rows.parquet").code == 0
    told = invoke("data", "books", whole, "--out", "again.parquet", "--compare", "whole_rows.parquet")
    assert told.code == 0
    n = pq.read_metadata("again.parquet").num_rows
    assert told.out.splitlines()[-1] == f"  compare    100.000 % of {n} rows equal in all columns"
    told = invoke("data", "books", part, "--out", "part_rows.parquet", "--compare", "whole_rows.parquet")
    assert told.code == 1
    first, second = told.out.splitlines()[-2:]
    assert first.startswith("             first difference at 2023-11-14T")
    assert first.endswith("Z, row:")
    assert second.startswith("             nothing here, 1")
    result = invoke(
        "data", "books", part, "--out", "part_rows.parquet", "--compare", "whole_rows.parquet", "--json"
    )
    assert result.code == 1
    compare = result.json["compare"]
    assert compare["equal"] == compare["both"] == compare["ours"] < compare["theirs"] == n
    assert compare["first_difference"]["ours"] is None


def test_damage_of_other_kinds_is_told_where_there_is_some() -> None:
    messages = session(1, 60, (5, 40))[1]
    messages.insert(50, ("depth", "{"))
    told = invoke("data", "books", raw(messages), "--out", "rows.parquet")
    assert "             1 malformed, first in row 50: depth message refused: " in told.out


def test_one_symbol_of_several() -> None:
    messages = [(*m, "AAAUSDT") for m in session()[1]] + [("trade", "{}", "BBBUSDT")]
    path = raw(messages)
    assert "say which one with --symbol" in invoke("data", "books", path, "--out", "x.parquet").error
    assert invoke("data", "books", path, "--out", "x.parquet", "--symbol", "AAAUSDT").code == 0


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ((), "holds no message"),
        (("depth", "bookTicker"), "holds no depth snapshot, so no book can be founded"),
        (("snapshot",), "no snapshot meets the stream of differences; record one while the stream runs"),
    ],
)
def test_a_recording_without_a_book_is_refused_and_leaves_no_file(kinds: tuple[str, ...], words: str) -> None:
    path = raw([m for m in session()[1] if m[0] in kinds])
    told = invoke("data", "books", path, "--out", "rows.parquet")
    assert told.code == 1
    assert words in told.error
    assert not Path("rows.parquet").exists()


def test_a_snapshot_too_old_names_the_damage() -> None:
    messages = session()[1]
    messages.insert(20, messages.pop([m[0] for m in messages].index("snapshot")))
    told = invoke("data", "books", raw(messages[16:]), "--out", "rows.parquet")
    assert "(first damage: snapshot_old in row 4" in told.error


def test_a_book_that_sees_no_boundary_says_so() -> None:
    messages = session()[1]
    at = [m[0] for m in messages].index("snapshot")
    told = invoke("data", "books", raw(messages[: at + 2]), "--out", "rows.parquet")
    assert "the book was never known over a whole boundary of 100 ms; nothing written" in told.error


def test_no_file_is_written_over_its_own_source() -> None:
    path = raw(session()[1])
    told = invoke("data", "books", path, "--out", path)
    assert told.code == 2
    assert "--out is the recording itself" in told.error
    assert invoke("data", "books", path, "--out", "rows.parquet").code == 0
    told = invoke("data", "books", path, "--out", "rows.parquet", "--compare", "rows.parquet")
    assert "--out is --compare itself" in told.error


def test_a_file_to_compare_with_is_looked_at_before_the_work() -> None:
    path = raw(session()[1])
    told = invoke("data", "books", path, "--out", "rows.parquet", "--compare", "none.parquet")
    assert "none.parquet: no such file; check the path" in told.error
    assert not Path("rows.parquet").exists()


def test_a_folder_of_parts_is_one_recording() -> None:
    messages = session()[1]
    Path("parts").mkdir()
    first, second = raw(messages[:70], "parts/part-1.parquet"), raw(messages[70:], "parts/part-2.parquet")
    whole = invoke("data", "books", raw(messages), "--out", "whole_rows.parquet", "--json").json
    for words in (["parts"], [first, second]):
        told = invoke(
            "data", "books", *words, "--out", "rows.parquet", "--compare", "whole_rows.parquet", "--json"
        )
        assert told.code == 0
        assert told.json["rows"] == whole["rows"]
    assert "--out is the recording itself" in invoke("data", "books", "parts", "--out", second).error


@pytest.mark.parametrize("column", [False, True])
def test_another_symbol_than_the_file_holds_is_named_with_what_it_holds(column: bool) -> None:
    path = raw(session()[1])
    if column:
        table = pq.read_table(path)
        pq.write_table(table.append_column("symbol", [["AAAUSDT"] * table.num_rows]), path)
    told = invoke("data", "books", path, "--symbol", "ETHUSDT", "--out", "rows.parquet")
    assert "raw.parquet: holds AAAUSDT, not ETHUSDT; nothing written" in told.error
    assert not Path("rows.parquet").exists()


def test_text_given_as_parquet_is_refused_in_our_words() -> None:
    Path("raw.parquet").write_text("ts,BTCUSDT\n1,2\n")
    told = invoke("data", "books", "raw.parquet", "--out", "rows.parquet")
    assert "raw.parquet: is no Parquet file, or a cut-off one; expected a recording" in told.error
    assert "magic" not in told.error
    told = invoke(
        "data", "books", raw(session()[1], "good.parquet"), "--compare", "raw.parquet", "--out", "r"
    )
    assert "raw.parquet: is no Parquet file, or a cut-off one" in told.error
    assert "magic" not in told.error
    told = invoke("data", "market", "raw.parquet", "--out", "market")
    assert "raw.parquet: is no Parquet file, or a cut-off one; expected a recording" in told.error
    assert "magic" not in told.error
    told = invoke("run", "--feed", "recorded", "raw.parquet", "--out", "run")
    assert "magic" not in told.error

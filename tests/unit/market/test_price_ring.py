"""The price ring: append, torn tails, compaction, other universes."""

from __future__ import annotations

import errno
import os

import pytest

from dolphin.domain.errors import DataError, StoreError
from dolphin.market.price_ring import PriceRing

UID = "0123456789abcdef"


def row(i: int) -> bytes:
    return i.to_bytes(8, "little") * 2


def ring(tmp_path, **options) -> PriceRing:
    return PriceRing(tmp_path / "ring.bin", 16, options.pop("universe_id", UID), **options)


def test_rows_survive_reopening(tmp_path):
    first = ring(tmp_path)
    for i in range(10):
        first.append(row(i))
    first.close()
    again = ring(tmp_path)
    assert again.rows() == first.rows() == [row(i) for i in range(10)]
    assert again.notes == ()


def test_only_the_last_rows_are_kept_and_the_file_stays_small(tmp_path):
    r = ring(tmp_path, keep=5)
    sizes = set()
    for i in range(100):
        r.append(row(i))
        assert r.rows() == [row(k) for k in range(max(0, i - 4), i + 1)]
        sizes.add(r.path.stat().st_size)
    assert max(sizes) <= 32 + 4 * 5 * 20
    assert ring(tmp_path, keep=5).rows() == [row(k) for k in range(95, 100)]
    assert [p.name for p in tmp_path.iterdir()] == ["ring.bin"]


def test_a_tail_torn_at_any_byte_is_cut(tmp_path):
    r = ring(tmp_path)
    for i in range(3):
        r.append(row(i))
    r.close()
    whole = r.path.read_bytes()
    for cut in range(1, 21):
        r.path.write_bytes(whole[:-cut])
        again = ring(tmp_path)
        assert again.rows() == [row(0), row(1)]
        assert len(again.notes) == (cut < 20)
        again.append(row(7))
        again.close()
        assert ring(tmp_path).rows() == [row(0), row(1), row(7)]


def test_a_flipped_bit_ends_the_rows_there(tmp_path):
    r = ring(tmp_path)
    for i in range(4):
        r.append(row(i))
    r.close()
    content = bytearray(r.path.read_bytes())
    content[32 + 20 + 3] ^= 1
    r.path.write_bytes(content)
    again = ring(tmp_path)
    assert again.rows() == [row(0)]
    assert "60 bytes of a torn tail" in again.notes[0]


@pytest.mark.parametrize("content", [None, b"something else entirely", b"D"])
def test_a_ring_of_another_universe_or_format_is_set_aside(tmp_path, content):
    r = ring(tmp_path, universe_id="f" * 16)
    r.append(row(1))
    r.close()
    if content is not None:
        r.path.write_bytes(content)
    again = ring(tmp_path)
    assert again.rows() == []
    assert "set aside" in again.notes[0]
    assert (tmp_path / "ring.bin.foreign").exists()


def test_clear_forgets(tmp_path):
    r = ring(tmp_path)
    r.append(row(1))
    r.clear()
    r.append(row(2))
    assert r.rows() == ring(tmp_path).rows() == [row(2)]


def test_a_row_of_the_wrong_width(tmp_path):
    with pytest.raises(DataError, match="a row of 3 bytes, expected 16"):
        ring(tmp_path).append(b"abc")
    with pytest.raises(DataError, match="a row of 0 bytes"):
        PriceRing(tmp_path / "x", 0, UID)


def test_a_full_disk_adds_nothing(tmp_path, monkeypatch):
    r = ring(tmp_path)
    r.append(row(1))
    real = os.write

    def half(fd, data):
        if len(data) > 10:
            return real(fd, bytes(data)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StoreError, match=r"No space left on device.; free some space and go on"):
        r.append(row(2))
    monkeypatch.undo()
    assert r.rows() == [row(1)]
    r.append(row(3))
    assert ring(tmp_path).rows() == [row(1), row(3)]


def test_a_closed_ring_and_a_folder_in_the_way(tmp_path):
    r = ring(tmp_path, fsync=True)
    r.append(row(1))
    r.close()
    r.close()
    assert r.rows() == [row(1)]
    with pytest.raises(StoreError, match="closed"):
        r.append(row(2))
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="price ring refused"):
        PriceRing(tmp_path / "folder", 16, UID)

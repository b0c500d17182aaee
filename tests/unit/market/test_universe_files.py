"""Universe files: CSV, YAML, the packaged default, and what is refused."""

from __future__ import annotations

import pytest

from dolphin.domain.errors import ConfigError, DataError, StoreError
from dolphin.market.universe import default_universe, read_universe


def test_the_default_universe_has_fifty_symbols_and_bitcoin_first():
    symbols = default_universe()
    assert len(symbols) == 50
    assert symbols[0] == "BTCUSDT"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.csv", "symbol,rank\nBTCUSDT,1\nETHUSDT,2\n"),
        ("u.csv", "\ufeffrank, symbol\n1, BTCUSDT\n2,ETHUSDT \n"),
        ("u.yml", "- BTCUSDT\n- ETHUSDT\n"),
        ("u.yaml", "symbols: [BTCUSDT, ETHUSDT]\n"),
    ],
)
def test_formats(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_universe(path) == ("BTCUSDT", "ETHUSDT")


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("u.csv", b"name\nBTCUSDT\n", DataError, "'symbol' column"),
        ("u.csv", b"", DataError, "'symbol' column"),
        ("u.csv", b"symbol\n", ConfigError, "no symbols"),
        ("u.csv", b"symbol\nbtcusdt\n", ConfigError, "'btcusdt' is no symbol"),
        ("u.csv", b"symbol\nBTCUSDT\nBTCUSDT\n", ConfigError, "stands twice"),
        ("u.csv", b'symbol\n"BTC"x\n', DataError, "no CSV"),
        ("u.csv", b"PAR1\xff\xfe\x00", DataError, "no text file"),
        ("u.yml", b"a: [", DataError, "no YAML"),
        ("u.yml", b"a: 1", DataError, "no list of symbols"),
        ("u.yml", b"- 1\n- 2\n", DataError, "no list of symbols"),
    ],
)
def test_refused(tmp_path, name, content, kind, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind) as error:
        read_universe(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        read_universe(tmp_path / "none.yml")
    with pytest.raises(StoreError, match="is a folder"):
        read_universe(tmp_path)

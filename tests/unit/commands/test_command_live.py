"""The commands that ask the exchange: `record`, `data download`, `run --feed binance`, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import invoke

from exchange import LoopbackExchange, SyntheticMarket


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with LoopbackExchange(SyntheticMarket(2, seed=7), speed=1.0, life_s=120.0) as x:
        yield x.url
        assert x.meter.forbidden == []


def yesterday() -> str:
    return (datetime.now(UTC) - timedelta(hours=20)).isoformat()[:16]


def test_klines_are_downloaded_checked_and_run(url: str) -> None:
    asked = ("data", "download", "--symbols", "BTCUSDT,ETHUSDT", "--from", yesterday(), "--out", "k.parquet")
    told = invoke(*asked, "--base-url", url, "--json")
    assert told.code == 0, told.err
    assert told.json["rows"] >= 2 * 1_199
    assert told.json["gaps"] == {}
    whole = Path("k.parquet").read_bytes()
    refused = invoke(*asked, "--base-url", url)
    assert "--out k.parquet: is there already; add --overwrite" in refused.error
    assert Path("k.parquet").read_bytes() == whole
    again = invoke(*asked, "--base-url", url, "--overwrite")
    assert "klines of 2 symbols" in again.out
    ran = invoke("run", "--feed", "recorded", "k.parquet", "--out", "r", "--json", "--no-report")
    assert ran.code == 0, ran.err
    assert ran.json["bars"] >= 1_199


def test_a_recording_becomes_books(url: str) -> None:
    told = invoke(
        "record", "--out", "rec", "--symbols", "BTCUSDT,NOPEUSDT", "--minutes", "0.06", "--base-url", url
    )
    assert told.code == 0, told.err
    assert "messages in 1 part" in told.out
    assert "NOPEUSDT: not traded" in told.out
    books = invoke("data", "books", "rec", "--symbol", "BTCUSDT", "--out", "rows.parquet", "--json")
    assert books.code == 0, books.err
    assert books.json["rows"] > 0
    assert books.json["snapshots"] == 1


def test_a_live_run_warms_up_from_klines_and_stops_by_itself(url: str) -> None:
    Path("u.yml").write_text("[BTCUSDT, ETHUSDT]\n")
    live = ("run", "--feed", "binance", "--universe", "u.yml", "--base-url", url, "--out", "live", "--json")
    told = invoke(*live, "--bars", "752", "--no-report")
    assert told.code == 0, told.err
    assert told.json["bars"] == 752
    assert told.json["scans"] == 1
    assert told.json["feed"] == "binance"
    assert told.json["ledger_balanced"]
    assert any("filled from one-minute klines" in note for note in told.json["notes"])
    # Another address for the exchange asks no other publisher by itself.
    assert not any("publishers" in note for note in told.json["notes"])
    assert not Path("live/exf").exists()


def test_a_live_run_asks_for_factors_where_it_is_told_to(url: str) -> None:
    Path("u.yml").write_text("[BTCUSDT, ETHUSDT]\n")
    live = ("run", "--feed", "binance", "--universe", "u.yml", "--base-url", url, "--out", "live", "--json")
    hosts = [f"--factor-address={host}={url}" for host in ("deribit", "alternative")]
    told = invoke(*live, "--bars", "752", "--no-report", "--factors", "live", *hosts)
    assert told.code == 0, told.err
    assert any("live from their publishers" in note for note in told.json["notes"])


def test_a_download_refuses_an_out_that_is_something_else(url: str) -> None:
    Path("u.csv").write_text("symbol\nBTCUSDT\n")
    Path("folder").mkdir()
    download = (
        "data",
        "download",
        "--universe",
        "u.csv",
        "--from",
        yesterday(),
        "--base-url",
        url,
        "--overwrite",
    )
    for out, said in (("u.csv", "is the universe file itself"), ("folder", "is a folder")):
        assert said in invoke(*download, "--out", out).error
    assert Path("u.csv").read_text() == "symbol\nBTCUSDT\n"
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "u.csv"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--feed", "binance", "x.parquet"), "takes no PATH"),
        (("run", "--feed", "binance", "--seed", "3"), "--seed is for the synthetic market"),
        (("run", "--feed", "binance", "--base-url", "ftp://x"), "must begin with https://"),
        (("record", "--out", "r", "--base-url", "http://[::1"), "must be scheme, host and port only"),
        (("run", "--base-url", "http://127.0.0.1:1"), "--base-url is for live prices"),
        (("run", "--no-backfill"), "--no-backfill is for live prices"),
        (("run", "--trade-backfilled"), "--trade-backfilled is for live prices"),
        (("run", "--factors", "live"), "--factors live is for live prices"),
        (("run", "--factor-address", "binance=http://127.0.0.1:1"), "--factor-address is for live factors"),
        (
            ("run", "--feed", "binance", "--factors", "live", "--factor-address", "deribit"),
            "expected HOST=URL",
        ),
        (
            (
                "run",
                "--feed",
                "binance",
                "--factors",
                "live",
                "--factor-address",
                "derivit=http://127.0.0.1:1",
            ),
            "'derivit' is no source of factors. Did you mean 'deribit'?",
        ),
        (("scan", "--feed", "binance"), "live prices have no past"),
        (("record", "--out", "r", "--minutes", "soon"), "--minutes 'soon'"),
        (("record", "--out", "r", "--minutes", "0"), "--minutes '0'"),
        (("data", "download", "--symbols", "BTCUSDT", "--from", "soon", "--out", "k"), "--from 'soon'"),
        (("data", "download", "--from", "2026-01-01", "--out", "k"), "--symbols --universe is required"),
    ],
)
def test_what_is_wrong_is_one_line(words: tuple[str, ...], said: str) -> None:
    told = invoke(*words)
    assert told.code in (1, 2)
    assert said in told.err
    assert not Path("r").exists()

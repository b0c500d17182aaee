"""The real command line, called in the test's own process, and small seeded markets for it to work on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.cli import main

#: 23:45 UTC: a panel of 1 100 bars of one second goes over midnight, with scans on both days.
START_NS = 1_617_407_100_000_000_000
SECOND_NS = 1_000_000_000
N_BARS = 1_100
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT", "DOGEUSDT")
#: The keys that every host's summary has.
SUMMARY_KEYS = frozenset(
    re.findall(
        r"\w+",
        """
    feed set set_hash bars scans certified_bits_min trades entries_short entries_long roi roi_without_ob_edge
    gross fees slippage ob_edge profit_factor sharpe max_drawdown win_rate capital ledger_balanced
    decisions_sha256 wall_s report
    """,
    )
)

Columns = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, read strictly."""
        return strict_json(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr of a command that was refused."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in lines[0]
        assert self.out == ""
        return lines[0]


def strict_json(text: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert text.endswith("}\n")
    assert text.count("\n") == 1
    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


def invoke(*words: Any) -> Told:
    """Run one command as a shell would, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
    told = Told(code, out.getvalue(), err.getvalue())
    assert "Traceback" not in told.err
    return told


def spawn(*words: Any, before: str = "", **options: Any) -> subprocess.Popen[str]:
    """The same in a process of its own; `before` is Python that runs there first."""
    code = f"import sys\n{before}\nfrom dolphin.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(command, **settings)


def finished(process: subprocess.Popen[str]) -> Told:
    out, err = process.communicate(timeout=300)
    return Told(process.returncode, out or "", err or "")


def market(n_bars: int = N_BARS, seed: int = 1) -> Columns:
    """Columns of a wide panel: a common factor whose weight changes, so that eigenvalues move."""
    draw = np.random.default_rng(seed)
    weight = np.repeat(draw.random(n_bars // 50 + 1), 50)[:n_bars, None]
    common, own = draw.standard_normal((n_bars, 1)), draw.standard_normal((n_bars, len(SYMBOLS)))
    prices = 100.0 * np.exp(np.cumsum(0.003 * (weight * common + (1.0 - weight) * own), axis=0))
    stamps = START_NS + np.arange(n_bars, dtype=np.int64) * SECOND_NS
    return {"ts": stamps, **{symbol: prices[:, j].copy() for j, symbol in enumerate(SYMBOLS)}}


def write_panel(path: Path, columns: Columns) -> Path:
    """A wide panel; `ts` in nanoseconds becomes a timestamp."""
    ts = pa.array(columns["ts"], pa.timestamp("ns", tz="UTC"))
    pq.write_table(pa.table({"ts": ts, **{k: v for k, v in columns.items() if k != "ts"}}), path)
    return path


def write_long(path: Path, columns: Columns) -> Path:
    """The same prices as rows of (ts, symbol, open, high, low, close, volume), by symbol."""
    names = [name for name in columns if name != "ts"]
    n_bars = len(columns["ts"])
    close = np.concatenate([columns[name] for name in names])
    table = {
        "ts": pa.array(np.tile(columns["ts"], len(names)), pa.timestamp("ns", tz="UTC")),
        "symbol": [name for name in names for _ in range(n_bars)],
        "open": close,
        "high": close,
        "low": close,
        "close": close,
        "volume": np.ones(len(close)),
    }
    pq.write_table(pa.table(table), path)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass(frozen=True)
class Baseline:
    """A panel and one finished run of it that nobody changes."""

    panel: Path
    folder: Path
    summary: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.summary["decisions_sha256"])


def buffered() -> dict[str, str]:
    """The environment of a user whose Python keeps its output back, as it does into files and pipes."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

"""External factors as their sources tell them: Binance's premium and taker ratio, Deribit, alternative.me.

Values are set by hand, or taken from a recorded day. Series reach into the past: values before today wander
around the present one, so that medians and windows have something to look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MINUTE_MS, DAY_MS = 60_000, 86_400_000
PERIODS_MS = {
    "5m": 300_000, "15m": 900_000, "30m": 1_800_000, "1h": 3_600_000, "2h": 7_200_000, "4h": 14_400_000,
    "6h": 21_600_000, "12h": 43_200_000, "1d": 86_400_000,
}  # fmt: skip
RESOLUTIONS_MS = {"1": 1_000, "60": 60_000, "3600": 3_600_000, "43200": 43_200_000, "1D": 86_400_000}
#: Deribit answers at most this many candles and says where to go on.
DERIBIT_MAX = 1_000


@dataclass
class Factors:
    """What the sources say now.

    funding_rate is the last one (fraction per interval); dvol annualised percent; fng 0..100; taker is the
    ratio of bought to sold volume. `wander` scales how far the past was from the present, 0 not at all.
    """

    funding_rate: float = 0.0001
    dvol: float = 50.0
    fng: int = 55
    taker: float = 1.02
    wander: float = 0.01
    #: The documented samples have times as text; live answers have been seen with numbers.
    taker_time_as_text: bool = True

    def set(self, **values: float) -> None:
        """Change some values; raises AttributeError for an unknown name."""
        for name, value in values.items():
            getattr(self, name)
            setattr(self, name, value)

    def _past(self, value: float, age: float) -> float:
        return value * (1.0 + self.wander * math.sin(age / 7.0)) if age > 0 else value

    def taker_series(self, query: dict[str, str], now_ms: int) -> list[dict[str, Any]]:
        """`/futures/data/takerlongshortRatio`: oldest first, the last period that has ended at the end."""
        period = PERIODS_MS[query["period"]]
        limit = int(query.get("limit", "30"))
        last = (now_ms // period - 1) * period
        end = min(last, int(query.get("endTime", last)) // period * period)
        start = int(query.get("startTime", end - (limit - 1) * period))
        start = max(-(-start // period) * period, end - (limit - 1) * period)
        rows = []
        for at in range(start, end + 1, period):
            ratio = self._past(self.taker, (last - at) / period)
            sold = 248.503
            rows.append(
                {
                    "buySellRatio": f"{ratio:.4f}",
                    "buyVol": f"{ratio * sold:.4f}",
                    "sellVol": f"{sold:.4f}",
                    "timestamp": str(at) if self.taker_time_as_text else at,
                }
            )
        return rows

    def dvol_candles(
        self, start_ms: int, end_ms: int, resolution_ms: int, now_ms: int
    ) -> tuple[list[Any], int | None]:
        """(`[ms, open, high, low, close]` oldest first, where an older page ends or None)."""
        newest = now_ms // resolution_ms * resolution_ms
        last = min(end_ms // resolution_ms * resolution_ms, newest)
        first = -(-start_ms // resolution_ms) * resolution_ms
        n = max(0, (last - first) // resolution_ms + 1)
        more = None
        if n > DERIBIT_MAX:
            first = last - (DERIBIT_MAX - 1) * resolution_ms
            more = first - resolution_ms
            n = DERIBIT_MAX
        rows = []
        for k in range(n):
            at = first + k * resolution_ms
            age = (newest - at) / resolution_ms
            a, b = self._past(self.dvol, age + 1 if age else 1), self._past(self.dvol, age)
            rows.append([at, round(a, 2), round(max(a, b), 2), round(min(a, b), 2), round(b, 2)])
        return rows, more

    def fng_days(self, limit: int, now_ms: int) -> list[dict[str, str]]:
        """alternative.me: newest first, one value a day, the time until the next one in the first only."""
        today = now_ms // DAY_MS * DAY_MS
        rows = []
        for k in range(limit):
            value = max(0, min(100, round(self._past(self.fng, k))))
            row = {
                "value": str(value),
                "value_classification": classification(value),
                "timestamp": str((today - k * DAY_MS) // 1_000),
            }
            if k == 0:
                row["time_until_update"] = str((today + DAY_MS - now_ms) // 1_000)
            rows.append(row)
        return rows

    def take_day(self, recordings: Any, day: str) -> list[str]:
        """Set what the recorded daily files know of a UTC day (YYYY-MM-DD); returns their names."""
        from datetime import UTC, datetime, timedelta

        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
        files = {
            "funding_rate": ("binance_usdm_funding_rate", "funding_rate"),
            "dvol": ("deribit_dvol_btc_daily", "dvol"),
            "fng": ("fear_greed_index_daily", "value"),
            "taker": ("binance_usdm_taker_buy_sell_ratio_btcusdt_daily", "taker_buy_sell_ratio"),
        }
        done = []
        for name, (file, column) in files.items():
            table = pq.read_table(recordings / "factors" / f"{file}.parquet")
            if "symbol" in table.column_names:
                table = table.filter(pc.equal(table["symbol"], "BTCUSDT"))
            inside = pc.and_(
                pc.greater_equal(table["ts"], begin), pc.less(table["ts"], begin + timedelta(days=1))
            )
            rows = table.filter(inside).sort_by("ts")
            if rows.num_rows:
                value = rows[column][-1].as_py()
                setattr(self, name, int(value) if name == "fng" else float(value))
                done.append(name)
        return done


def classification(value: int) -> str:
    """alternative.me's words."""
    for limit, word in ((25, "Extreme Fear"), (46, "Fear"), (54, "Neutral"), (75, "Greed")):
        if value <= limit:
            return word
    return "Extreme Greed"

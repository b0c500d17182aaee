"""The data check: what a source of bars holds, what is wrong with it, and whether a strategy could trade it.

Entry point: `passport(feed)`. Eigenvalues are float64 (`quick_scan`); the scanner's rules are followed,
with one simplification: a price ratio beyond e counts as no move once, and is not held back for three bars.

The estimate of trades is an upper bound: each signal that passes the volatility gate, with nothing open,
opens a trade that is held for the set's full time. Direction confirmation and asset selection refuse some of
these; a take-profit frees the slot earlier.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dolphin.alpha.volatility import PRICES_KEPT, VOL_THRESHOLD
from dolphin.domain.bar import BoolArray, FloatArray, IntArray
from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, iso_from_ns
from dolphin.domain.errors import DataError, UsageError, plural
from dolphin.domain.params import GOLD, GREEN, ParameterSet
from dolphin.domain.scan import WARMUP_PRICES
from dolphin.domain.symbols import BTC, STABLECOINS
from dolphin.market.feed import Feed, accepted_stamps, find_gaps
from dolphin.market.quick_scan import carry_forward, log_returns, rolling_lambda_max

#: A symbol whose close did not move on more than this share of bars is named as stale.
UNCHANGED_FRAC_MAX = 0.5
#: A source with more bad values than this is not fit.
BAD_FRAC_MAX = 0.05
_SLICE = 65_536


@dataclass(frozen=True, kw_only=True)
class Passport:
    """What a source of bars is like. Shares are fractions of 1; counts are bars unless they say otherwise.

    `vel_div_frac` maps a threshold (1/s, as text) to the share of scans beyond it; `gate_open_frac` is over
    scans. `lambda_share` is the range of lambda_max / n_assets of the 50- and the 750-bar window. `fit`
    says whether the source can be traded at all; `reasons` say why not, `remarks` what to know in any case.
    """

    source: str
    source_id: str
    symbols: tuple[str, ...]
    n_bars: int
    interval_s: float
    first: str
    last: str
    n_gaps: int
    missing_bars: int
    gaps: list[str]
    duplicates: int
    backwards: int
    rejections: dict[str, dict[str, int]]
    bad_frac: float
    unchanged_frac: dict[str, float]
    longest_flat_bars: dict[str, int]
    stale: list[str]
    constant: list[str]
    never_priced: list[str]
    stablecoins: list[str]
    jumps: list[str]
    n_scans: int
    lambda_share: dict[str, tuple[float, float]] = field(default_factory=dict)
    vel_div_frac: dict[str, float] = field(default_factory=dict)
    vol_threshold: float = VOL_THRESHOLD
    gate_open_frac: float | None = None
    short_trades: int = 0
    long_trades: int = 0
    short_trades_per_day: float | None = None
    fit: bool = False
    reasons: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: no NaN, no tuples of numpy."""
        return asdict(self)

    def text(self) -> str:
        """The passport for a person, a few lines."""
        lines = [
            f"{self.source}: {len(self.symbols)} symbols, {self.n_bars:,} bars of {self.interval_s:g} s",
            f"  period      {self.first} to {self.last}",
            f"  gaps        {self.n_gaps} ({self.missing_bars:,} bars missing)"
            + (f": {'; '.join(self.gaps[:3])}" if self.gaps else ""),
            f"  times       {self.duplicates} duplicate, {self.backwards} backward",
            f"  bad values  {self.bad_frac:.4%}{_named_rejections(self.rejections)}",
            f"  flat        {_named(self.stale, 'more than half of the closes unchanged')}",
            f"  constant    {_named(self.constant, 'never moving')}",
            f"  jumps       {len(self.jumps)} beyond a ratio of e"
            + (f": {self.jumps[0]}" if self.jumps else ""),
            f"  scans       {self.n_scans:,} after a warm-up of {WARMUP_PRICES - 1} bars",
        ]
        if self.n_scans:
            shares = ", ".join(f"{w}: {low:.2f}-{high:.2f}" for w, (low, high) in self.lambda_share.items())
            beyond = ", ".join(f"{float(t):+g}: {share:.2%}" for t, share in self.vel_div_frac.items())
            gate = "open (no BTC)" if self.gate_open_frac is None else f"open on {self.gate_open_frac:.1%}"
            per_day = "" if self.short_trades_per_day is None else f", {self.short_trades_per_day:.1f} a day"
            lines += [
                f"  lambda/n    {shares}",
                f"  vel_div     beyond {beyond}",
                f"  volatility  gate {self.vol_threshold:g}: {gate}",
                f"  trades      at most {self.short_trades:,} SHORT{per_day}; {self.long_trades:,} LONG",
            ]
        lines += [f"  note        {remark}" for remark in self.remarks]
        lines.append("fit to trade" if self.fit else f"not fit to trade: {'; '.join(self.reasons)}")
        return "\n".join(lines)


def passport(
    feed: Feed,
    *,
    params: ParameterSet | None = None,
    vol_threshold: float = VOL_THRESHOLD,
    max_bars: int | None = None,
) -> Passport:
    """Read a feed to its end (or `max_bars`) and judge it: for `params`, or for gold and green together.

    Holds all prices: 8 x n_bars x n_assets bytes.

    Raises UsageError for an endless feed without `max_bars` or a threshold that is not positive, DataError
    for a feed of fewer than two bars.
    """
    if feed.n_bars is None and max_bars is None:
        raise UsageError(f"{feed.name}: has no end; say how many bars to check")
    if not vol_threshold > 0.0:
        raise UsageError(f"vol_threshold is {vol_threshold}; expected above 0")
    rules = _rules(params)
    stamps, prices = _collect(feed, max_bars)
    step = np.diff(stamps)
    keep = accepted_stamps(stamps)
    times, accepted = stamps[keep], prices[keep]
    gaps = find_gaps(times, feed.interval_ns)

    n_priced = np.count_nonzero(~np.isnan(accepted), axis=0).tolist()
    carried = carry_forward(accepted)
    unchanged, longest = _flatness(accepted)
    constant = [s for s, same in zip(feed.symbols, _constant(carried), strict=True) if same]
    rejections: dict[str, dict[str, int]] = {}
    for (symbol, rule), n in sorted(feed.rejections.items()):
        rejections.setdefault(symbol, {})[rule] = n
    rounded = {s: round(float(x), 6) for s, x in zip(feed.symbols, unchanged, strict=True)}
    found: dict[str, Any] = {
        "source": feed.name,
        "source_id": feed.source_id,
        "symbols": feed.symbols,
        "n_bars": len(stamps),
        "interval_s": feed.interval_ns / NS_PER_S,
        "first": iso_from_ns(int(stamps.min()))[:19] + "Z",
        "last": iso_from_ns(int(stamps.max()))[:19] + "Z",
        "n_gaps": len(gaps),
        "missing_bars": sum(gap.n_missing for gap in gaps),
        "gaps": [str(gap) for gap in gaps],
        "duplicates": int((step == 0).sum()),
        "backwards": int((step < 0).sum()),
        "rejections": rejections,
        "bad_frac": float(np.isnan(prices).mean()),
        "unchanged_frac": rounded,
        "longest_flat_bars": {s: int(n) for s, n in zip(feed.symbols, longest, strict=True)},
        "stale": [s for s, share in rounded.items() if share > UNCHANGED_FRAC_MAX and s not in constant],
        "constant": constant,
        "never_priced": [s for s, n in zip(feed.symbols, n_priced, strict=True) if not n],
        "stablecoins": [s for s in feed.symbols if s in STABLECOINS],
        "jumps": _jumps(times, carried, feed.symbols),
        "vol_threshold": vol_threshold,
        "n_scans": max(0, len(times) - WARMUP_PRICES + 1),
    }
    if found["n_scans"]:
        found |= _judge_scans(feed.symbols, times, accepted, carried, vol_threshold, rules)
    reasons, remarks = _verdict(found, feed, rules)
    return Passport(**found, fit=not reasons, reasons=reasons, remarks=remarks)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the estimate takes from parameter sets: the SHORT side's and the LONG side's."""

    short: ParameterSet
    long: ParameterSet
    #: The directions that make a source worth trading.
    directions: tuple[int, ...]


def _rules(params: ParameterSet | None) -> _Rules:
    if params is None:
        return _Rules(GOLD, GREEN, (-1, 1))
    if params.direction < 0:
        return _Rules(params, GREEN, (-1,))
    return _Rules(GOLD, params, (1,))


def _collect(feed: Feed, max_bars: int | None) -> tuple[IntArray, FloatArray]:
    bars = itertools.islice(feed.bars(), max_bars)
    stamps: list[int] = []
    blocks: list[FloatArray] = []
    rows: list[FloatArray] = []
    for bar in bars:
        stamps.append(bar.timestamp_ns)
        rows.append(bar.prices)
        if len(rows) == _SLICE:
            blocks.append(np.array(rows))
            rows = []
    if rows:
        blocks.append(np.array(rows))
    if len(stamps) < 2:
        raise DataError(f"{feed.name}: {plural(len(stamps), 'bar')}; there is nothing to check")
    return np.array(stamps, dtype=np.int64), np.concatenate(blocks)


def _constant(carried: FloatArray) -> BoolArray:
    """True for the assets that have prices, all the same. Shape (n_assets,)."""
    priced = ~np.isnan(carried[-1])
    first = carried[np.argmax(~np.isnan(carried), axis=0), np.arange(carried.shape[1])]
    moved = ((carried != first) & ~np.isnan(carried)).any(axis=0)
    return np.asarray(priced & ~moved, dtype=np.bool_)


def _flatness(prices: FloatArray) -> tuple[FloatArray, IntArray]:
    """Share of bars whose close equals the one before or is missing, and the longest such run, per asset."""
    carried = carry_forward(prices)
    same = (carried[1:] == carried[:-1]) | np.isnan(prices[1:])
    position = np.arange(len(same))[:, None]
    last_move = np.maximum.accumulate(np.where(same, -1, position), axis=0)
    return same.mean(axis=0), (position - last_move).max(axis=0)


def _jumps(times: IntArray, carried: FloatArray, symbols: tuple[str, ...]) -> list[str]:
    with np.errstate(invalid="ignore"):
        beyond = np.abs(np.log(carried[1:] / carried[:-1])) > 1.0
    return [
        f"{symbols[j]} at {iso_from_ns(int(times[i + 1]))[:19]}Z ({carried[i, j]:g} to {carried[i + 1, j]:g})"
        for i, j in np.argwhere(beyond)
    ]


def _judge_scans(
    symbols: tuple[str, ...],
    times: IntArray,
    accepted: FloatArray,
    carried: FloatArray,
    vol_threshold: float,
    rules: _Rules,
) -> dict[str, Any]:
    """Everything that needs scans: eigenvalues, velocities, the gate, trades."""
    returns = log_returns(accepted)
    short, long = rolling_lambda_max(returns, 50), rolling_lambda_max(returns, 750)
    first = WARMUP_PRICES - 2  # position of the first scan among the returns
    dt_s = np.diff(times)[first:] / NS_PER_S
    vel_div = (np.diff(short)[first - 1 :] - np.diff(long)[first - 1 :]) / dt_s
    gate = _gate(symbols, carried, vol_threshold)
    passes = np.ones(len(vel_div), dtype=np.bool_) if gate is None else gate[WARMUP_PRICES - 1 :]
    n_assets = len(symbols)
    days = float(times[-1] - times[WARMUP_PRICES - 1]) / NS_PER_DAY
    falls = (rules.short.vel_div_threshold, rules.short.vel_div_extreme)
    rises = (rules.long.vel_div_threshold, rules.long.vel_div_extreme)
    short_trades = _trades((vel_div < falls[0]) & passes, rules.short)
    return {
        "lambda_share": {
            name: (round(float(x[first:].min()) / n_assets, 4), round(float(x[first:].max()) / n_assets, 4))
            for name, x in (("50", short), ("750", long))
        },
        "vel_div_frac": {f"{t:+g}": float((vel_div < t).mean()) for t in falls}
        | {f"{t:+g}": float((vel_div > t).mean()) for t in rises},
        "gate_open_frac": None if gate is None else float(passes.mean()),
        "short_trades": short_trades,
        "long_trades": _trades((vel_div > rises[0]) & passes, rules.long),
        "short_trades_per_day": short_trades / days if days > 0 else None,
    }


def _gate(symbols: tuple[str, ...], carried: FloatArray, vol_threshold: float) -> BoolArray | None:
    """Whether the volatility gate is open on each bar, shape (n_bars,).

    None without BTC. A window that is not full, or without a price, is open.
    """
    if BTC not in symbols:
        return None
    price = carried[:, symbols.index(BTC)]
    n = PRICES_KEPT - 1
    simple = np.diff(price) / price[:-1]
    is_open = np.ones(len(price), dtype=np.bool_)
    if len(simple) < n:
        return is_open
    windows = np.lib.stride_tricks.sliding_window_view(simple, n)
    for start in range(0, len(windows), _SLICE):
        deviation = windows[start : start + _SLICE].std(axis=1)
        is_open[n + start : n + start + len(deviation)] = ~(deviation <= vol_threshold)
    return is_open


def _trades(signal: BoolArray, params: ParameterSet) -> int:
    """Signals that find the slot free, each held for the full time."""
    n, free_at = 0, params.lookback - 1
    for i in np.flatnonzero(signal):
        if i >= free_at:
            n += 1
            free_at = int(i) + params.max_hold_bars + 1
    return n


def _verdict(found: dict[str, Any], feed: Feed, rules: _Rules) -> tuple[list[str], list[str]]:
    reasons: list[str] = []
    remarks: list[str] = []
    lookback = min((rules.short if d < 0 else rules.long).lookback for d in rules.directions)
    trades = sum(
        found["short_trades" if d < 0 else "long_trades"] for d in rules.directions if found["n_scans"]
    )
    if found["n_scans"] <= lookback:
        need = WARMUP_PRICES + lookback
        reasons.append(f"{found['n_bars']} bars are too few: the first entry is possible after {need}")
    elif not trades:
        reasons.append("no signal passes the set's threshold and the volatility gate")
    if len(feed.symbols) - len(found["constant"]) - len(found["never_priced"]) < 2:
        reasons.append("fewer than two symbols move, and a correlation needs two")
    if found["bad_frac"] > BAD_FRAC_MAX:
        reasons.append(f"{found['bad_frac']:.1%} of the values are no prices, more than {BAD_FRAC_MAX:.0%}")
    if BTC not in feed.symbols:
        remarks.append(f"no {BTC}: the volatility gate stays open")
    elif found["interval_s"] != 5.0:
        remarks.append(
            f"the volatility gate {found['vol_threshold']:g} is calibrated for bars of 5 s, these are of"
            f" {found['interval_s']:g} s"
        )
    if found["interval_s"] != 5.0:
        remarks.append(
            "velocities are per second: longer bars make the same change of lambda a smaller velocity"
            if found["interval_s"] > 5.0
            else "velocities are per second: shorter bars make the same change of lambda a larger velocity"
        )
    if found["constant"]:
        named = plural(len(found["constant"]), "symbol")
        remarks.append(f"{named} without any move: no correlation with the others")
    if found["stablecoins"]:
        remarks.append(f"pegged symbols, not traded by gold and green: {', '.join(found['stablecoins'])}")
    if found["duplicates"] or found["backwards"]:
        remarks.append("duplicate and backward bars are refused and counted by the scanner")
    return reasons, remarks


def _named(names: list[str], what: str) -> str:
    if not names:
        return f"no symbol {what}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what}: {', '.join(names[:5])}{more}"


def _named_rejections(rejections: dict[str, dict[str, int]]) -> str:
    if not rejections:
        return ""
    parts = [f"{s} {rule} {n}" for s, rules in rejections.items() for rule, n in rules.items()]
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    return f": {', '.join(parts[:5])}{more}"

"""One bar of snapshots folded into what is known of a market's books: the one computation of all features.

Entry points: `new_past`, `admit`, `fold_bar`. The live engine, preloaded days and the synthetic market all
fold with `fold_bar`; only `keep`, the weight of the old reference, differs.

Invariants: 1. `Past` is everything that is remembered; 2. an asset's depth is compared only with depths of
the same reach, and has one reference a reach, so that a book that fills reads neither as growing nor as
withdrawn; 3. the mean reference's past is rescaled when an asset joins or changes its reach, so that only
references that were there on both bars move it; 4. sums run in index order.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.kernel import kernel
from dolphin.orderbook.constants import (
    CALM_AGREEMENT,
    CALM_THRESHOLD,
    CASCADE_THRESHOLD,
    DEGRADED_BARS,
    DEPTHS_KEPT,
    LOOKBACK,
    MEAN_BARS,
    PERSISTENCE_BARS,
    STALE_AFTER_NS,
    STRESS_THRESHOLD,
)
from dolphin.orderbook.features import (
    book_features,
    imbalance_persistence,
    median,
    relative_change,
    same_sign,
    withdrawal_velocity,
)
from dolphin.orderbook.snapshot import BANDS, REACHES_BPS

N_REACHES: Final = len(REACHES_BPS)
#: Position in REACHES_BPS of a book whose first band both sides cover.
WHOLE: Final = N_REACHES - 1

#: What became of an asset's snapshot on a bar.
FRESH, MISSING, STALE, REFUSED, HIDDEN = range(5)

# Rows of Past.features, one column an asset.
FEATURE_NAMES: Final = (
    "depth_1pct_usd",
    "depth_quality",
    "fill_probability",
    "spread_proxy_bps",
    "reach_bps",
    "imbalance",
    "imbalance_ma5",
    "imbalance_persistence",
    "depth_asymmetry",
    "withdrawal_velocity",
)
DEPTH, QUALITY, FILL, SPREAD, REACH, IMBALANCE, MA5, PERSISTENCE, ASYMMETRY, WITHDRAWAL = range(
    len(FEATURE_NAMES)
)
#: Features of an asset that was never seen.
NEUTRAL: Final = (0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

# Slots of Past.market.
MARKET_NAMES: Final = (
    "median_imbalance",
    "agreement_pct",
    "depth_pressure",
    "n_assets",
    "depth_velocity",
    "acceleration",
    "cascade_count",
    "regime_signal",
    "present",
    "silent",
    "ever",
    "n_means",
)
(
    MEDIAN,
    AGREEMENT,
    PRESSURE,
    N_FRESH,
    DEPTH_VELOCITY,
    ACCELERATION,
    CASCADE,
    REGIME,
    PRESENT,
    SILENT,
    EVER,
    N_MEANS,
) = range(len(MARKET_NAMES))


class Past(NamedTuple):
    """Everything that is remembered of n assets' books between bars."""

    depths: FloatArray  # (n, 60) ring by count, USD
    reaches: SmallIntArray  # (n, 60) ring beside it, positions in REACHES_BPS
    imbalances: FloatArray  # (n, 10) oldest first
    counts: IntArray  # (n,) snapshots folded in
    references: FloatArray  # (n, 6) usual depth by reach, USD; NaN where there is none yet
    means: FloatArray  # (60,) past of the mean reference, oldest first, N_MEANS of them
    market: FloatArray  # (len(MARKET_NAMES),)
    features: FloatArray  # (len(FEATURE_NAMES), n) the newest of each asset


def new_past(n_assets: int) -> Past:
    """The past of a market that was never seen: neutral features, books absent."""
    features = np.empty((len(FEATURE_NAMES), n_assets))
    features[...] = np.array(NEUTRAL)[:, None]
    return Past(
        depths=np.zeros((n_assets, DEPTHS_KEPT)),
        reaches=np.zeros((n_assets, DEPTHS_KEPT), np.int16),
        imbalances=np.zeros((n_assets, PERSISTENCE_BARS)),
        counts=np.zeros(n_assets, np.int64),
        references=np.full((n_assets, N_REACHES), np.nan),
        means=np.zeros(DEPTHS_KEPT),
        market=np.zeros(len(MARKET_NAMES)),
        features=features,
    )


class Arrivals(NamedTuple):
    """The snapshots of one bar as arrays of n assets; `admit` settles the last two and the status."""

    bid: FloatArray  # (n, 5) USD, NaN for a band that the side does not cover
    ask: FloatArray  # (n, 5)
    visible: FloatArray  # (n, 3) bid USD, ask USD and the reach in bps within which they are visible
    age_ns: IntArray  # (n,)
    status: SmallIntArray  # (n,) FRESH or MISSING on the way in
    covered: SmallIntArray  # (n,) entries of bid and ask in use, from 1
    reach: SmallIntArray  # (n,) position in REACHES_BPS


def new_arrivals(n_assets: int) -> Arrivals:
    """Whole books of nothing, all fresh."""
    return Arrivals(
        bid=np.zeros((n_assets, BANDS)),
        ask=np.zeros((n_assets, BANDS)),
        visible=np.zeros((n_assets, 3)),
        age_ns=np.zeros(n_assets, np.int64),
        status=np.zeros(n_assets, np.int16),
        covered=np.full(n_assets, BANDS, np.int16),
        reach=np.full(n_assets, WHOLE, np.int16),
    )


@kernel
def _is_amount(value: float) -> bool:
    """Whether a notional is a finite number from 0."""
    return 0.0 <= value < np.inf


@kernel
def admit(a: Arrivals) -> None:
    """Judge each snapshot: its age, its values, the bands that both sides cover, else its reach.

    A book that does not cover the first band on both sides keeps what is visible within its reach, in the
    first entry; one that shows nothing on both sides is HIDDEN, one with an amount that is no finite number
    from 0, or with an unknown reach, REFUSED.
    """
    for i in range(a.status.shape[0]):
        if a.status[i] != FRESH:
            continue
        if a.age_ns[i] > STALE_AFTER_NS or a.age_ns[i] < -STALE_AFTER_NS:
            a.status[i] = STALE
            continue
        covered = 0
        while (
            covered < BANDS
            and a.bid[i, covered] == a.bid[i, covered]
            and a.ask[i, covered] == a.ask[i, covered]
        ):
            covered += 1
        reach = WHOLE
        if covered == 0:
            a.bid[i, 0] = a.visible[i, 0]
            a.ask[i, 0] = a.visible[i, 1]
            covered = 1
            reach = -1
            for k in range(N_REACHES):
                if a.visible[i, 2] == REACHES_BPS[k]:
                    reach = k
            if reach < 0:
                a.status[i] = HIDDEN if a.visible[i, 2] == 0.0 else REFUSED
                continue
        for k in range(covered):
            if not (_is_amount(a.bid[i, k]) and _is_amount(a.ask[i, k])):
                a.status[i] = REFUSED
        a.covered[i] = covered
        a.reach[i] = reach


@kernel
def _oldest_like(reaches: SmallIntArray, slot: int, count: int) -> int:
    """Slot of the oldest depth kept with the reach of the one in slot, the count-th and newest; slot itself
    where there is no other.
    """
    if count > DEPTHS_KEPT:
        for k in range(slot + 1, DEPTHS_KEPT):
            if reaches[k] == reaches[slot]:
                return k
    for k in range(slot):
        if reaches[k] == reaches[slot]:
            return k
    return slot


@kernel
def _appended(kept: FloatArray, count: int, value: float) -> int:
    """Append to kept (10,), oldest first, of which min(count, 10) are filled; how many are filled now."""
    filled = count
    if count >= PERSISTENCE_BARS:
        filled = PERSISTENCE_BARS - 1
        for k in range(PERSISTENCE_BARS - 1):
            kept[k] = kept[k + 1]
    kept[filled] = value
    return filled + 1


@kernel
def _newest_mean(kept: FloatArray, filled: int) -> float:
    """Mean of the newest five of `filled` values, or of as many as there are."""
    taken = filled if filled < MEAN_BARS else MEAN_BARS
    total = 0.0
    for k in range(filled - taken, filled):
        total = total + kept[k]
    return total / taken


@kernel
def _fold_market(past: Past, fresh: int, imbalances: FloatArray, velocities: FloatArray) -> None:
    """The figures across the assets that are fresh: their imbalances and withdrawal velocities (fresh,)."""
    market = past.market
    middle = median(imbalances)
    pressure = 0.0
    same = 0
    cascade = 0
    for k in range(fresh):
        pressure = pressure + imbalances[k]
        if same_sign(imbalances[k], middle):
            same += 1
        if velocities[k] < CASCADE_THRESHOLD:
            cascade += 1
    withdrawn = median(velocities)
    market[MEDIAN] = middle
    market[AGREEMENT] = same / fresh
    market[PRESSURE] = pressure
    market[N_FRESH] = float(fresh)
    market[CASCADE] = float(cascade)
    market[REGIME] = 0.0
    if withdrawn < STRESS_THRESHOLD:
        market[REGIME] = 1.0
    elif abs(withdrawn) < CALM_THRESHOLD and market[AGREEMENT] > CALM_AGREEMENT:
        market[REGIME] = -1.0


@kernel
def _fold_mean(past: Past, before: float, now: float, changed: bool) -> None:
    """Append the mean reference `now`; where the assets or a reach changed, `before` is the same assets' mean
    one bar ago, and the past is rescaled to it.
    """
    market = past.market
    n = int(market[N_MEANS])
    if changed and n > 0:
        last = past.means[n - 1]
        if last > 0.0:
            factor = before / last
            for k in range(n):
                past.means[k] = past.means[k] * factor
        else:
            n = 0
    if n == DEPTHS_KEPT:
        for k in range(n - 1):
            past.means[k] = past.means[k + 1]
        n = n - 1
    past.means[n] = now
    n += 1
    velocity = withdrawal_velocity(past.means[:n], LOOKBACK)
    market[N_MEANS] = float(n)
    market[ACCELERATION] = velocity - market[DEPTH_VELOCITY]
    market[DEPTH_VELOCITY] = velocity


@kernel
def fold_bar(
    bid: FloatArray,
    ask: FloatArray,
    fresh: BoolArray,
    covered: SmallIntArray,
    reach: SmallIntArray,
    keep: float,
    past: Past,
) -> int:
    """Fold one bar in and return how many assets had a snapshot.

    bid, ask (n, 5) USD, of which covered (n,) entries are in use; where fresh (n,) is false nothing of an
    asset is read: it keeps its last features and is left out of the market's figures. A bar without any
    snapshot keeps those too; from the third such bar in a row, and before the very first snapshot, books are
    absent. No checks.

    An asset's own work stands in this loop: a call an asset that takes `past` doubles the time of a bar.
    """
    n = fresh.shape[0]
    imbalances = np.zeros(n)
    velocities = np.zeros(n)
    market = past.market
    features = past.features
    seen = 0
    known = 0
    before = 0.0
    now = 0.0
    changed = False
    for i in range(n):
        count = past.counts[i]
        slot = count % DEPTHS_KEPT
        last = -1
        if count > 0:
            last = past.reaches[i, slot - 1 if slot > 0 else DEPTHS_KEPT - 1]
        if fresh[i]:
            k = covered[i]
            was = past.references[i, reach[i]]
            if last != reach[i]:
                changed = True
            depth = bid[i, 0] + ask[i, 0]
            reference = depth
            if was == was:
                reference = keep * was + (1.0 - keep) * depth
            else:
                was = depth
            past.references[i, reach[i]] = reference
            book = book_features(bid[i, :k], ask[i, :k], reference)
            past.depths[i, slot] = depth
            past.reaches[i, slot] = reach[i]
            filled = _appended(past.imbalances[i], count, book[1])
            past.counts[i] = count + 1
            features[DEPTH, i] = depth
            features[QUALITY, i] = book[2]
            features[FILL, i] = book[3]
            features[SPREAD, i] = book[4]
            features[REACH, i] = REACHES_BPS[reach[i]]
            features[IMBALANCE, i] = book[1]
            features[MA5, i] = _newest_mean(past.imbalances[i], filled)
            features[PERSISTENCE, i] = imbalance_persistence(past.imbalances[i, :filled], PERSISTENCE_BARS)
            features[ASYMMETRY, i] = book[5]
            features[WITHDRAWAL, i] = relative_change(
                past.depths[i, _oldest_like(past.reaches[i], slot, count + 1)], depth
            )
            imbalances[seen] = past.features[IMBALANCE, i]
            velocities[seen] = past.features[WITHDRAWAL, i]
            seen += 1
            known += 1
            before = before + was
            now = now + past.references[i, reach[i]]
        elif last >= 0 and past.references[i, last] == past.references[i, last]:
            # A preloaded day has no reference for an asset that it never shows so.
            known += 1
            before = before + past.references[i, last]
            now = now + past.references[i, last]
    if seen > 0:
        _fold_market(past, seen, imbalances[:seen], velocities[:seen])
        _fold_mean(past, before / known, now / known, changed)
        market[SILENT] = 0.0
        market[EVER] = 1.0
    else:
        market[N_FRESH] = 0.0
        market[SILENT] += 1.0
    market[PRESENT] = 1.0 if market[EVER] == 1.0 and market[SILENT] < DEGRADED_BARS else 0.0
    return seen

"""What the period's benchmark compares with: numpy on the ranking, numpy and ball arithmetic on the gate.

Written as one would without kernels. They answer the same question; where numpy sums in another order, the
last bits differ and the answers (which assets, in which order; open or shut) are what is compared.
"""

from __future__ import annotations

import numpy as np
from flint import arb, ctx

from dolphin.alpha.selection import ALIGNMENT_MIN, IRP_PRICES, LATENCY_MAX, NOISE_MAX, STEPS
from dolphin.alpha.volatility import PRICES_KEPT, PRICES_MIN

Ranked = list[tuple[int, bool]]


def rank_per_asset(window: np.ndarray, direction: int) -> Ranked:
    """(asset, whether its better profile is the direction's), best first; one asset after the other."""
    found = []
    for asset in range(window.shape[1]):
        steps = np.diff(window[:, asset])
        noise = float(np.var(steps))
        if noise > NOISE_MAX:
            continue
        running = np.cumsum(steps)
        gain, loss = max(float(np.max(running)), 0.0), max(-float(np.min(running)), 0.0)
        sides = []
        for best, worst, sign in ((gain, loss, 1), (loss, gain, -1)):
            aligned = float(np.mean(steps * sign > 0.0))
            score = 0.5 * float(np.log1p(best / (worst + 1e-6))) + 0.35 * aligned - 0.15 * noise * 1000.0
            sides.append((score, aligned, best, sign))
        long = sides[0][0] > sides[1][0] if direction < 0 else not sides[1][0] > sides[0][0]
        score, aligned, best, sign = sides[0 if long else 1]
        reached = np.flatnonzero(running * sign >= 0.10 * best)
        late = not best > 0.0 or len(reached) == 0 or reached[0] + 1 > LATENCY_MAX
        if aligned >= ALIGNMENT_MIN and not late:
            found.append((-score, asset, long == (direction > 0)))
    found.sort(key=lambda one: one[0])
    return [(asset, direct) for _, asset, direct in found]


def rank_vectorised(window: np.ndarray, direction: int) -> Ranked:
    """The same over all assets at once."""
    steps = np.diff(window, axis=0)
    running = np.cumsum(steps, axis=0)
    noise = steps.var(axis=0)
    gain, loss = np.maximum(running.max(axis=0), 0.0), np.maximum(-running.min(axis=0), 0.0)
    ups, downs = (steps > 0.0).sum(axis=0) / STEPS, (steps < 0.0).sum(axis=0) / STEPS
    quiet = 0.15 * noise * 1000.0
    score_long = 0.5 * np.log1p(gain / (loss + 1e-6)) + 0.35 * ups - quiet
    score_short = 0.5 * np.log1p(loss / (gain + 1e-6)) + 0.35 * downs - quiet
    long = score_long > score_short if direction < 0 else ~(score_short > score_long)
    score, aligned = np.where(long, score_long, score_short), np.where(long, ups, downs)
    best = np.where(long, gain, loss)
    reached = running * np.where(long, 1.0, -1.0) >= 0.10 * best
    late = np.where(reached.any(axis=0), reached.argmax(axis=0) + 1, IRP_PRICES) > LATENCY_MAX
    kept = np.flatnonzero((noise <= NOISE_MAX) & (aligned >= ALIGNMENT_MIN) & (best > 0.0) & ~late)
    order = kept[np.argsort(-score[kept], kind="stable")]
    return [(int(asset), bool(long[asset] == (direction > 0))) for asset in order]


def gate_numpy(prices: np.ndarray, threshold: float) -> list[bool]:
    """The volatility gate (n,) by numpy's standard deviation of the last 51 returns, bar by bar."""
    returns = np.diff(prices) / prices[:-1]
    verdict = []
    for n in range(1, len(prices) + 1):
        kept = min(n, PRICES_KEPT)
        window = returns[n - kept : n - 1]
        verdict.append(kept < PRICES_MIN or bool(np.std(window) > threshold))
    return verdict


def gate_numpy_sliding(prices: np.ndarray, threshold: float) -> np.ndarray:
    """The same over all bars at once, from the first full window on."""
    returns = np.diff(prices) / prices[:-1]
    return np.lib.stride_tricks.sliding_window_view(returns, PRICES_KEPT - 1).std(axis=1) > threshold


def gate_balls(prices: np.ndarray, threshold: float, bits: int = 512) -> tuple[list[bool], int]:
    """(gate (n,), least accuracy in bits): ball arithmetic from scratch, two passes a bar."""
    before, ctx.prec = ctx.prec, bits
    try:
        returns = [arb(r) for r in (np.diff(prices) / prices[:-1]).tolist()]
        limit = arb(threshold)
        verdict, least = [], bits
        for n in range(1, len(prices) + 1):
            kept = min(n, PRICES_KEPT)
            if kept < PRICES_MIN:
                verdict.append(True)
                continue
            window = returns[n - kept : n - 1]
            mean = sum(window, arb(0)) / len(window)
            deviation = (sum(((r - mean) * (r - mean) for r in window), arb(0)) / len(window)).sqrt()
            if not (deviation > limit or deviation <= limit):
                raise SystemExit(f"benchmarks: {bits} bits cannot tell whether the gate is open at bar {n}")
            verdict.append(bool(deviation > limit))
            least = min(least, deviation.rel_accuracy_bits())
    finally:
        ctx.prec = before
    return verdict, least

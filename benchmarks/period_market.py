"""The market of the period's benchmark: many days of bars, seeded, the same bits on every machine.

Nothing but uniform draws, + - * / and running products goes in: numpy's own normal deviates, exponentials and
logarithms may differ in the last bit from processor to processor, and the result's hash would with them.
"""

from __future__ import annotations

import numpy as np

from dolphin.domain.clock import NS_PER_DAY
from dolphin.domain.symbols import BTC
from dolphin.engine.market import PeriodInputs
from dolphin.market.universe import default_universe

#: First day of the market, days since 1970.
FIRST_DAY = 20_000
#: Price levels in USDT: most perpetuals cost little, so that their steps' variance is far below the limit of
#: the selection; two cost thousands, and the first is beyond the limit in its livelier hours.
LEVELS = (60_000.0, 3_000.0, 0.08, 0.25, 0.6, 1.2, 2.5, 7.0, 15.0, 40.0, 90.0, 300.0)


def bell(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draws of mean 0 and variance 1, nearly normal: three uniform ones added."""
    total = rng.random(shape)
    for _ in range(2):
        total += rng.random(shape)
    total -= 1.5
    total *= 2.0  # three uniform draws have a variance of a quarter
    return total


def vel_divs(rng: np.random.Generator, n: int) -> np.ndarray:
    """vel_div (n,), 1/s: AR(1), with a heavy tail, some 3 % of bars beyond -0.02 and a few beyond -0.05."""
    push = bell(rng, (n,)) * np.where(rng.random(n) < 0.004, 0.026, 0.0074)
    out, last = [], 0.0
    for value in push.tolist():
        last = 0.7 * last + value
        out.append(last)
    return np.array(out)


def make_inputs(seed: int, days: int, bars: int, assets: int) -> PeriodInputs:
    """A market of `days` UTC days of `bars` bars each, spread evenly over the day: a factor random walk."""
    rng = np.random.default_rng(seed)
    n = days * bars
    symbols = default_universe()[:assets]
    if BTC in symbols:
        symbols = (BTC, *(symbol for symbol in symbols if symbol != BTC))
    # Quiet and lively hours: the volatility gate is shut for part of the time, as it is in a market.
    hours = -(-n // 256)
    lively = np.repeat(0.7 + 0.9 * rng.random(hours), 256)[:n]
    factor = bell(rng, (n,)) * 3.3e-4 * lively
    prices = np.empty((n, assets))
    for asset in range(assets):
        loading, own = 0.5 + rng.random(), 3.0e-4 * (1.0 + rng.random())
        if symbols[asset] == BTC:  # the volatility gate's: shut in the quietest hours
            loading, own = 1.0, 1.6e-4
        steps = factor * loading + bell(rng, (n,)) * own * lively
        steps[0] = 0.0
        steps += 1.0
        level = LEVELS[asset] if asset < 2 else LEVELS[2 + (asset - 2) % (len(LEVELS) - 2)]
        prices[:, asset] = level * np.cumprod(steps)
    vel_div = vel_divs(rng, n)
    slow = bell(rng, (n,)) * 0.004
    day, bar = np.divmod(np.arange(n, dtype=np.int64), bars)
    return PeriodInputs(
        symbols=symbols,
        timestamp_ns=(FIRST_DAY + day) * NS_PER_DAY + (bar + 1) * (NS_PER_DAY // (bars + 1)),
        prices=prices,
        vel_div=vel_div,
        v50_velocity=vel_div + slow,
        v750_velocity=slow,
        instability_50=np.abs(vel_div),
    )

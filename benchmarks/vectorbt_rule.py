"""The simple rule in vectorbt. Runs in `.venv-vectorbt` and knows nothing of ours; prints one JSON object.

    .venv-vectorbt/bin/python benchmarks/vectorbt_rule.py MARKET.npz ROUNDS

MARKET.npz holds `price` and `vel_div` (n,), `threshold`, `tp` (a fraction) and `max_hold` (bars). The rule:
SHORT one asset at the close of a bar whose vel_div is below the threshold, if flat; leave at the close of the
first bar on which the gain is tp or the age is max_hold. Three ways: `from_signals` with its stops adjusted
by age (the exact rule), `from_signals` with take-profit and an exit signal max_hold bars after every entry
signal (its fast path, which leaves early when an older signal's time is up), and `from_order_func` (exact).
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import vectorbt as vbt
from numba import njit
from vectorbt.portfolio import nb
from vectorbt.portfolio.enums import NoOrder

CASH, SIZE = 1e9, 1.0


@njit
def stop_by_age(c, max_hold):
    if c.position_now != 0.0 and c.i - c.init_i >= max_hold:
        return 0.0, c.curr_trail
    return c.curr_stop, c.curr_trail


@njit
def take_by_age(c, max_hold):
    if c.position_now != 0.0 and c.i - c.init_i >= max_hold:
        return 0.0
    return c.curr_stop


@njit
def rule(c, vel_div, entry, threshold, tp, max_hold):
    price = c.close[c.i, c.col]
    if c.position_now != 0.0:
        if -(price - entry[0]) / entry[0] >= tp or c.i - entry[1] >= max_hold:
            return nb.order_nb(size=-c.position_now, price=price)
    elif vel_div[c.i] < threshold:
        entry[0] = price
        entry[1] = c.i
        return nb.order_nb(size=-SIZE, price=price)
    return NoOrder


def main(path: str, rounds: int) -> None:
    with np.load(path) as market:
        price, vel_div = market["price"], market["vel_div"]
        threshold, tp, max_hold = float(market["threshold"]), float(market["tp"]), int(market["max_hold"])
    entries = vel_div < threshold
    late = np.zeros_like(entries)
    late[max_hold:] = entries[:-max_hold]
    shared = {"direction": "shortonly", "tp_stop": tp, "size": SIZE, "init_cash": CASH, "freq": "14s"}
    never = np.zeros_like(entries)

    def by_age():
        return vbt.Portfolio.from_signals(
            price, entries, never, adjust_sl_func_nb=stop_by_age, adjust_sl_args=(max_hold,),
            adjust_tp_func_nb=take_by_age, adjust_tp_args=(max_hold,), **shared,
        )  # fmt: skip

    def by_signal():
        return vbt.Portfolio.from_signals(price, entries, late, **shared)

    def by_order():
        entry = np.zeros(2)
        return vbt.Portfolio.from_order_func(
            price, rule, vel_div, entry, threshold, tp, max_hold, init_cash=CASH, freq="14s"
        )

    works = {"from_signals by age": by_age, "from_signals": by_signal, "from_order_func": by_order}
    found = {name: work() for name, work in works.items()}  # compiles
    taken = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.thread_time()
            work()
            taken[name].append(time.thread_time() - started)
    out = {"version": vbt.__version__, "ways": {}}
    for name, portfolio in found.items():
        bars = portfolio.orders.records_arr["idx"].tolist()
        closed = len(bars) // 2
        out["ways"][name] = {
            "ms": statistics.median(taken[name]) * 1e3,
            "trades": closed,
            "entry_bars": bars[0 : 2 * closed : 2],
            "exit_bars": bars[1 : 2 * closed : 2],
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

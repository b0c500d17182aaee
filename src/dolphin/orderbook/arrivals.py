"""The newest snapshots of a universe as arrays, judged: what one bar of features is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dolphin.orderbook.fold import MISSING, Arrivals, admit, new_arrivals
from dolphin.orderbook.snapshot import BookSnapshot


def read_snapshots(
    symbols: Sequence[str],
    now_ns: int,
    newest: Callable[[str], BookSnapshot | None],
    judge: Callable[[Arrivals], None] = admit,
) -> Arrivals:
    """Read the newest snapshot of each symbol and judge it at now_ns.

    newest gives None where there is none: a provider's method or a dictionary's `get`. judge is `admit` in
    the form to run. The arrays are new ones, which the caller may keep.
    """
    arrivals = new_arrivals(len(symbols))
    bid, ask, visible, age_ns, status = arrivals[:5]
    for i, symbol in enumerate(symbols):
        snapshot = newest(symbol)
        if snapshot is None:
            status[i] = MISSING
            continue
        bid[i] = snapshot.bid_notional
        ask[i] = snapshot.ask_notional
        visible[i] = snapshot.visible_bid, snapshot.visible_ask, snapshot.visible_bps
        age_ns[i] = now_ns - snapshot.timestamp_ns
    judge(arrivals)
    return arrivals

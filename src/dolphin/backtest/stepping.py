"""One bar at a time from anywhere in a market: the session of the hosts, put where a walk stands.

Entry points: `session_at`, `row_at`, `inputs_at`, `step_at`.
"""

from __future__ import annotations

import numpy as np

from dolphin.backtest.market import Market, Walk
from dolphin.domain.codes import APEX, BOOKS_ABSENT, MC_ABSENT, REASON_NONE
from dolphin.domain.decision import Decision
from dolphin.domain.scan import ScanRow
from dolphin.engine import state as st
from dolphin.engine.engine import state_of
from dolphin.host.inputs import HostInputs
from dolphin.host.session import OpenTrade, Session, SessionState, Step

#: Where nobody looks at trade ids, and a LONG set may trade.
_DEPLOYMENT = "AGAIN"


def session_at(walk: Walk) -> Session:
    """A session that stands where the walk stands; the first bar that it takes is `walk.at`."""
    market = walk.market
    session = Session(
        walk.params,
        market.symbols,
        deployment=_DEPLOYMENT,
        options=walk.options,
        vol_threshold=walk.vol_threshold,
    )
    if walk.state is None:
        return session
    state = state_of(walk.state)
    opened = None
    if int(state.ints[st.POSITION]) != st.NONE:
        # The id of a trade from before is not asked for; an exit needs only that there is one.
        bar = int(state.ints[st.ENTRY_BAR])
        opened = OpenTrade(trade_id="before", entry=Decision(bar_idx=bar, timestamp_ns=0))
    session.restore(
        SessionState(
            engine=walk.state,
            gate_prices=walk.gate_prices,
            next_bar=int(state.ints[st.LAST_BAR]) + 1,
            last_timestamp_ns=int(market.timestamp_ns[walk.at - 1]) if walk.at else -1,
            trade_sequence=0,
            open_trade=opened,
            dropped=0,
            halted=False,
        )
    )
    return session


def row_at(market: Market, bar: int) -> ScanRow:
    """A bar's scan as sessions take it."""
    stale = market.stale[bar]
    return ScanRow(
        scan_number=int(market.scan_number[bar]),
        timestamp_ns=int(market.timestamp_ns[bar]),
        vel_div=float(market.vel_div[bar]),
        v50_velocity=float(market.v50[bar]),
        v750_velocity=float(market.v750[bar]),
        instability_50=float(market.instability_50[bar]),
        prices=market.prices[bar],
        stale=tuple(s for s, old in zip(market.symbols, stale.tolist(), strict=True) if old)
        if stale.any()
        else (),
    )


def books_of(market: Market, bar: int) -> st.Books | None:
    """The order books of a bar, None where they were absent."""
    bars = market.books
    if bars is None or not bars.present[bar]:
        return None
    return st.Books(
        True,
        float(bars.median_imbalance[bar]),
        float(bars.agreement[bar]),
        int(bars.cascade_count[bar]),
        int(bars.regime_signal[bar]),
        *(np.array(column[bar]) for column in bars[5:]),
    )


def inputs_at(market: Market, bar: int) -> HostInputs:
    """What the organs said on a bar."""
    books = books_of(market, bar)
    return HostInputs(
        posture=APEX if market.posture is None else int(market.posture[bar]),
        boost=1.0 if market.boost is None else float(market.boost[bar]),
        beta=0.0 if market.beta is None else float(market.beta[bar]),
        mc_status=MC_ABSENT if market.mc_status is None else int(market.mc_status[bar]),
        esof_mult=1.0 if market.esof_mult is None else float(market.esof_mult[bar]),
        books=books,
        books_label=BOOKS_ABSENT if books is None else market.books_label,
    )


def step_at(session: Session, market: Market, bar: int) -> Step:
    """Decide a bar, which must be the session's next."""
    refusal = REASON_NONE if market.refusal is None else int(market.refusal[bar])
    step = session.on_scan(row_at(market, bar), inputs=inputs_at(market, bar), refusal=refusal)
    assert step is not None, "a market's times grow"
    return step

"""A kill switch that also holds entries while the windows are mostly back-filled.

Entry point: `WarmupHold`. Between two minute closes a back-filled bar has no price of its own, so its windows
see minute moves and stillness instead of 5 s moves. Until live bars are more than half of the longest window
no entry is decided; exits are. A bar without a fresh price of half of the symbols is no live one. How many
bars an earlier process heard live is not on record, so a restart waits anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dolphin.domain.scan import WINDOWS
from dolphin.services.kill_switch import Engagement, KillSwitch, SwitchState

#: Live bars before an entry is decided.
LIVE_BARS_MIN = WINDOWS[-1] // 2 + 1
NAME = "warm-up"


class WarmupHold(KillSwitch):
    """The switch of a run on live prices: the operator's file, and a HALT of its own while it warms up.

    live_bars tells how many bars of live prices there were; needed is how many there must be.
    """

    def __init__(
        self, path: Path, live_bars: Callable[[], int], now_ns: int, needed: int = LIVE_BARS_MIN
    ) -> None:
        super().__init__(path)
        self._live_bars = live_bars
        self._needed = needed
        reason = f"windows are mostly back-filled from klines until {needed} live bars were heard"
        self._own = Engagement(state="HALT", by=NAME, reason=reason, at_ns=now_ns)

    def read(self) -> SwitchState | None:
        """See `KillSwitch.read`."""
        state = super().read()
        if self._live_bars() >= self._needed:
            return state
        engaged = {} if state is None else dict(state.engaged)
        return SwitchState(engaged={**engaged, NAME: self._own})

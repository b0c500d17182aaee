"""What a person should hear while live prices go on: each trouble once when it begins and once when it ends.

Entry point: `PriceNews`. No clock of its own: it looks at every bar.

1. Prices are gone while fewer than half of the traded symbols have a fresh one. A thin symbol without a trade
   is no news; the notes at the end count it.
2. A connection that broke is news while prices still come; renewals by plan are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.domain.errors import plural


class PriceNews:
    """The state of prices and connections as a person was told of it.

    fresh_ns : so long after the first bar missing prices are no news yet
    """

    def __init__(self, say: Callable[[str], None], fresh_ns: int) -> None:
        self._say = say
        self._fresh_ns = fresh_ns
        self._first_ns: int | None = None
        self._gone_ns: int | None = None
        self._ever = self._broken = False
        self._seen: Counter[str] = Counter()
        self._heard = 0

    def look(
        self, now_ns: int, fresh: int, traded: int, newest_ns: int | None, heard: int,
        counts: Mapping[str, int], last_error: str,
    ) -> None:  # fmt: skip
        """A bar closed at now_ns with `fresh` of `traded` symbols; `heard` trades were taken so far.

        newest_ns is the newest trade's time, None before any; counts are those of `StreamKeeper`.
        """
        self._first_ns = now_ns if self._first_ns is None else self._first_ns
        enough = 2 * fresh >= traded
        self._ever = self._ever or enough
        new = {name: counts.get(name, 0) - self._seen[name] for name in ("errors", "renewals")}
        self._seen.update(new)
        spoke, self._heard = heard > self._heard, heard
        broke = new["errors"] > new["renewals"]
        if self._gone_ns is not None:
            if enough:
                after_s = (now_ns - self._gone_ns) / NS_PER_S
                self._say(f"prices are back: {fresh} of {plural(traded, 'symbol')}, after {after_s:,.0f} s")
                self._gone_ns, self._broken = None, False
        elif not enough and (self._ever or now_ns - self._first_ns >= self._fresh_ns):
            self._gone_ns = self._first_ns if newest_ns is None else newest_ns
            missing = f"{traded - fresh} of {plural(traded, 'symbol')}"
            why = f" ({last_error})" if last_error else ""
            self._say(f"no fresh price of {missing} since {iso_from_ns(self._gone_ns)[11:19]} UTC{why}")
        elif broke and not self._broken:
            self._broken = True
            self._say(f"connection lost ({last_error}); asked again")
        elif self._broken and not broke and spoke:
            self._broken = False
            self._say("connected again: trades are heard")

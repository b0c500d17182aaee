"""A circuit breaker: what fails again and again is not tried at every turn.

Entry point: `Circuit`. Closed: every write is tried. So many failures in a row open it; then nothing is tried
until a back-off has passed, which doubles up to a bound; then one write probes (half open), and closes the
circuit or opens it again. What was not written is not lost here: a heartbeat is made anew, and what matters
is in the journal and shipped later.
"""

from __future__ import annotations

from typing import Final, Literal

from dolphin.domain.clock import NS_PER_S

FAILURES_TO_OPEN: Final = 5
BACKOFF_FIRST_NS: Final = NS_PER_S
BACKOFF_MAX_NS: Final = 60 * NS_PER_S


class Circuit:
    """One circuit; times are nanoseconds of the caller's clock.

    Parameters
    ----------
    failures_to_open : failures in a row, >= 1
    backoff_max_ns : bound of the back-off, ns, >= BACKOFF_FIRST_NS
    """

    def __init__(
        self, failures_to_open: int = FAILURES_TO_OPEN, backoff_max_ns: int = BACKOFF_MAX_NS
    ) -> None:
        self._failures_to_open = failures_to_open
        self._backoff_max_ns = backoff_max_ns
        self._failures = 0
        self._backoff_ns = BACKOFF_FIRST_NS
        self._opened_ns: int | None = None
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """What the circuit does with the next write."""
        if self._opened_ns is None:
            return "closed"
        return "half_open" if self._probing else "open"

    def allows(self, now_ns: int) -> bool:
        """Whether a write may be tried now; the first one after the back-off is the probe."""
        if self._opened_ns is None:
            return True
        # A clock that was set back would keep it open for as long as that: it probes instead.
        if 0 <= now_ns - self._opened_ns < self._backoff_ns:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """A write went through."""
        self._failures = 0
        self._backoff_ns = BACKOFF_FIRST_NS
        self._opened_ns = None
        self._probing = False

    def failed(self, now_ns: int) -> None:
        """A write failed, or nobody knows what became of it."""
        self._failures += 1
        if self._probing:
            self._backoff_ns = min(2 * self._backoff_ns, self._backoff_max_ns)
        if self._probing or self._failures >= self._failures_to_open:
            self._opened_ns = now_ns
            self._probing = False

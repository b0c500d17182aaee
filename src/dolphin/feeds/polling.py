"""When a web address is asked next: a jittered schedule, retries with back-off, and the server's own word.

Entry points: `Pace`, `Schedule`, `retry_after_s`.

Invariants
----------
1. A try follows another after a back-off that doubles, drawn from its upper half, so that many clients part.
2. Tries are for faults that pass (no answer, 5xx). What the server refuses is asked again a period later.
3. Where the server says how long to wait, nothing is asked before, and up to a tenth longer is waited.
4. The same seed gives the same waits. Nothing here reads a clock.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from dolphin.domain.errors import ConfigError

#: A first question comes at most so late, seconds: sources must not all speak in one instant.
FIRST_MAX_S: Final = 5.0
#: Longest wait that a server can ask for, seconds: an exchange's bans end after three days.
WAIT_MAX_S: Final = 3 * 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How often to ask, seconds. timeout_s bounds one try with all its parts; tries are in one turn."""

    period_s: float
    jitter_frac: float = 0.1
    timeout_s: float = 10.0
    tries: int = 3
    backoff_first_s: float = 1.0
    backoff_max_s: float = 30.0

    def __post_init__(self) -> None:
        positive = (self.period_s, self.timeout_s, self.backoff_first_s, self.backoff_max_s)
        if not min(positive) > 0.0 or not 0.0 <= self.jitter_frac < 1.0 or self.tries < 1:
            raise ConfigError(f"{self}: expected times above 0, tries of 1 or more and 0 <= jitter_frac < 1")


class Schedule:
    """The waits of one source, seconds each."""

    def __init__(self, pace: Pace, seed: str) -> None:
        self.pace = pace
        #: Failures in this turn; 0 after a success and when a turn is over.
        self.failures = 0
        self._chance = random.Random(seed)  # noqa: S311 jitter, no secret

    def first_s(self) -> float:
        """Before the first question."""
        return self._chance.uniform(0.0, min(FIRST_MAX_S, self.pace.period_s))

    def after_success_s(self) -> float:
        """Until the next turn."""
        self.failures = 0
        return self._period_s()

    def after_failure_s(self, *, passes: bool, wait_s: float | None = None) -> float:
        """Until the next question. passes: it may be gone in a moment. wait_s: the server's word, if any."""
        self.failures += 1
        if wait_s is not None:
            self.failures = 0
            return min(wait_s, WAIT_MAX_S) * (1.0 + self._chance.uniform(0.0, 0.1))
        if not passes or self.failures >= self.pace.tries:
            self.failures = 0
            return self._period_s()
        # Bounded before it is a power: the 1,025th failure in a row would be beyond any float.
        doublings = min(self.failures - 1, 60)
        most_s = min(self.pace.backoff_max_s, self.pace.backoff_first_s * 2.0**doublings)
        return self._chance.uniform(0.5, 1.0) * most_s

    def _period_s(self) -> float:
        jitter = self.pace.jitter_frac
        return self.pace.period_s * (1.0 + self._chance.uniform(-jitter, jitter))


def retry_after_s(text: str | None, now_s: float) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as an HTTP date; None for none and for nonsense.

    now_s is Unix time.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), WAIT_MAX_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    wait_s = (moment - datetime.fromtimestamp(now_s, UTC)).total_seconds()
    return min(max(0.0, wait_s), WAIT_MAX_S)

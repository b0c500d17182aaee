"""What is believed of one source of a factor: its last good value, how old it is, and what is wrong.

Entry points: `Source`, `Sample`, `Keeper`, `RULES`, `LIVE_RULES`.

Invariants
----------
1. A value outside its validity range is never given on; the last good one stays in force until it is too old.
2. A source that fails says so in its status and touches no other.
3. Ages are never negative: a stamp of the future counts as new.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, DolphinError

_NS_PER_HOUR: Final = 3600 * NS_PER_S

OK: Final = "ok"
NO_SOURCE: Final = "no source"
NO_VALUE: Final = "no value yet"


class Sample(NamedTuple):
    """A value and the instant from which it was known, ns UTC."""

    value: float
    at_ns: int


class SourceError(DataError):
    """A source is in trouble; `sample` is its newest good value of before, None without one."""

    def __init__(self, text: str, sample: Sample | None) -> None:
        super().__init__(text)
        self.sample = sample


class Source(Protocol):
    """Where a factor's values come from."""

    def read(self, instant_ns: int) -> Sample | None:
        """The newest value at instant_ns, None without one. Raises DolphinError, SourceError to keep one."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """Least and greatest value that can be true, and the age beyond which one no longer counts."""

    low: float
    high: float
    age_max_ns: int


#: Funding as a fraction per interval (its cap is 3 %), DVOL in annualised percent, fear and greed 0 to 100,
#: the taker ratio buy over sell. Three missed publications are too many.
RULES: Final = {
    "funding_btc": Rule(-0.03, 0.03, 24 * _NS_PER_HOUR),
    "dvol_btc": Rule(1.0, 400.0, 72 * _NS_PER_HOUR),
    "fng": Rule(0.0, 100.0, 72 * _NS_PER_HOUR),
    "taker": Rule(0.01, 100.0, 72 * _NS_PER_HOUR),
}

#: The same ranges for sources that are asked every minute: half an hour of silence is too long, but for fear
#: and greed, which is published once a day.
LIVE_RULES: Final = {
    name: rule if name == "fng" else replace(rule, age_max_ns=_NS_PER_HOUR // 2)
    for name, rule in RULES.items()
}


class Keeper:
    """One factor of the daemon. source is None where nothing is wired; rule by default that of recordings."""

    def __init__(
        self,
        name: str,
        source: Source | None,
        last_good: Sample | None = None,
        rule: Rule | None = None,
    ) -> None:
        self.name = name
        self.rule = rule or RULES[name]
        self.source = source
        self.last_good = last_good
        self.status = NO_SOURCE if source is None else NO_VALUE
        #: One line on what is wrong, empty when nothing is.
        self.fault = ""

    def poll(self, instant_ns: int) -> None:
        """Ask the source. Raises nothing that a source may raise."""
        self.fault = ""
        if self.source is None:
            return
        try:
            sample = self.source.read(instant_ns)
        except SourceError as error:
            if error.sample is not None:
                self._take(error.sample, instant_ns)
            self.status, self.fault = "failed", str(error)
            return
        except DolphinError as error:
            self.status, self.fault = "failed", str(error)
            return
        if sample is None:
            self.status = NO_VALUE
            return
        self._take(sample, instant_ns)

    def _take(self, sample: Sample, instant_ns: int) -> None:
        if not self.rule.low <= sample.value <= self.rule.high:
            self.status = "out of range"
            self.fault = (
                f"{self.name} is {sample.value:g}, expected {self.rule.low:g} to {self.rule.high:g};"
                " the last good value stays in force"
            )
            return
        self.last_good = sample
        self.status = OK if self._young(instant_ns) else "stale"

    def _young(self, instant_ns: int) -> bool:
        return self.last_good is not None and instant_ns - self.last_good.at_ns <= self.rule.age_max_ns

    def value(self, instant_ns: int) -> float | None:
        """The last good value, None without one or when it is too old."""
        if self.source is None or self.last_good is None or not self._young(instant_ns):
            return None
        return self.last_good.value

    def age_s(self, instant_ns: int) -> float | None:
        """Seconds since the last good value was published, None without one."""
        if self.last_good is None:
            return None
        return max(0, instant_ns - self.last_good.at_ns) / NS_PER_S

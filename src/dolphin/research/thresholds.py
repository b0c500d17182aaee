"""What a verdict asks for, in one place: a study and a sweep must never judge by different measures."""

from __future__ import annotations

from typing import Final

#: Days from which a yes is possible: two months, the shortest record whose intervals hold. Below it an
#: interval is stated with the warning that it is too narrow.
DAYS_ENOUGH: Final = 60
#: Closed trades below which nothing is said.
TRADES_MIN: Final = 30
#: Days out of sample below which a study says nothing.
TESTED_MIN: Final = 5
#: Days below which a sweep says nothing: halving them leaves no sample.
SWEPT_MIN: Final = 8
#: Largest p-value against shifted signals.
P_MAX: Final = 0.05
#: Smallest deflated Sharpe probability.
DEFLATED_MIN: Final = 0.95
#: Above it the choice of a setting is closer to luck (50 %) than to knowledge.
PBO_MAX: Final = 0.20
#: Share of the ways to halve the days in which the chosen setting may lose on the other half, at most below
#: this: its median there is a gain, as a study's result out of sample has to be one.
LOSING_BELOW: Final = 0.5

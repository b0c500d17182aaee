"""What would have flipped a bar: the nearest value found of every number that changes what was done.

Entry point: `flips`. Found by deciding the bar again and again on the copied state: distances grow from the
value in force until the action is another, then the interval is halved down to neighbouring numbers. Whole
numbers are tried one by one up to 300 away, so that theirs is the nearest; of a fraction a change back and
forth within one growth of the distance (a factor 2.5) could be passed over. Another asset at the same action
is no flip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from dolphin.backtest.moment import Act, Moment, Probe
from dolphin.domain.codes import ACTIONS, REASONS
from dolphin.domain.decision import Decision
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import ParameterSet

#: Numbers that were spent before this bar: another value of them is another run, not another bar.
_SPENT: Final = ("direction", "seed", "initial_capital")
_GROWTH: Final = 2.5
_FIRST: Final = 1e-6
_LAST: Final = 1e3
#: Distances of whole numbers that are all tried.
_EVERY: Final = 300
#: How near the end of what a set may have is looked for, relative.
_EDGE: Final = 1e-12

Decide = Callable[[Any], Act | None]


@dataclass(frozen=True, slots=True)
class Flip:
    """`name` stands at `value`; at `at`, the nearest such, the bar comes to `action` for `reason`."""

    name: str
    value: Any
    at: Any
    action: str
    reason: str
    asset: str

    @property
    def distance(self) -> float:
        """How far, relative to the value (or to 1 for a switch)."""
        if isinstance(self.value, bool):
            return 1.0
        return float(abs(self.at - self.value) / max(abs(self.value), 1e-12))


def flips(moment: Moment, decision: Decision) -> list[Flip]:
    """Parameters first, then the volatility gate's threshold, and the held price or the bar's vel_div.

    Each at its nearest flip; a number that changes nothing however far it goes is left out. Parameters are
    sorted by their relative distance.
    """
    probe = Probe.of(moment)
    params = moment.walk.params
    found: list[Flip] = []
    for field in fields(ParameterSet):
        if field.name in _SPENT:
            continue

        def decide(to: Any, name: str = field.name) -> Act | None:
            try:
                return probe.act(replace(params, **{name: to}))
            except ConfigError:
                return None

        found += _flip(field.name, getattr(params, field.name), decide, decision.action)
    found.sort(key=lambda flip: flip.distance)

    def gate(to: float) -> Act | None:
        return probe.act(params, vol_threshold=to) if to > 0.0 else None

    def seen(to: float) -> Act:
        return probe.act(params, vel_div=to)

    def cost(to: float) -> Act | None:
        return probe.act(params, price=to) if to > 0.0 else None

    found += _flip("vol_threshold", moment.walk.vol_threshold, gate, decision.action)
    if probe.held_price is None:
        return [*found, *_flip("vel_div", decision.vel_div, seen, decision.action)]
    return [*found, *_flip(f"price of {decision.asset}", probe.held_price, cost, decision.action)]


def _flip(name: str, value: Any, decide: Decide, action: int) -> list[Flip]:
    """The nearest flip of one number, in either direction; an empty list without one."""
    if isinstance(value, bool):
        other = decide(not value)
        at = None if other is None or other.action == action else (not value, other)
    else:
        sides = [_nearest(value, sign, decide, action) for sign in (-1, 1)]
        at = min((s for s in sides if s is not None), key=lambda s: abs(s[0] - value), default=None)
    if at is None:
        return []
    to, then = at
    return [Flip(name, value, to, ACTIONS[then.action], REASONS[then.reason], then.asset)]


def _nearest(value: Any, sign: int, decide: Decide, action: int) -> tuple[Any, Act] | None:
    """The nearest value to one side at which the action is another, and what is decided there."""
    whole = isinstance(value, int)
    same: Any = value
    for distance in _distances(value):
        to = value + sign * distance
        then = decide(to)
        if then is None:
            # The rule of the set ends here: look at its very edge, then give up.
            to, edge = _edge(same, to, decide)
            if edge is None or edge.action == action:
                return None
            then = edge
        if then.action != action:
            return _halve(same, to, then, decide, action, whole)
        same = to
    return None


def _distances(value: Any) -> list[Any]:
    if isinstance(value, int):
        return [*range(1, _EVERY + 1), *(2**k for k in range(_EVERY.bit_length(), 13))]
    scale = max(abs(value), 1e-3)
    count = math.ceil(math.log(_LAST / _FIRST) / math.log(_GROWTH))
    return [scale * _FIRST * _GROWTH**k for k in range(count)]


def _edge(good: Any, bad: Any, decide: Decide) -> tuple[Any, Act | None]:
    """The last value before `bad` that a set may have, and what is decided there."""
    then = None
    while (middle := _between(good, bad)) is not None and abs(bad - good) > _EDGE * abs(bad):
        found = decide(middle)
        if found is None:
            bad = middle
        else:
            good, then = middle, found
    return good, then


def _halve(same: Any, other: Any, then: Act, decide: Decide, action: int, whole: bool) -> tuple[Any, Act]:
    """The end of the interval at which the action is another, once its ends are neighbours."""
    while (middle := _between(same, other)) is not None:
        found = decide(middle)
        if found is None:
            break
        if found.action == action:
            same = middle
        else:
            other, then = middle, found
    return other, then


def _between(a: Any, b: Any) -> Any:
    """The middle, None for neighbours."""
    middle = (a + b) // 2 if isinstance(a, int) else a + (b - a) / 2.0
    return None if middle in (a, b) else middle

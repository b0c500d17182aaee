"""The survival stack over time: inputs of five categories to Rm, posture and what explains them (spec 05, 2).

Entry points: `StackInputs`, `StackState`, `evaluate`.

Invariants
----------
1. All ages inside the state are on its own axis, the sum of the steps forward of the clock. A clock that is
   set back adds nothing to it: nothing becomes younger, nothing waits for the old time to come again.
2. What was once known is not forgotten when its source falls silent or the grid is lost: it ages. Absent is
   what was never there, and a forewarner that answers from a fallback; both count 1.0.
3. Memory is bounded: `DVOL_SAMPLES_MAX` samples.
4. `StackState` is all there is: restored, the next evaluation is the one that would have been made.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.codes import MC_ABSENT, MC_RED, MC_STATUSES
from dolphin.risk.breaker_day import median
from dolphin.risk.survival import (
    capital_category,
    environment_category,
    invariant_category,
    microstructure_category,
    posture_level,
    posture_step,
    structural_category,
    survival_step,
    survival_target,
)

CATEGORIES: Final = ("invariant", "structural", "microstructure", "environment", "capital")
NS_PER_MIN: Final = 60 * NS_PER_S
NS_PER_HOUR: Final = 60 * NS_PER_MIN
BOOKS_FRESH_NS: Final = 60 * NS_PER_S
DVOL_WINDOW_NS: Final = 60 * NS_PER_MIN
DVOL_SPIKE: Final = 1.10
DVOL_SAMPLES_MAX: Final = 120

Five = tuple[float, float, float, float, float]


class StackInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the five categories can see now; None for what nobody says. Instants in ns UTC.

    nodes: grid members. heartbeat_ns, heartbeat_by: newest of the scan path. gate (MC_*), gate_ns, gate_real:
    the forewarner's verdict, and whether models gave it. books_ns: newest of any asset; depth_quality and
    fill_probability: market medians of the fresh ones, [0, 1], None when nothing says. dvol: annualised
    percent, pushed at dvol_ns. equity: USDT.
    """

    now_ns: int
    nodes: int
    heartbeat_ns: int | None = None
    heartbeat_by: str = ""
    gate: int = MC_ABSENT
    gate_ns: int | None = None
    gate_real: bool = False
    books_ns: int | None = None
    depth_quality: float | None = None
    fill_probability: float | None = None
    dvol: float | None = None
    dvol_ns: int | None = None
    equity: float | None = None


class Seen(msgspec.Struct, frozen=True, gc=False):
    """Something with a stamp: its stamp in ns UTC, and where its birth lies on the state's axis, ns."""

    stamp_ns: int
    born_ns: int


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """Rm, posture, both counters, and what the categories remember.

    evaluated_ns is the clock's at the last evaluation, axis_ns the state's own time. dvol_samples are (axis
    ns, annualised percent), oldest first. equity and peak in USDT. at_change are the categories when the
    posture changed last.
    """

    rm: float
    posture: int
    below: int
    above: int
    evaluated_ns: int
    axis_ns: int
    heartbeat: Seen | None = None
    heartbeat_by: str = ""
    gate: int = MC_ABSENT
    verdict: Seen | None = None
    books: Seen | None = None
    dvol: float | None = None
    dvol_stamp_ns: int | None = None
    dvol_samples: tuple[tuple[int, float], ...] = ()
    spike_ns: int | None = None
    equity: float | None = None
    peak: float | None = None
    at_change: Five = (1.0, 1.0, 1.0, 1.0, 1.0)
    #: The categories' values when Rm last fell.
    at_fall: Five = (1.0, 1.0, 1.0, 1.0, 1.0)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation: the state after it, the categories' values, and for each what it was made of.

    before is the posture before (that of now on the first). moved is the category that moved most, in the
    direction in which the posture changed, since the posture's last change; empty when none did. moved_to is
    its value then: a fall of Rm tightens the posture an evaluation later, when what fell may be well again.
    """

    state: StackState
    target: float
    values: Five
    sensors: dict[str, dict[str, Any]]
    before: int
    moved: str
    moved_to: float = 1.0

    @property
    def changed(self) -> bool:
        """Whether the posture changed."""
        return self.before != self.state.posture


def evaluate(last: StackState | None, inputs: StackInputs) -> Evaluation:
    """The next evaluation; `last` is None when there never was one, not even before a restart."""
    dt_ns = 0 if last is None else inputs.now_ns - last.evaluated_ns
    if dt_ns < 0:
        dt_ns = 0
    axis_ns = dt_ns + (0 if last is None else last.axis_ns)
    known = _remember(last, inputs, axis_ns)
    values, sensors = _categories(known, inputs)
    target = survival_target(*values)
    if last is None:
        level = posture_level(target)
        state = msgspec.structs.replace(known, rm=target, posture=level, at_change=values, at_fall=values)
        return Evaluation(state=state, target=target, values=values, sensors=sensors, before=level, moved="")
    rm = survival_step(last.rm, target, dt_ns / NS_PER_MIN)
    posture, below, above = posture_step(last.posture, last.below, last.above, rm)
    moved, moved_to = "", 1.0
    at_change, at_fall = last.at_change, values if rm < last.rm else last.at_fall
    if posture != last.posture:
        fell = posture > last.posture
        moved, moved_to = _moved(at_change, at_fall if fell else values, fell=fell)
        at_change = values
    state = msgspec.structs.replace(
        known, rm=rm, posture=posture, below=below, above=above, at_change=at_change, at_fall=at_fall
    )
    return Evaluation(
        state=state, target=target, values=values, sensors=sensors, before=last.posture, moved=moved,
        moved_to=moved_to,
    )  # fmt: skip


def _moved(before: Five, now: Five, *, fell: bool) -> tuple[str, float]:
    """(category that moved most in that direction, its value now)."""
    name, value, most = "", 1.0, 0.0
    for category, earlier, later in zip(CATEGORIES, before, now, strict=True):
        move = earlier - later if fell else later - earlier
        if move > most:
            name, value, most = category, later, move
    return name, value


def _seen(before: Seen | None, stamp_ns: int | None, now_ns: int, axis_ns: int) -> Seen | None:
    if stamp_ns is None or (before is not None and before.stamp_ns == stamp_ns):
        return before
    age_ns = now_ns - stamp_ns
    # A stamp of the future (a clock that is ahead, or was set back) was made at the latest now.
    return Seen(stamp_ns, axis_ns - (age_ns if age_ns > 0 else 0))


def _remember(last: StackState | None, inputs: StackInputs, axis_ns: int) -> StackState:
    """The state with the new inputs folded in; Rm, posture and counters still those of before."""
    now_ns = inputs.now_ns
    if last is None:
        last = StackState(rm=1.0, posture=0, below=0, above=0, evaluated_ns=now_ns, axis_ns=axis_ns)
    verdict, gate = last.verdict, last.gate
    if inputs.gate_ns is not None:
        verdict = _seen(verdict, inputs.gate_ns, now_ns, axis_ns) if inputs.gate_real else None
        gate = inputs.gate if inputs.gate_real else MC_ABSENT
    new_heartbeat = _seen(last.heartbeat, inputs.heartbeat_ns, now_ns, axis_ns)
    equity = last.equity if inputs.equity is None else inputs.equity
    peak = last.peak
    if equity is not None and (peak is None or equity > peak):
        peak = equity
    samples = tuple(s for s in last.dvol_samples if axis_ns - s[0] <= DVOL_WINDOW_NS)
    dvol, dvol_stamp_ns = last.dvol, last.dvol_stamp_ns
    spike_ns = last.spike_ns
    if inputs.dvol is not None:
        is_new = inputs.dvol_ns != dvol_stamp_ns
        earlier = samples if is_new else samples[:-1]
        dvol, dvol_stamp_ns = inputs.dvol, inputs.dvol_ns
        if earlier and dvol > DVOL_SPIKE * median([value for _, value in earlier]):
            spike_ns = axis_ns
        if is_new:
            samples = (*samples, (axis_ns, dvol))[-DVOL_SAMPLES_MAX:]
    return StackState(
        rm=last.rm,
        posture=last.posture,
        below=last.below,
        above=last.above,
        evaluated_ns=now_ns,
        axis_ns=axis_ns,
        heartbeat=new_heartbeat,
        heartbeat_by=inputs.heartbeat_by if new_heartbeat is not last.heartbeat else last.heartbeat_by,
        gate=gate,
        verdict=verdict,
        books=_seen(last.books, inputs.books_ns, now_ns, axis_ns),
        dvol=dvol,
        dvol_stamp_ns=dvol_stamp_ns,
        dvol_samples=samples,
        spike_ns=spike_ns,
        equity=equity,
        peak=peak,
        at_change=last.at_change,
        at_fall=last.at_fall,
    )


def _categories(known: StackState, inputs: StackInputs) -> tuple[Five, dict[str, dict[str, Any]]]:
    """The five values and what explains each."""
    parts = (
        _invariant(known, inputs.nodes),
        _structural(known),
        _microstructure(known, inputs),
        _environment(known),
        _capital(known),
    )
    sensors = {name: {"value": value, **told} for name, (value, told) in zip(CATEGORIES, parts, strict=True)}
    one, two, three, four, five = (value for value, _ in parts)
    return (one, two, three, four, five), sensors


_Part = tuple[float, dict[str, Any]]


def _invariant(known: StackState, nodes: int) -> _Part:
    age_s = None if known.heartbeat is None else (known.axis_ns - known.heartbeat.born_ns) / NS_PER_S
    # A scan path that was never there makes no scans to trade on: only the nodes count then.
    value = invariant_category(nodes, 0.0 if age_s is None else age_s)
    return value, {
        "absent": age_s is None,
        "nodes": nodes,
        "heartbeat_age_s": age_s,
        "heartbeat_by": known.heartbeat_by,
    }


def _structural(known: StackState) -> _Part:
    if known.verdict is None:
        return 1.0, {"absent": True, "gate": MC_STATUSES[MC_ABSENT], "staleness_h": None}
    staleness_h = (known.axis_ns - known.verdict.born_ns) / NS_PER_HOUR
    told = {"absent": False, "gate": MC_STATUSES[known.gate], "staleness_h": staleness_h}
    return structural_category(known.gate, staleness_h), told


def _microstructure(known: StackState, inputs: StackInputs) -> _Part:
    depth, fill = inputs.depth_quality, inputs.fill_probability
    age_s = None if known.books is None else (known.axis_ns - known.books.born_ns) / NS_PER_S
    told = {"absent": False, "stale": False, "books_age_s": age_s, "depth_quality": depth, "fill": None}
    if known.books is None:
        return 1.0, {**told, "absent": True}
    if known.axis_ns - known.books.born_ns > BOOKS_FRESH_NS:
        return microstructure_category(True, 0.0, 0.0), {**told, "stale": True}
    if depth is None or fill is None:
        return 1.0, {**told, "absent": True}
    # Books at their reference depth have a fill probability of one half and give 1.0.
    fill = 2.0 * fill if fill < 0.5 else 1.0
    return microstructure_category(False, depth, fill), {**told, "fill": fill}


def _environment(known: StackState) -> _Part:
    told: dict[str, Any] = {"absent": known.dvol is None, "dvol": known.dvol, "minutes_since_spike": None}
    if known.spike_ns is None:
        return 1.0, told
    minutes = (known.axis_ns - known.spike_ns) / NS_PER_MIN
    return environment_category(minutes), {**told, "minutes_since_spike": minutes}


def _capital(known: StackState) -> _Part:
    equity, peak = known.equity, known.peak
    told: dict[str, Any] = {"absent": equity is None, "equity": equity, "peak": peak, "drawdown": None}
    if equity is None or peak is None:
        return 1.0, told
    drawdown = 1.0 - equity / peak if peak > 0.0 else 1.0
    return capital_category(drawdown), {**told, "drawdown": drawdown}


def is_red(state: StackState) -> bool:
    """Whether the forewarner's own models say RED."""
    return state.verdict is not None and state.gate == MC_RED

"""The drill of `dolphin verify --plant`: one sensor of a running system is lowered until the posture moves.

Entry point: `Drill`.

What is planted is a forewarner's verdict that says OK and is some hours old: the survival stack's second
category falls with that age, as far as the middle of STALKER and no further, so that nothing is closed.

1. Only from APEX: on a system that is not well there is nothing to learn and something to lose.
2. The verdict is marked as a drill, with the instant at which it ends by itself: a `verify` that is killed in
   between leaves nothing behind. Hosts leave a drill out of account; the watchdog alone counts it.
3. What stood there before is put back, whatever happens, and the step waits until the watchdog sees it again.
   Rm then recovers at its own pace, within the hour: that is the price, and why the drill is opt-in.
"""

from __future__ import annotations

import contextlib
import math
from typing import Final

import msgspec

from dolphin.domain.clock import NS_PER_S, iso_from_ns
from dolphin.grid.payloads import ForewarnerPayload, SafetyPayload
from dolphin.grid.topics import FOREWARNER, encode
from dolphin.services.signal_path import SignalPath, Status

#: Rm that the drill aims at: the middle between STALKER's bounds, 0.75 and 0.90.
RM_AIM: Final = 0.83
#: How long the posture may take: two evaluations of 10 s must agree, and a third may be needed for either.
MOVE_WAIT_S: Final = 45.0
RESTORE_WAIT_S: Final = 30.0
#: The structural category: no decay for six hours, then exp(-(hours - 6) / 3) (spec 05, 2).
DECAY_AFTER_H: Final = 6.0
DECAY_H: Final = 3.0
#: Below this two weak categories may halve Rm.
WEAK: Final = 0.8


class Drill:
    """One drill over a system that is looked at."""

    def __init__(self, path: SignalPath) -> None:
        self._path = path

    def run(self) -> tuple[Status, str]:
        """Plant, wait for the posture, take back. Raises GridError; the drill then ends by its own mark."""
        path = self._path
        before = path.safety()
        if before is None:
            return "fail", "there is no posture to move: the watchdog has written none"
        if before.posture != "APEX":
            return "absent", f"the posture is {before.posture} already: a drill is for a system at APEX"
        value = aim(before)
        if value is None:
            return "absent", f"Rm is {before.rm:.3f}: the drill could not stop at STALKER, so it is left out"
        former = path.grid.get(FOREWARNER)
        began_ns = path.clock.now_ns()
        until_s = began_ns / NS_PER_S + MOVE_WAIT_S + RESTORE_WAIT_S
        planted = planted_verdict(value, began_ns, until_s)
        try:
            path.grid.put(FOREWARNER, planted)
            moved = path.until(self._moved, MOVE_WAIT_S)
            seconds = (path.clock.now_ns() - began_ns) / NS_PER_S
        finally:
            self._take_back(planted, former)
        back = path.until(lambda: self._restored(former), RESTORE_WAIT_S)
        with contextlib.suppress(ValueError):
            self._tidy(former)
        if moved is None:
            now = path.safety()
            told = "nothing" if now is None else f"{now.posture}, Rm {now.rm:.3f}"
            return (
                "fail",
                f"{MOVE_WAIT_S:.0f} s after the drop the watchdog says {told}; the drop is taken back",
            )
        if back is None:
            return (
                "fail",
                f"{moved.posture} after {seconds:.0f} s; taken back, but the watchdog did not see it",
            )
        return "pass", (
            f"APEX -> {moved.posture} {seconds:.0f} s after the plant, Rm {before.rm:.3f} -> {moved.rm:.3f};"
            " taken back, Rm recovers within the hour"
        )

    def _moved(self) -> SafetyPayload | None:
        now = self._path.safety()
        return now if now is not None and now.posture != "APEX" else None

    def _take_back(self, planted: ForewarnerPayload, former: ForewarnerPayload | None) -> None:
        """Put back what stood there; where nothing did, a drill without models, which counts as absent."""
        source = self._path.grid.grid.map(FOREWARNER.map_name())
        data = encode(self._absent(planted) if former is None else former)
        # Unless a real verdict has come meanwhile: it stays.
        source.compare_and_put(FOREWARNER.key(), encode(planted), data)

    @staticmethod
    def _absent(planted: ForewarnerPayload) -> ForewarnerPayload:
        return msgspec.structs.replace(planted, source="FALLBACK_NO_DATA")

    def _restored(self, former: ForewarnerPayload | None) -> bool | None:
        """True when the watchdog's structural category is no longer the planted one."""
        now = self._path.safety()
        told = None if now is None else now.sensors.get("structural")
        if not isinstance(told, dict):
            return None
        if former is None or former.source != "REAL_MODEL":
            return True if told.get("absent") else None
        hours, age_s = told.get("staleness_h"), self._path.age_s(former)
        return True if hours is not None and age_s is not None and hours * 3600.0 < age_s + 60.0 else None

    def _tidy(self, former: ForewarnerPayload | None) -> None:
        """Where nothing stood, nothing stands again."""
        if former is None:
            now = self._path.grid.get(FOREWARNER)
            if now is not None and now.drill_until is not msgspec.UNSET:
                self._path.grid.grid.map(FOREWARNER.map_name()).delete(FOREWARNER.key())


def aim(safety: SafetyPayload) -> float | None:
    """Value of the structural category that brings Rm to RM_AIM; None when it would take more than age.

    Raises nothing: sensors that do not say count as unknown.
    """
    values = []
    for name in ("invariant", "microstructure", "environment", "capital"):
        told = safety.sensors.get(name)
        value = told.get("value") if isinstance(told, dict) else None
        if not isinstance(value, (int, float)):
            return None
        values.append(float(value))
    invariant, micro, environment, capital = values
    rest = invariant * micro * capital
    if rest <= 0.0:
        return None
    value = RM_AIM / rest
    return value if WEAK < value < min(1.0, environment) and micro >= WEAK else None


def planted_verdict(value: float, now_ns: int, until_s: float) -> ForewarnerPayload:
    """A marked verdict whose age gives the structural category `value`, 0 < value < 1, until `until_s`
    (Unix s).
    """
    hours = DECAY_AFTER_H - DECAY_H * math.log(value)
    return ForewarnerPayload(
        status="GREEN",
        gate="OK",
        catastrophic_prob=0.0,
        envelope_score=1.0,
        source="REAL_MODEL",
        timestamp=iso_from_ns(now_ns - int(hours * 3600 * NS_PER_S)),
        drill_until=until_s,
    )

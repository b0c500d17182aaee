"""What a system's trader can sense besides prices, for the status: books, factors, esoteric score.

Entry points: `read_senses` (asks the grid), `senses_of` (the facts), `told` (one line of them).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from dolphin.domain.clock import NS_PER_S

#: Ages beyond which a sense is stale: three pushes of the factor daemon, what a decision takes of the others.
BOOKS_AGE_MAX_S: Final = 5.0
FACTORS_AGE_MAX_S: Final = 180.0
_SENSES: Final = ("books", "factors", "esof")
_FACTORS: Final = ("funding_btc", "dvol_btc", "fng", "taker")


class SenseFact(msgspec.Struct, frozen=True, kw_only=True):
    """One sense: whether it is there, how old it is on the system's clock, and what it comes to."""

    name: str
    state: Literal["present", "stale", "absent"]
    age_s: float | None = None
    note: str = ""


def read_senses(typed: Any) -> dict[str, Any]:
    """The newest words of the three, by name; one that does not validate is left out. Raises GridError."""
    from dolphin.grid.payloads import PayloadRejected
    from dolphin.grid.topics import ESOF, EXF, OBF

    found: dict[str, Any] = {}
    topics: tuple[Any, ...] = (OBF, EXF, ESOF)
    for name, topic in zip(_SENSES, topics, strict=True):
        with contextlib.suppress(PayloadRejected):
            found[name] = typed.get(topic)
    return found


def senses_of(read: dict[str, Any] | None, engine: Any, now_ns: int) -> tuple[SenseFact, ...]:
    """The facts from what `read_senses` gave, None for a grid that is away, and the engine's snapshot."""
    if read is None:
        return ()
    detail = {} if engine is None else engine.detail
    return (
        _books(read.get("books"), str(detail.get("books", "")), now_ns),
        _factors(read.get("factors"), now_ns),
        _esof(read.get("esof"), now_ns),
    )


def told(senses: tuple[SenseFact, ...], age: Callable[[float], str]) -> str:
    """One line for people."""
    return "; ".join(
        f"{sense.name} {sense.state}"
        + ("" if sense.age_s is None else f" ({age(sense.age_s)})")
        + (f", {sense.note}" if sense.note else "")
        for sense in senses
    )


def _age_s(payload: Any, now_ns: int) -> float | None:
    stamp_ns = payload.source_ns()
    return None if stamp_ns is None else (now_ns - stamp_ns) / NS_PER_S


def _state(age_s: float | None, age_max_s: float) -> Literal["present", "stale"]:
    return "present" if age_s is not None and age_s <= age_max_s else "stale"


def _books(payload: Any, used: str, now_ns: int) -> SenseFact:
    """used is what the trader's last decision said of its books."""
    note = f"the trader decides by its {used}" if used == "file" else ""
    if payload is None:
        return SenseFact(name="books", state="present" if note else "absent", note=note)
    age_s = _age_s(payload, now_ns)
    state = _state(age_s, BOOKS_AGE_MAX_S)
    if payload.degraded and not note:
        note = "degraded"
    return SenseFact(name="books", state=state, age_s=age_s, note=note or f"{payload.n_assets} assets")


def _factors(payload: Any, now_ns: int) -> SenseFact:
    if payload is None:
        return SenseFact(name="factors", state="absent")
    age_s = _age_s(payload, now_ns)
    there = sum(getattr(payload, name) is not None for name in _FACTORS)
    state = _state(age_s, FACTORS_AGE_MAX_S) if there else "absent"
    return SenseFact(name="factors", state=state, age_s=age_s, note=f"{there} of {len(_FACTORS)}")


def _esof(payload: Any, now_ns: int) -> SenseFact:
    from dolphin.grid.near_view import Reading
    from dolphin.services.esof_told import n_trades_of
    from dolphin.services.organs import haircut_of

    if payload is None:
        return SenseFact(name="esof", state="absent", note="lane 1.00")
    reading = Reading(payload, payload.source_ns(), 0, "")
    mult, label = haircut_of(reading, now_ns)
    if payload.score is None:
        note = "no score, "
    elif n_trades_of(payload.components) == 0:
        note = "no history, "
    else:
        note = f"score {payload.score:+.2f}, "
    state: Literal["present", "stale"] = "present" if label == "ok" else "stale"
    return SenseFact(name="esof", state=state, age_s=_age_s(payload, now_ns), note=f"{note}lane {mult:.2f}")

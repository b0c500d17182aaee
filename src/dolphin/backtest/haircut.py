"""The esoteric lane of a bar, explained: its multiplier, its label, and the score that the journal keeps.

Entry point: `haircut_told`. A supervised trader's journal keeps every score that changed; a run's own keeps
the multiplier and the label alone.
"""

from __future__ import annotations

from typing import Any, Final

from dolphin.backtest.folder import Run
from dolphin.domain.clock import iso_from_ns
from dolphin.domain.decision import Decision
from dolphin.grid.payloads import EsofPayload, PayloadRejected
from dolphin.grid.topics import ESOF
from dolphin.journal.fenced import inputs_of
from dolphin.services.esof_told import n_trades_of, why_of

#: Categories told, those that moved the score the most.
PARTS_TOLD: Final = 3


def haircut_told(run: Run, decision: Decision) -> dict[str, Any]:
    """Lane, label, why, and with a kept score its value, its trades, since when, and what moved it most."""
    told: dict[str, Any] = {"lane": decision.esof_mult, "label": decision.esof}
    kept = _score_at(run, decision.bar_idx)
    if kept is None or kept.score is None:
        return told | {"why": why_of(decision.esof)}
    told |= {
        "why": why_of(decision.esof, kept.score, n_trades_of(kept.components)),
        "score": kept.score,
        "n_trades": n_trades_of(kept.components),
        "since": kept.timestamp,
        "parts": _parts(kept),
    }
    return told


def _score_at(run: Run, bar: int) -> EsofPayload | None:
    """The score in force on a bar, None where none is kept."""
    newest = None
    for each in inputs_of(run.journal):
        if each.source == "ESOF" and each.bar_idx <= bar:
            newest = each
    if newest is None:
        return None
    try:
        return ESOF.decode("journal", iso_from_ns(newest.timestamp_ns), newest.payload)
    except PayloadRejected:
        return None


def _parts(kept: EsofPayload) -> list[dict[str, Any]]:
    categories = kept.components.get("categories")
    if not isinstance(categories, dict):
        return []
    found = [
        {"category": name, **{key: part.get(key) for key in ("bucket", "n", "expectancy", "contribution")}}
        for name, part in categories.items()
        if isinstance(part, dict) and isinstance(part.get("contribution"), (int, float))
    ]
    found.sort(key=lambda part: -abs(part["contribution"]))
    return [part for part in found[:PARTS_TOLD] if part["contribution"] != 0.0]

"""The esoteric lane in words: what the multiplier of a size comes from.

Entry points: `why_of` (one sentence for a lane's label), `band_of` (the level of a score).
"""

from __future__ import annotations

from typing import Any, Final

from dolphin.domain.codes import ESOF_ABSENT, ESOF_STALE
from dolphin.domain.errors import plural

#: (boundary, level below it); the levels of spec 05, section 5, from the lowest score up.
_LEVELS: Final = (
    (-0.25, "UNFAVOURABLE, below -0.25"),
    (-0.05, "below neutral, -0.25 to -0.05"),
    (0.05, "NEUTRAL, -0.05 to 0.05"),
    (0.25, "above neutral, 0.05 to 0.25"),
)
_TOP: Final = "favourable, from 0.25 on"
_EDGE: Final = 0.02


def band_of(score: float) -> str:
    """The level of a score in [-1, 1]; within 0.02 of a boundary it lies between two."""
    for boundary, _ in _LEVELS:
        if abs(score - boundary) < _EDGE:
            return f"EDGE, between the levels on both sides of {boundary:g}"
    return next((word for boundary, word in _LEVELS if score < boundary), _TOP)


def why_of(label: str, score: float | None = None, n_trades: int | None = None) -> str:
    """Why the lane is what it is.

    label is the decision's (`absent`, `ok`, `stale`); score and n_trades what the producer said, None where
    it is not known.
    """
    if label == ESOF_ABSENT:
        return "absent: no producer was ever heard, and nothing is cut"
    if label == ESOF_STALE:
        return "STALE FALLBACK: no score, or one older than 15 minutes"
    if score is None:
        return "a fresh score"
    if n_trades == 0:
        return "NEUTRAL: no closed trades to judge by, the score is 0"
    told = "" if n_trades is None else f" of {plural(n_trades, 'trade')}"
    return f"score {score:+.3f}{told}: {band_of(score)}"


def n_trades_of(components: dict[str, Any]) -> int | None:
    """How many trades a published score was made from; None where it does not say."""
    found = components.get("n_trades")
    return found if isinstance(found, int) and not isinstance(found, bool) else None

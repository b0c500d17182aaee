"""What the organs around the alpha say on one bar; the defaults are those of organs that are not wired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dolphin.domain.codes import APEX, BOOKS_ABSENT, ESOF_ABSENT, MC_ABSENT
from dolphin.engine.state import Books
from dolphin.orderbook.fold import Arrivals


@dataclass(frozen=True, slots=True)
class HostInputs:
    """Posture and forewarner codes, circuit breaker, esoteric haircut and order books of one bar.

    boost and beta are the breaker's, esof_mult a multiplier in [0, 1]. readings are the books' snapshots of
    this bar, of which the session makes features; books are features that were made already, None when
    absent. books_label says in every decision where they came from (`absent`, `mock`, a provider's name),
    esof_label whether the haircut is a score's (`absent`, `ok`, `stale`).
    """

    posture: int = APEX
    boost: float = 1.0
    beta: float = 0.0
    mc_status: int = MC_ABSENT
    esof_mult: float = 1.0
    esof_label: str = ESOF_ABSENT
    books: Books | None = None
    readings: Arrivals | None = None
    books_label: str = BOOKS_ABSENT

    def gate(self) -> tuple[float, float, int, int]:
        """(boost, beta, posture, forewarner status): a change while a bar is decided makes it stale."""
        return self.boost, self.beta, self.posture, self.mc_status


#: No organ is wired.
NEUTRAL: Final = HostInputs()

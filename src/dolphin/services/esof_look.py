"""One look at the esoteric factors of an instant, for a person: no grid, no service, a journal read only.

Entry points: `Look`, `look`, `buckets_of`. The advice is the producer's own, of the trades that were closed
by then.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.codes import ESOF_OK
from dolphin.domain.errors import DataError, UsageError
from dolphin.grid.near_view import Reading
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.bar_columns import read_journal
from dolphin.journal.ledger import ClosedTrade
from dolphin.risk.advisor import Advice, Outcome, Part, advise
from dolphin.services.esof import Instant, instant_at, outcome_of, payload_of
from dolphin.services.esof_told import why_of
from dolphin.services.home import Home
from dolphin.services.organs import haircut_of

#: A moon's quarter comes within 9 days, a station of Mercury within four months.
_QUARTER_NS = 9 * NS_PER_DAY
_STATION_NS = 125 * NS_PER_DAY


class Coming(NamedTuple):
    """What happens next in the sky: `moon` or `mercury`, the word for it, ns UTC."""

    what: str
    word: str
    at_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Everything that is told of an instant (ns UTC).

    own is the mean net result by notional of the trades in each category's bucket, without those that have
    none; lane is the size multiplier that the score gives while it is fresh.
    """

    at_ns: int
    folder: Path
    instant: Instant
    coming: tuple[Coming, ...]
    advice: Advice
    outcomes: tuple[Outcome, ...]
    own: dict[str, float]
    first_ns: int | None
    last_ns: int | None
    lane: float
    why: str


def look(folder: Path, at_ns: int) -> Look:
    """The look of an instant (ns UTC) by the trades that were closed by then, of a home or of a run's folder.

    A home whose trader has decided nothing yet has no trades. Raises UsageError where a folder is neither,
    DataError and StoreError where the journal cannot be read.
    """
    where = trades_folder(folder)
    trades = [trade for trade in _trades(where) if trade.exit_ns <= at_ns]
    outcomes = tuple(outcome_of(trade) for trade in trades)
    instant = instant_at(at_ns)
    advice = advise(instant.labels, outcomes)
    payload = payload_of(instant, advice, at_ns)
    lane, label = haircut_of(Reading(payload, at_ns, 0, ""), at_ns)
    assert label == ESOF_OK, "a score of this instant is fresh"
    own = {category: _mean(category, bucket, outcomes) for category, bucket in instant.labels.items()}
    return Look(
        at_ns=at_ns,
        folder=where,
        instant=instant,
        coming=() if instant.sky is None else _coming(at_ns),
        advice=advice,
        outcomes=outcomes,
        own={category: mean for category, mean in own.items() if mean is not None},
        first_ns=min((trade.entry_ns for trade in trades), default=None),
        last_ns=max((trade.exit_ns for trade in trades), default=None),
        lane=lane,
        why=why_of(label, advice.score, advice.n_trades),
    )


def buckets_of(found: Look, category: str) -> list[tuple[Part, float]]:
    """Every bucket of a category that has trades: (judged as the advisor judges it, its own mean)."""
    labels = sorted({o.labels[category] for o in found.outcomes if category in o.labels})
    judged = ((advise({category: label}, found.outcomes).parts[0], label) for label in labels)
    return [(part, _mean(category, label, found.outcomes) or 0.0) for part, label in judged]


def trades_folder(folder: Path) -> Path:
    """The folder with the journal: a home's trader's, or a run's own. Raises UsageError for neither."""
    home = Home(folder)
    if home.settings_file.exists():
        return home.trader
    if (folder / JOURNAL_FILE).exists():
        return folder
    raise UsageError(
        f"{folder}: neither a system's folder (system.json) nor a run's ({JOURNAL_FILE});"
        " give one of them with --home"
    )


def _trades(folder: Path) -> list[ClosedTrade]:
    if not (folder / JOURNAL_FILE).exists():
        return []
    with contextlib.closing(read_journal(folder)) as journal:
        return list(journal.trades())


def _mean(category: str, bucket: str, outcomes: tuple[Outcome, ...]) -> float | None:
    nets = sorted(o.net for o in outcomes if o.labels.get(category) == bucket)
    return sum(nets) / len(nets) if nets else None


def _coming(at_ns: int) -> tuple[Coming, ...]:
    """The next quarter and the next station; a century's end has none."""
    from dolphin.factors.sky import quarters, stations

    found = []
    for what, events, span_ns in (("moon", quarters, _QUARTER_NS), ("mercury", stations, _STATION_NS)):
        with contextlib.suppress(DataError):
            event = next(iter(events(at_ns + NS_PER_S, at_ns + span_ns)), None)
            if event is not None:
                found.append(Coming(what, event.word, event.at_ns))
    return tuple(found)

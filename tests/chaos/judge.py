"""What must hold after any run, simulated or real: the journal against the store, the fences, and itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, STALKER
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DolphinError
from dolphin.domain.params import ParameterSet
from dolphin.host.session import Session
from dolphin.journal.audit import audit
from dolphin.journal.fenced import terms_of
from dolphin.journal.store import Journal
from dolphin.market.scan_store import ScanStore
from dolphin.services.embedded import prices_from_store
from dolphin.services.replaying import replay


def judge(
    journal_path: Path,
    store_root: Path,
    params: ParameterSet,
    session: Session,
    *,
    shut_ns: Iterable[tuple[int, int]] = (),
    late_scans: int = 0,
) -> list[str]:
    """Every rule that is broken, as a sentence; empty when none is.

    shut_ns : spans of market time in which nothing may be entered (a kill switch was on). late_scans : how
    many of the newest scans may not be decided yet, where the system still runs.
    """
    broken: list[str] = []
    scans = list(ScanStore(store_root).scans())
    journal = Journal.read_only(journal_path)
    try:
        decisions = list(journal.decisions())
        if not decisions:
            return ["nothing was decided"]
        broken += _nothing_lost(decisions, [s.timestamp_ns for s in scans], late_scans)
        broken += _fences(journal, decisions)
        broken += _trades(decisions, shut_ns)
        result = audit(journal, params, prices_from_store(ScanStore(store_root)))
        broken += [f"audit: {text}" for text in result.findings]
        broken += [f"violated: {text}" for _, kind, text in journal.events() if kind == "invariant"]
        try:
            digest = replay(journal, scans, session)
        except DolphinError as error:
            broken.append(f"replay: {error}")
        else:
            if digest != journal.decisions_sha256():
                broken.append("replaying the journal's inputs gives another digest")
    finally:
        journal.close()
    return broken


def _nothing_lost(decisions: Sequence[Decision], stamps: Sequence[int], late_scans: int) -> list[str]:
    decided = [d.timestamp_ns for d in decisions]
    found = []
    if [d.bar_idx for d in decisions] != list(range(len(decisions))):
        found.append("the bars are not contiguous")
    if decided != sorted(set(decided)):
        found.append("a scan was decided twice, or out of the order of time")
    expected = sorted(stamp for stamp in stamps if stamp >= decided[0])
    lost = sorted(set(expected) - set(decided))
    if late_scans:
        lost = [stamp for stamp in lost if stamp < expected[-late_scans]]
    if lost:
        found.append(f"{len(lost)} scans were never decided, the first at {lost[0]}")
    made_up = set(decided) - set(stamps)
    if made_up:
        found.append(f"{len(made_up)} bars stand for no scan of the store")
    return found


def _fences(journal: Journal, decisions: Sequence[Decision]) -> list[str]:
    terms = terms_of(journal)
    found = []
    if not terms or terms[0].first_bar != 0:
        found.append("the first bar belongs to no term")
    for before, after in itertools.pairwise(terms):
        if after.fence <= before.fence or after.first_bar < before.first_bar:
            found.append(f"term {after.fence} does not follow term {before.fence}")
        if after.first_bar > len(decisions):
            found.append(f"term {after.fence} begins after the last bar")
    return found


def _trades(decisions: Sequence[Decision], shut_ns: Iterable[tuple[int, int]]) -> list[str]:
    found = []
    spans = list(shut_ns)
    open_bar: int | None = None
    for d in decisions:
        if d.action == ACTION_ENTER:
            if open_bar is not None:
                found.append(f"bar {d.bar_idx} enters while the trade of bar {open_bar} is open")
            if d.posture > STALKER:
                found.append(f"bar {d.bar_idx} enters in a posture that forbids it")
            if any(begin < d.timestamp_ns < end for begin, end in spans):
                found.append(f"bar {d.bar_idx} enters while the kill switch is on")
            open_bar = d.bar_idx
        elif d.action == ACTION_EXIT:
            if open_bar is None:
                found.append(f"bar {d.bar_idx} leaves a trade that was never entered")
            open_bar = None
    return found

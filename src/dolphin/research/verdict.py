"""A study's verdict in words for people who are no statisticians, which never flatter.

Entry point: `verdict_of`. It reads the study's values and adds no figure of its own.

The answer, decided in this order:

- `too_short`: fewer than `TESTED_MIN` days or `TRADES_MIN` trades out of sample.
- `no`: out of sample, after costs and without the order-book edge, the average day did not earn.
- `yes`: every test that was made passes, none is missing, and there are `DAYS_ENOUGH` days out of sample.
- `not_shown`: everything else. A gain that luck explains is not an edge.
"""

# Sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from dolphin.domain.errors import plural
from dolphin.research.null import smallest_p
from dolphin.research.thresholds import DAYS_ENOUGH, DEFLATED_MIN, P_MAX, PBO_MAX, TESTED_MIN, TRADES_MIN

_HEADLINES: Final = {
    "yes": "Yes, on these days: the edge survives out of sample and after costs.",
    "not_shown": "Not shown: what happened out of sample is no more than luck explains.",
    "no": "No: out of sample and after costs, nothing is earned.",
    "too_short": "No verdict: too little was traded out of sample to say anything.",
}


def verdict_of(study: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a study.

    Parameters
    ----------
    study : mapping
        As `dolphin.research.study.study` makes it, without the verdict.

    Returns
    -------
    dict
        `answer` (yes, not_shown, no, too_short), `headline`, `sentences` (about, text; most important first),
        `checks` (question, passed (None: could not be asked), value, rule) and `cautions`.
    """
    checks = _checks(study)
    answer = _answer(study, checks)
    parts = {
        "Out of sample": _out_of_sample,
        "Costs": _costs,
        "Timing": _timing,
        "Choosing a setting": _search,
        "The luck of the search": _luck,
        "Order-book edge": _edge,
    }
    sentences = [{"about": about, "text": text} for about, part in parts.items() if (text := part(study))]
    return {
        "answer": answer,
        "headline": _HEADLINES[answer],
        "sentences": sentences,
        "checks": checks,
        "cautions": _cautions(study),
    }


def _answer(study: Mapping[str, Any], checks: list[dict[str, Any]]) -> str:
    tested = study["walk_forward"]
    if tested is None or tested["n_days"] < TESTED_MIN or tested["trades"] < TRADES_MIN:
        return "too_short"
    if not (tested["figures"]["roi"]["value"] or 0.0) > 0.0:
        return "no"
    passed = all(check["passed"] is True for check in checks)
    return "yes" if passed and tested["n_days"] >= DAYS_ENOUGH else "not_shown"


def _checks(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    tested, null, search, luck = (study[key] for key in ("walk_forward", "null", "overfitting", "deflated"))
    roi: Mapping[str, Any] = tested["figures"]["roi"] if tested else {"low": None}
    many = len(study["trials"]) + study["settings"]["trials_before"] > 1
    made = [
        _check(
            "Does it earn on days that it was not chosen on, beyond luck?",
            roi["low"],
            lambda x: x > 0.0,
            lambda x: f"{percent(x, signed=True)} to {percent(roi['high'], signed=True)}",
            "the whole interval of the result above 0",
        ),
        _check(
            "Does the timing of its signals matter?",
            null["p_value"] if null and not _few_shifts(null) else None,
            lambda x: x <= P_MAX,
            lambda x: f"p = {x:.3f}",
            f"p-value of {P_MAX:g} or less against shifted signals",
            f"could not be asked: {_few_shifts(null)}"
            if null and _few_shifts(null)
            else "could not be asked",
        ),
        _check(
            "Is its best setting better than the luck of the search?",
            luck["probability"] if luck else None,
            lambda x: x >= DEFLATED_MIN,
            percent,
            f"deflated Sharpe probability of {percent(DEFLATED_MIN, 0)} or more",
        ),
    ]
    if many:
        made.insert(
            2,
            _check(
                "Does choosing among settings find what works later?",
                search["pbo"] if search else None,
                lambda x: x <= PBO_MAX,
                percent,
                f"probability of overfitting of {percent(PBO_MAX, 0)} or less",
            ),
        )
    return made


def _few_shifts(null: Mapping[str, Any]) -> str:
    """Why so few shifts cannot answer; empty where they can."""
    n, least = null["n_shifts"], smallest_p(null["n_shifts"])
    return f"p is {least:.3f} at best with {plural(n, 'shift')}" if least > P_MAX else ""


def _check(
    question: str, value: float | None, rule: Any, form: Any, words: str, missing: str = "could not be asked"
) -> dict[str, Any]:
    there = value is not None and math.isfinite(value)
    return {
        "question": question,
        "passed": bool(rule(value)) if there else None,
        "value": form(value) if there else missing,
        "rule": words,
    }


def _out_of_sample(study: Mapping[str, Any]) -> str:
    tested = study["walk_forward"]
    if tested is None:
        return f"{len(study['days'])} days are too few to learn on some and to judge on others."
    roi = tested["figures"]["roi"]
    value = roi["value"] or 0.0
    moved = f"{'gained' if value > 0 else 'lost'} {percent(abs(value))} of the capital"
    told = (
        f"Chosen on earlier days and traded on {tested['n_days']} later ones, after fees and slippage, it "
        f"{moved if abs(value) >= 0.0005 else 'ended where it began'} in {tested['trades']:,.0f} trades."
    )
    if roi["low"] is None:
        return f"{told} {roi['words'][:1].upper()}{roi['words'][1:]}."
    if roi["low"] > 0.0:
        why = "all of it gains, so luck with the days alone hardly explains the result"
    elif roi["high"] < 0.0:
        why = "all of it losses, so bad luck alone hardly explains the result"
    else:
        why = "both losses and gains, so these days cannot tell an edge from luck"
    level = study["settings"]["level"]
    return (
        f"{told} Had the same kind of days fallen differently, {percent(level, 0)} of the results would lie "
        f"between {percent(roi['low'], signed=True)} and {percent(roi['high'], signed=True)}: {why}."
    )


def _costs(study: Mapping[str, Any]) -> str:
    costs = study["costs"]
    if not costs["trades"]:
        return "The set never traded in this period."
    per = costs["trades"]
    before, after = costs["price_pnl"] / per, costs["net"] / per
    told = (
        f"Over the whole period an average trade made {money(before)} USDT from prices; fees and slippage took "
        f"{money(before - after, sign=False)}, which leaves {money(after)}."
    )
    even = costs["break_even"]
    if even is None:
        return f"{told} It would still earn at three times the costs."
    if even == 0.0:
        return f"{told} It loses even if trading were free."
    if even < 1.0:
        return (
            f"{told} Costs would have to fall to {percent(even, 0)} of what is charged before it breaks even."
        )
    return (
        f"{told} It breaks even at {even:.1f} times these costs, so there is little room for worse fills."
        if (even < 2.0)
        else f"{told} It breaks even only at {even:.1f} times these costs."
    )


def _timing(study: Mapping[str, Any]) -> str:
    null = study["null"]
    if null is None:
        return "The period is too short to shift the signals against the prices."
    as_good = round(null["p_value"] * (null["n_shifts"] + 1)) - 1
    share = as_good / null["n_shifts"]
    told = (
        f"The same signals at wrong times, where they can know nothing, did at least as well in "
        f"{as_good:,} of {null['n_shifts']:,} tries"
    )
    if few := _few_shifts(null):
        return f"{told}. Whether the timing matters cannot be asked: {few}, above {P_MAX:g}; take a longer period."
    if null["p_value"] <= P_MAX:
        return f"{told}: the timing of the signals carries information here."
    if share > 1.0 - P_MAX:
        return f"{told}: the signals came at worse times than chance would choose."
    return f"{told}: that the timing of the signals matters is not shown."


def _search(study: Mapping[str, Any]) -> str:
    search = study["overfitting"]
    if search is None:
        return ""
    told = (
        f"Of {search['n_trials']} settings, the best one of one half of the days fell into the worse half of all "
        f"settings on the other days in {percent(search['pbo'], 0)} of the ways to halve them (pure luck: 50 %)"
    )
    if search["pbo"] <= PBO_MAX:
        return f"{told}: choosing on the past helped."
    if search["pbo"] < 0.5:
        return f"{told}: choosing on the past helped a little at best."
    return f"{told}: choosing a setting by its past result is worth nothing here."


def _luck(study: Mapping[str, Any]) -> str:
    luck = study["deflated"]
    if luck is None or luck["probability"] is None or not math.isfinite(luck["probability"]):
        return ""
    return (
        f"The best of the {luck['n_trials']:,} settings tried beats what the luckiest of as many worthless ones "
        f"would show with a probability of {percent(luck['probability'], 0)}; 95 % would be convincing."
    )


def _edge(study: Mapping[str, Any]) -> str:
    edge = study["as_named"]["with_ob_edge"]
    plain = study["as_named"]["figures"]["roi"]["value"]
    if edge is None or edge["roi"] is None or plain is None:
        return ""
    return (
        f"A plain backtest of the set shows {percent(edge['roi'], signed=True)} over the period, because it credits an "
        f"imagined order-book edge; without it the same set ends at {percent(plain, signed=True)}. This page leaves "
        "the edge out everywhere else."
    )


def _cautions(study: Mapping[str, Any]) -> list[str]:
    tested = study["walk_forward"]
    found = []
    n_days = tested["n_days"] if tested else 0
    if n_days < DAYS_ENOUGH:
        found.append(
            f"{n_days} days out of sample are few, and intervals from so few are too narrow. Under {DAYS_ENOUGH} "
            "days the answer is never yes, whatever the figures."
        )
    if tested and tested["trades"] < 100:
        found.append(
            f"{tested['trades']:,.0f} trades out of sample are few; single trades move every figure."
        )
    record = study["deflated"]["track_record_days"] if study["deflated"] else None
    if record is not None and math.isfinite(record) and record > len(study["days"]):
        found.append(
            f"If the set went on earning as it did, its Sharpe ratio would need about {record:,.0f} days to be "
            f"called above 0; there are {len(study['days'])}."
        )
    before, ledger = study["settings"]["trials_before"], study["settings"].get("trials_ledger", "")
    if before and ledger:
        found.append(
            f"{plural(before, 'setting')} of sweeps and other studies that used any of these days, by {ledger}, count "
            "as trials before this study. What was tried elsewhere, in single backtests or on paper, is not counted."
        )
    elif before:
        found.append(f"{before:,} settings tried before this study are counted as trials.")
    else:
        found.append(
            (f"No sweep and no other study on these days is in the ledger ({ledger}). " if ledger else "")
            + "Settings that somebody tried before this study are not counted; every one of them weakens the result."
        )
    found.append(
        "One stretch of one market: other times may be unlike it. Fills are modelled, no order was sent."
    )
    found += [f"{note}." for note in study["notes"]]
    return found


def percent(fraction: float, decimals: int = 1, *, signed: bool = False) -> str:
    """`1.3 %` from 0.0125, with a true minus sign."""
    x = round(100.0 * fraction, decimals) + 0.0
    return f"{x:{'+' if signed and x else ''},.{decimals}f} %".replace("-", "−")


def money(value: float, *, sign: bool = True) -> str:
    """USDT with two decimals."""
    x = round(value, 2) + 0.0
    return f"{x:{'+' if sign and x else ''},.2f}".replace("-", "−")

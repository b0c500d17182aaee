"""Conformance vectors: run recorded cases against the kernels, in plain and compiled form (spec 11).

A vector file is `{"kernel": NAME, "compare": "bits" | {"rel": x}, "cases": [{"in": …, "out": …}]}`; floats
are hexadecimal strings. `run_file` compares one file; anyone who ports a kernel has the same gate.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from dolphin.alpha import costs, exits, lanes, selection, signal, sizing
from dolphin.domain import codes
from dolphin.domain.errors import DataError, UsageError, nearest
from dolphin.grid.shards import shard_name
from dolphin.kernel import plain
from dolphin.orderbook import features
from dolphin.risk import breaker, esoteric, machine, survival

HOSTS: Final = ("reference", "compiled")
MISMATCHES_SHOWN: Final = 5

Case = dict[str, Any]
Pick = Callable[[Callable[..., Any]], Callable[..., Any]]


def _array(values: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(list(values), dtype=np.float64)


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _signal(c: Case, pick: Pick) -> Case:
    valid, confidence, is_extreme = pick(signal.signal)(
        c["vel_div"], c["threshold"], c["extreme"], c["direction"]
    )
    return {"valid": valid, "confidence": confidence, "is_extreme": is_extreme}


def _direction_confirmation(c: Case, pick: Pick) -> Case:
    prices = _array(c["prices"])
    status = pick(signal.direction_confirmation)(
        prices, len(prices), c["lookback"], c["min_bps"], c["direction"]
    )
    return {"status": codes.DC_NAMES[status]}


def _impulse_response(c: Case, pick: Pick) -> Case:
    names = ("mfe", "mae", "efficiency", "alignment", "noise", "latency", "ars")
    values = pick(selection.impulse_response)(_array(c["prices"]), 0, c["direction"], False)
    return dict(zip(names, values, strict=True))


def _rank_assets(c: Case, pick: Pick) -> Case:
    prices = np.ascontiguousarray(np.array(c["prices"], dtype=np.float64).T)
    length, n = prices.shape
    order, actions, aligned = (np.zeros(n, np.int16) for _ in range(3))
    ars = np.zeros(n)
    found = pick(selection.rank_assets)(
        prices,
        np.full(n, length, np.int64),
        np.zeros(n, np.int64),
        c["direction"],
        c["min_alignment"],
        False,
        False,
        np.ones(n),
        np.zeros((selection.IRP_PRICES, n)),
        np.zeros((selection.PROFILE_ROWS, n)),
        order,
        actions,
        aligned,
        ars,
    )
    rows = zip(order[:found].tolist(), actions[:found].tolist(), ars[:found].tolist(), strict=True)
    return {"order": [{"index": i, "action": codes.IRP_ACTIONS[a], "ars": x} for i, a, x in rows]}


def _sizing(c: Case, pick: Pick) -> Case:
    p = c["params"]
    recent = c["last_results"][-sizing.STREAK_TRADES :]
    values = pick(sizing.sizing)(
        c["vel_div"],
        p["vel_div_threshold"],
        p["vel_div_extreme"],
        p["direction"],
        p["min_leverage"],
        p["max_leverage"],
        p.get("leverage_convexity", 3.0),
        p["fraction"],
        p["use_alpha_layers"],
        p.get("use_dynamic_leverage", True),
        c["vd_trend"],
        np.array(c["bucket_wins"], np.int64),
        np.array(c["bucket_trades"], np.int64),
        sum(1 for won in recent if not won),
        len(recent),
    )
    names = ("strength", "base_leverage", "bucket", "bucket_boost", "streak", "trend", "fraction")
    return dict(zip(names, values, strict=True))


def _compose(c: Case, pick: Pick) -> Case:
    regime = pick(lanes.regime_size_mult)(c["boost"], c["beta"], c["s3"], c["mc_scale"])
    raw, cap, leverage, _ = pick(lanes.compose)(
        c["base_leverage"],
        c["dc"],
        regime,
        c["ob"],
        c["esof"],
        codes.posture_code(c["posture"]),
        c["max_leverage"],
        c["abs_max_leverage"],
        c["min_leverage"],
    )
    notional = c["capital"] * c["fraction"] * leverage
    return {"regime": regime, "raw": raw, "cap": cap, "leverage": leverage, "notional": notional}


def _ob_signal(c: Case, pick: Pick) -> Case:
    skip, confidence = pick(lanes.ob_signal)(
        c["confidence"], c["imbalance_ma5"], c["persistence"], c["direction"]
    )
    return {"skip": skip, "confidence": confidence}


def _market_ob(c: Case, pick: Pick) -> Case:
    return {"mult": pick(lanes.market_ob)(c["median_imbalance"], c["agreement"], c["direction"])}


def _book_features(c: Case, pick: Pick) -> Case:
    names = (
        "depth_1pct_usd",
        "imbalance",
        "depth_quality",
        "fill_probability",
        "spread_proxy_bps",
        "depth_asymmetry",
    )
    values = pick(features.book_features)(_array(c["bid"]), _array(c["ask"]), c["reference"])
    return dict(zip(names, values, strict=True))


def _withdrawal_velocity(c: Case, pick: Pick) -> Case:
    return {"velocity": pick(features.withdrawal_velocity)(_array(c["depths"]), c["lookback"])}


def _persistence(c: Case, pick: Pick) -> Case:
    return {"persistence": pick(features.imbalance_persistence)(_array(c["imbalances"]), c["n"])}


def _exit(c: Case, pick: Pick) -> Case:
    action, reason, pnl_pct, tp, sl, max_hold = pick(exits.exit_decision)(
        c["direction"],
        c["entry"],
        c["price"],
        c["bars_held"],
        c["tp"],
        c["sl"],
        c["max_hold"],
        c["leverage"],
        codes.posture_code(c["posture"]),
        c["acb_flag"],
        c["books"],
        c["cascade_count"],
        c["regime_signal"],
        c["eff_imbalance"],
        c["withdrawal_velocity"],
        c["liquidation_guard"],
        False,
        False,
    )
    return {
        "action": codes.ACTIONS[action],
        "reason": None if reason == codes.REASON_NONE else codes.REASONS[reason],
        "pnl_pct": pnl_pct,
        "tp": tp,
        "sl": sl,
        "max_hold": max_hold,
    }


def _costs(c: Case, pick: Pick) -> Case:
    names = ("exit_price", "entry_fee", "exit_fee", "gross", "net")
    values = pick(costs.costs)(
        c["direction"],
        c["entry"],
        c["price"],
        codes.REASONS.index(c["reason"]),
        c["notional"],
        c["maker_entry"],
        c["maker_exit"],
        c["use_fees"],
        c["use_slippage"],
        c["ob_edge"],
    )
    return dict(zip(names, values, strict=True))


def _acb_boost(c: Case, pick: Pick) -> Case:
    signals, boost = pick(breaker.acb_boost)(
        _nan(c["funding"]), _nan(c["dvol"]), _nan(c["fng"]), _nan(c["taker"])
    )
    return {"signals": signals, "boost": boost}


def _acb_beta(c: Case, pick: Pick) -> Case:
    return {"beta": pick(breaker.acb_beta)(c["w750"], c["threshold"], c["stress"])}


def _survival_target(c: Case, pick: Pick) -> Case:
    return {"target": pick(survival.survival_target)(c["cat1"], c["cat2"], c["cat3"], c["cat4"], c["cat5"])}


def _survival_category(c: Case, pick: Pick) -> Case:
    i = c["inputs"]
    match c["index"]:
        case 1:
            value = pick(survival.invariant_category)(i["nodes"], i["heartbeat_age_s"])
        case 2:
            value = pick(survival.structural_category)(
                codes.MC_STATUSES.index(i["mc_status"]), i["staleness_h"]
            )
        case 3:
            value = pick(survival.microstructure_category)(
                i["stale"], i["depth_quality"], i["fill_probability"]
            )
        case 4:
            value = pick(survival.environment_category)(_nan(i["minutes_since_spike"]))
        case 5:
            value = pick(survival.capital_category)(i["drawdown"])
        case other:
            raise DataError(f"survival_category: index {other!r}, expected 1 to 5")
    return {"value": value}


def _survival_step(c: Case, pick: Pick) -> Case:
    return {"rm": pick(survival.survival_step)(c["last"], c["target"], c["dt_min"])}


def _posture_path(c: Case, pick: Pick) -> Case:
    rms = _array(c["rms"])
    postures = np.zeros(len(rms), np.int64)
    pick(survival.posture_path)(rms, codes.posture_code(c["start"]), postures)
    return {"postures": [codes.POSTURES[p] for p in postures.tolist()]}


def _esof_mult(c: Case, pick: Pick) -> Case:
    return {"mult": pick(esoteric.esof_mult)(_nan(c["score"]), c["age_s"])}


def _esof_fold(c: Case, pick: Pick) -> Case:
    leverage, notional = pick(esoteric.esof_fold)(c["leverage"], c["notional"], c["mult"])
    return {"leverage": leverage, "notional": notional}


def _meta_health(c: Case, pick: Pick) -> Case:
    score, status = pick(machine.meta_health)(*(_nan(c[name]) for name in ("m4", "m1", "m3", "m5")))
    return {"rm_meta": score, "status": machine.HEALTH_STATUSES[status]}


def _exchange_leverage(c: Case, pick: Pick) -> Case:
    curve = machine.CURVES.index(c["curve"])
    return {"leverage": pick(machine.exchange_leverage)(c["conviction"], c["cap"], curve)}


def _shard(c: Case, pick: Pick) -> Case:
    return {"map": pick(shard_name)(c["symbol"])}


KERNELS: Final[dict[str, Callable[[Case, Pick], Case]]] = {
    "signal": _signal,
    "direction_confirmation": _direction_confirmation,
    "impulse_response": _impulse_response,
    "rank_assets": _rank_assets,
    "sizing": _sizing,
    "compose": _compose,
    "ob_signal": _ob_signal,
    "market_ob": _market_ob,
    "book_features": _book_features,
    "withdrawal_velocity": _withdrawal_velocity,
    "persistence": _persistence,
    "exit": _exit,
    "costs": _costs,
    "acb_boost": _acb_boost,
    "acb_beta": _acb_beta,
    "survival_target": _survival_target,
    "survival_category": _survival_category,
    "survival_step": _survival_step,
    "posture_path": _posture_path,
    "esof_mult": _esof_mult,
    "esof_fold": _esof_fold,
    "meta_health": _meta_health,
    "exchange_leverage": _exchange_leverage,
    "shard": _shard,
}


@dataclass(slots=True)
class FileResult:
    """Outcome of one file under one host."""

    path: str
    kernel: str
    host: str
    passed: int = 0
    failed: int = 0
    mismatches: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.failed == 0 and self.passed > 0


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        bare = value.lstrip("+-")
        return float.fromhex(value) if bare.startswith("0x") or bare in ("inf", "nan") else value
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if isinstance(value, dict):
        return {k: _decode(v) for k, v in value.items()}
    return value


def _equal(expected: Any, actual: Any, rel: float | None) -> bool:
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and expected.keys() == actual.keys()
            and all(_equal(v, actual[k], rel) for k, v in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(actual, list)
            and len(expected) == len(actual)
            and all(_equal(e, a, rel) for e, a in zip(expected, actual, strict=True))
        )
    if isinstance(expected, bool) or isinstance(actual, (bool, np.bool_)):
        both = isinstance(expected, bool) and isinstance(actual, (bool, np.bool_))
        return both and bool(actual) is expected
    if isinstance(expected, float):
        got = float(actual)
        if math.isnan(expected) or math.isnan(got):
            return math.isnan(expected) and math.isnan(got)
        if rel is None or math.isinf(expected):
            return struct.pack("<d", expected) == struct.pack("<d", got)
        return abs(got - expected) <= rel * max(abs(expected), abs(got))
    return bool(expected == actual)


def _tolerance(path: Path, compare: Any) -> float | None:
    if compare == "bits":
        return None
    rel = compare.get("rel") if isinstance(compare, dict) else None
    if type(rel) is not float or not rel > 0.0:
        raise DataError(f'{path}: compare is {compare!r}, expected "bits" or {{"rel": x}} with x above 0')
    return rel


def _show(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _show(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_show(v) for v in value]
    return value.hex() if isinstance(value, float) else value


def run_file(path: Path, host: str) -> FileResult:
    """Run every case of one vector file. host: "reference" (plain Python) or "compiled".

    Raises DataError when the file cannot be read as a vector file, naming the file and the rule.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); expected a vector file") from error
    if not isinstance(document, dict) or not {"kernel", "compare", "cases"} <= document.keys():
        raise DataError(f"{path}: is no vector file; expected the keys kernel, compare, cases")
    name = document["kernel"]
    if name not in KERNELS:
        raise DataError(f"{path}: unknown kernel {name!r}.{nearest(str(name), KERNELS)}")
    rel = _tolerance(path, document["compare"])
    cases = document["cases"]
    if not isinstance(cases, list) or not all(
        isinstance(c, dict) and {"in", "out"} <= c.keys() for c in cases
    ):
        raise DataError(f"{path}: cases are no list of objects with the keys in and out")
    pick: Pick = plain if host == "reference" else lambda function: function
    result = FileResult(str(path), name, host)
    for number, case in enumerate(cases):
        expected = _decode(case["out"])
        try:
            actual = KERNELS[name](_decode(case["in"]), pick)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            actual = {"error": f"{type(error).__name__}: {error}"}
        if _equal(expected, actual, rel):
            result.passed += 1
            continue
        result.failed += 1
        if len(result.mismatches) < MISMATCHES_SHOWN:
            result.mismatches.append(f"case {number}: expected {_show(expected)}, got {_show(actual)}")
    return result


def vector_files(paths: Iterable[Path]) -> list[Path]:
    """The JSON files named by the paths, a folder for those in it. Raises UsageError if there are none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.glob("*.json"))
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path}: no such file or folder")
    if not found:
        raise UsageError("no vector files there; expected *.json, for example tests/vectors")
    return found

"""Payloads: bits survive, older forms are read, and what breaks a rule is named."""

from __future__ import annotations

import json
import math
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.scan import COLUMNS, WINDOWS, Scan
from dolphin.grid import topics
from dolphin.grid.payloads import (
    WHOLE,
    AssetBook,
    Heartbeat,
    PayloadRejected,
    SafetyPayload,
    ScanPayload,
    instant_ns,
)
from dolphin.grid.topics import (
    ACB_BOOST,
    ASSET_OB,
    EXF,
    HEARTBEAT,
    OBF_UNIVERSE,
    PROBE,
    SAFETY,
    SAFETY_POSTURE,
    SCAN,
    SHARD_FEATURE,
    SHARD_FEATURES,
    TOPICS,
    Rejections,
    decode,
    encode,
    topic_of,
)
from dolphin.grid.typed import supersedes

MAP, KEY = "DOLPHIN_FEATURES", "latest_eigen_scan"
ISO = "2026-01-02T03:04:05.000000000Z"

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
positive = st.floats(min_value=5e-324, allow_nan=False, allow_infinity=False)
statistic = st.one_of(st.none(), finite)


@st.composite
def scans(draw) -> Scan:
    n = draw(st.integers(0, 6))
    columns = {}
    for w in WINDOWS:
        columns[f"w{w}_lambda_max"] = draw(st.one_of(positive, st.just(0.0)))
        columns[f"w{w}_velocity"] = draw(finite)
        columns[f"w{w}_rotation"] = draw(statistic)
        columns[f"w{w}_instability"] = draw(statistic)
    return Scan(
        scan_number=draw(st.integers(0, 2**40)),
        timestamp_ns=draw(st.integers(0, 2**62)),
        **columns,
        vel_div=draw(finite),
        regime_signal=draw(st.sampled_from([-1.0, 0.0, 1.0])),
        instability_composite=draw(statistic),
        assets=tuple(f"A{i}USDT" for i in range(n)),
        asset_prices=tuple(draw(st.lists(st.one_of(st.none(), positive), min_size=n, max_size=n))),
        asset_loadings=draw(st.one_of(st.none(), st.lists(finite, min_size=n, max_size=n).map(tuple))),
        data_quality_score=draw(st.floats(0.0, 1.0)),
        missing_asset_count=draw(st.integers(0, 50)),
        stale_assets=("A0USDT",),
        universe_id="0123456789abcdef",
        certified_bits=(513, 514, 515, 516),
        outcome=("ok", "ok", "zero_variance", "clustered"),
    )


def bits(value):
    """The same structure with every float as its eight bytes, so that -0.0 and 0.0 differ."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, msgspec.Struct):
        return {name: bits(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {name: bits(item) for name, item in value.items()}
    return value


def plain_scan() -> Scan:
    columns = {}
    for i, w in enumerate(WINDOWS):
        columns[f"w{w}_lambda_max"] = 10.5 + i
        columns[f"w{w}_velocity"] = -0.025 * (i + 1) / 3
        columns[f"w{w}_rotation"] = 0.1 * i
        columns[f"w{w}_instability"] = 0.01 / (i + 3)
    return Scan(
        scan_number=7,
        timestamp_ns=1_700_000_000_123_456_789,
        **columns,
        vel_div=columns["w50_velocity"] - columns["w750_velocity"],
        regime_signal=1.0,
        instability_composite=0.002,
        assets=("BTCUSDT", "ETHUSDT"),
        asset_prices=(84230.5, None),
        asset_loadings=(0.6, 0.8),
    )


def flat() -> dict:
    return json.loads(encode(ScanPayload.from_scan(plain_scan(), bridge_ts=1.25)))


def rejection(map_name, key, value) -> PayloadRejected:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(PayloadRejected) as caught:
        decode(map_name, key, data)
    assert (caught.value.map_name, caught.value.key) == (map_name, key)
    assert map_name in str(caught.value)
    assert key in str(caught.value)
    assert caught.value.field in str(caught.value)
    assert caught.value.rule in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def decoded_or_rejected(map_name, key, data):
    """The payload, or the rejection as a value; any other error is the test's failure."""
    try:
        return decode(map_name, key, data)
    except PayloadRejected as error:
        return error


# --- scan ---------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(scans(), finite)
def test_a_scan_crosses_bit_for_bit(scan, bridge_ts):
    payload = decode(MAP, KEY, encode(ScanPayload.from_scan(scan, bridge_ts=bridge_ts)))
    assert bits(payload.to_scan()) == bits(scan)
    assert bits(payload.bridge_ts) == bits(bridge_ts)
    assert payload.source_ns() == scan.timestamp_ns
    assert payload.source_sequence() == scan.scan_number


@settings(max_examples=150, deadline=None)
@given(scans())
def test_a_foreign_json_library_reads_and_writes_the_same_bits(scan):
    data = encode(ScanPayload.from_scan(scan))
    assert bits(decode(MAP, KEY, json.dumps(json.loads(data)).encode()).to_scan()) == bits(scan)


def test_the_flat_form_has_every_column_and_what_readers_look_for():
    out = flat()
    assert set(COLUMNS) <= set(out)
    assert out["timestamp"] == out["timestamp_iso"] == iso_from_ns(plain_scan().timestamp_ns)
    assert out["bridge_ts"] == 1.25
    assert out["assets"] == ["BTCUSDT", "ETHUSDT"]
    assert out["eigenvalue_gradients"] == {str(w): out[f"w{w}_velocity"] for w in WINDOWS}
    assert out["multi_window_results"]["750"] == {
        part: out[f"w750_{part}"] for part in ("lambda_max", "velocity", "rotation", "instability")
    }


def plain_scan_of_predecessor() -> Scan:
    return msgspec.structs.replace(plain_scan(), schema_version="")


def nested(key) -> dict:
    """The predecessor's form of `plain_scan`; it does not claim our schema."""
    out = flat()
    windows = {
        key(w): {part: out[f"w{w}_{part}"] for part in ("lambda_max", "velocity", "rotation", "instability")}
        for w in WINDOWS
    }
    rest = {name: out[name] for name in ("assets", "asset_prices", "asset_loadings", "instability_composite")}
    return {
        "scan_number": 7,
        "timestamp": out["timestamp_iso"],
        "bridge_ts": "2026-01-02T03:04:05.5Z",
        "result": {"multi_window_results": windows, **rest},
    }


def test_the_nested_form_is_normalised():
    payload = decode(MAP, KEY, json.dumps(nested(str)).encode())
    assert bits(payload.to_scan()) == bits(plain_scan_of_predecessor())
    assert payload.bridge_ts == pytest.approx(instant_ns("2026-01-02T03:04:05.5Z") / 1e9, abs=0)
    assert payload.timestamp_iso == iso_from_ns(plain_scan().timestamp_ns)
    assert payload.eigenvalue_gradients == flat()["eigenvalue_gradients"]


def test_windows_keyed_by_int():
    raw = nested(int)
    before = repr(raw)
    payload = msgspec.convert(ScanPayload.normalise(raw), ScanPayload)
    assert bits(payload.to_scan()) == bits(plain_scan_of_predecessor())
    assert repr(raw) == before


def test_a_flat_scan_may_leave_out_what_follows_from_the_rest():
    raw = flat()
    for name in (
        "multi_window_results",
        "eigenvalue_gradients",
        "timestamp_iso",
        "timestamp",
        "regime_signal",
    ):
        del raw[name]
    raw["bridge_ts"] = "2026-01-02T03:04:05Z"
    raw["asset_prices"] = json.dumps(raw["asset_prices"])
    raw["something_new"] = {"x": [1]}
    payload = decode(MAP, KEY, json.dumps(raw).encode())
    assert bits(payload.to_scan()) == bits(plain_scan())
    assert payload.multi_window_results["50"].velocity == raw["w50_velocity"]
    assert payload.bridge_ts == instant_ns("2026-01-02T03:04:05Z") / 1e9


def without(name):
    raw = flat()
    del raw[name]
    return raw


@pytest.mark.parametrize(
    "name", ["w50_velocity", "w750_velocity", "w300_lambda_max", "assets", "scan_number"]
)
def test_a_missing_column_is_named(name):
    error = rejection(MAP, KEY, without(name))
    assert (error.field, error.rule) == (name, "missing")


def test_neither_form_is_named():
    for raw in ({"scan_number": 1, "timestamp_ns": 5}, {"timestamp_ns": 5, "result": {}}):
        error = rejection(MAP, KEY, raw)
        assert error.field == "result.multi_window_results"
        assert "w50_velocity" in error.rule
    assert rejection(MAP, KEY, {}).field == "timestamp_ns"


def test_a_missing_window_of_the_nested_form_is_named():
    raw = nested(str)
    del raw["result"]["multi_window_results"]["300"]
    assert rejection(MAP, KEY, raw).field == "multi_window_results.300"
    raw = nested(str)
    del raw["result"]["multi_window_results"]["150"]["velocity"]
    assert rejection(MAP, KEY, raw).field == "multi_window_results.150.velocity"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("w50_velocity", "fast", "number"),
        ("w50_velocity", None, "missing"),
        ("vel_div", "x", "float"),
        ("asset_prices", [84230.5], "expected 2 prices"),
        ("asset_loadings", [1.0, 2.0, 3.0], "expected 2 loadings"),
        ("data_quality_score", 1.5, "<= 1.0"),
        ("scan_number", -1, ">= 0"),
        ("scan_number", 1.5, "int"),
        ("timestamp_ns", 2**70, "9223372036854775807"),
        ("bridge_ts", "yesterday", "Unix seconds"),
        ("assets", "[1,", "list"),
    ],
)
def test_a_broken_column_is_named(name, value, rule):
    error = rejection(MAP, KEY, {**flat(), name: value})
    assert error.field == name
    assert rule in error.rule


def test_a_price_that_is_not_positive_is_named_with_its_place():
    assert rejection(MAP, KEY, {**flat(), "asset_prices": [84230.5, 0.0]}).field == "asset_prices[1]"


# --- non-finite numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_the_writer(bad):
    scan = msgspec.structs.replace(plain_scan(), w300_rotation=bad)
    with pytest.raises(ValueError, match="w300_rotation is not finite"):
        encode(ScanPayload.from_scan(scan))
    with pytest.raises(ValueError, match=r"asset_prices\[0\] is not finite"):
        encode(ScanPayload.from_scan(msgspec.structs.replace(plain_scan(), asset_prices=(bad, 1.0))))
    with pytest.raises(ValueError, match=r"a\[1\]\.b is not finite"):
        encode({"a": [None, {"b": bad}]})


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
def test_a_number_that_is_not_finite_is_refused_by_the_reader(text):
    data = encode(ScanPayload.from_scan(plain_scan())).replace(b'"vel_div":', b'"vel_div":%s,"was":' % text)
    rejection(MAP, KEY, data)


def test_null_is_no_reason_to_refuse():
    assert encode({"a": None, "b": "null", "c": [1.5]}) == b'{"a":null,"b":"null","c":[1.5]}'


# --- the others ---------------------------------------------------------------------------------------------

SAMPLES = [
    (
        "DOLPHIN_SAFETY",
        "latest",
        {"posture": "APEX", "Rm": 0.93, "sensors": {"cat1": 1.0}, "updated_at": ISO},
    ),
    ("DOLPHIN_SAFETY", "posture", "TURTLE"),
    (
        "DOLPHIN_FEATURES",
        "acb_boost",
        {
            "boost": 1.347,
            "beta": 0.8,
            "signals": 1.0,
            "factors": {"dvol_btc": {"value": 81.5, "weight": 1.0, "age_s": 12.0}},
            "w750": 0.0003,
            "threshold": 0.0002,
            "stress": 0.1,
            "day": "2026-01-02",
            "fence": 12,
            "updated_at": ISO,
        },
    ),
    (
        "DOLPHIN_FEATURES",
        "acb_state_latest",
        {"boost": 1, "beta": 0, "signals": 0.5, "day": "2026-01-02", "updated_at": ISO, "state": {"x": [1]}},
    ),
    ("DOLPHIN_FEATURES", "exf_latest", {"funding_btc": -0.0001, "fng": 24, "_pushed_at": 1767323045.25}),
    ("DOLPHIN_FEATURES", "ext_features_latest", {"taker": 0.93, "dvol_btc": None, "_pushed_at": 1.0}),
    (
        "DOLPHIN_FEATURES",
        "asset_BTCUSDT_ob",
        {
            "timestamp": ISO,
            "bid_notional": [1, 2, 3, 4, None],
            "ask_notional": [1, 2, 3, 4, 5],
            "bid_depth": [0.1] * 5,
            "ask_depth": [0.1] * 5,
            "coverage_bps": {"bid": 420.0, "ask": 500.0},
            "_pushed_at": 1767323045.25,
            "_push_seq": 9,
        },
    ),
    (
        "DOLPHIN_FEATURES",
        "obf_latest",
        {
            "timestamp": ISO,
            "n_assets": 50,
            "median_imbalance": -0.09,
            "agreement_pct": 0.7,
            "depth_pressure": -4.5,
            "cascade_count": 0,
            "regime_signal": -1,
            "depth_velocity": 0.01,
            "acceleration": 0.0,
            "degraded": False,
        },
    ),
    (
        "DOLPHIN_FEATURES",
        "obf_universe_latest",
        {
            "_snapshot_utc": ISO,
            "_n_assets": 1,
            "assets": {
                "BTCUSDT": {
                    "spread_bps": 0.1,
                    "depth_1pct_usd": 5e6,
                    "depth_quality": 0.5,
                    "fill_probability": 0.4,
                    "imbalance": 0.1,
                    "best_bid": 84230.0,
                    "best_ask": 84230.1,
                    "n_bid_levels": 5,
                    "n_ask_levels": 5,
                }
            },
        },
    ),
    (
        "DOLPHIN_FEATURES",
        "mc_forewarner_latest",
        {
            "status": "GREEN",
            "gate": "OK",
            "catastrophic_prob": 0.05,
            "envelope_score": 0.4,
            "source": "REAL_MODEL",
            "timestamp": ISO,
        },
    ),
    ("DOLPHIN_FEATURES", "esof_latest", {"score": None, "components": {}, "timestamp": ISO}),
    (
        "DOLPHIN_FEATURES_SHARD_07",
        "BTCUSDT",
        {
            "imbalance": -0.1,
            "imbalance_ma5": -0.1,
            "imbalance_persistence": 0.9,
            "depth_1pct_usd": 1e6,
            "depth_quality": 1.2,
            "fill_probability": 0.54,
            "spread_proxy_bps": 80.0,
            "depth_asymmetry": 0.1,
            "withdrawal_velocity": -0.02,
            "regime_signal": 0,
            "timestamp": ISO,
        },
    ),
    ("DOLPHIN_FEATURES_SHARD_07", "imbalance_BTCUSDT", -0.25),
    ("DOLPHIN_OB", "BTCUSDT", {"timestamp": ISO, "bids": [[84230.0, 1.5]], "asks": [[84230.1, 0.5]]}),
    (
        "DOLPHIN_PNL_BLUE",
        "2026-01-02",
        {"date": "2026-01-02", "pnl": -3.5, "capital": 24996.5, "trades": 2, "posture": "APEX"},
    ),
    (
        "DOLPHIN_PNL_GREEN",
        "latest_trade",
        {
            "trade_id": "green-2026-01-02-1",
            "asset": "BTCUSDT",
            "side": 1,
            "entry_price": 1.0,
            "timestamp": ISO,
        },
    ),
    (
        "DOLPHIN_STATE_BLUE",
        "latest",
        {
            "strategy": "blue",
            "capital": 25000.0,
            "date": "2026-01-02",
            "pnl": 0.0,
            "trades": 0,
            "peak_capital": 25000.0,
            "drawdown": 0.0,
            "engine_state": "running",
            "updated_at": ISO,
        },
    ),
    (
        "DOLPHIN_STATE_BLUE",
        "latest_nautilus",
        {
            "strategy": "blue",
            "capital": 25000.0,
            "date": "2026-01-02",
            "pnl": 0.0,
            "trades": 0,
            "posture": "APEX",
            "param_hash": "0123456789abcdef",
            "engine": "nautilus",
            "updated_at": ISO,
        },
    ),
    ("DOLPHIN_STATE_BLUE", "engine_snapshot", {"capital": 25000.0, "scan_count": 10, "posture": "STALKER"}),
    ("DOLPHIN_STATE_GREEN", "state_green_2026-01-02", {"capital": 25000.0, "scan_count": 10}),
    (
        "DOLPHIN_HEARTBEAT",
        "scanner_heartbeat",
        {
            "ts": 1.5,
            "iso": ISO,
            "run_date": "2026-01-02",
            "phase": "warmup",
            "service": "scanner",
            "bars": 3,
            "of": 752,
        },
    ),
    ("DOLPHIN_HEARTBEAT", "latest", {"ts": 1.5, "phase": "flow_start", "flow": "paper"}),
    ("DOLPHIN_HEARTBEAT", "probe_ts", 1767323045.25),
    (
        "DOLPHIN_META_HEALTH",
        "latest",
        {
            "rm_meta": 0.9,
            "status": "GREEN",
            "m4_control_plane": 1,
            "m1_data_infra": 1,
            "m1_trader": 0,
            "m2_heartbeat": 1,
            "m3_data_freshness": 0.5,
            "m5_coherence": 0.5,
            "service_status": {"exf": "RUNNING"},
            "hz_key_status": {},
            "timestamp": ISO,
        },
    ),
    (
        "DOLPHIN_SIGNALS",
        "blue_latest",
        {"asset": "BTCUSDT", "action": "ENTER", "vel_div": -0.06, "conviction": 3.2, "scan_number": 9},
    ),
]


@pytest.mark.parametrize(("map_name", "key", "value"), SAMPLES, ids=[f"{m}.{k}" for m, k, _ in SAMPLES])
def test_every_payload_of_the_table_crosses(map_name, key, value):
    payload = decode(map_name, key, json.dumps(value).encode())
    again = decode(map_name, key, encode(payload))
    assert bits(again) == bits(payload)


def test_the_samples_cover_every_topic():
    covered = {id(topic_of(m, k)) for m, k, _ in SAMPLES} | {id(SCAN)}
    assert covered == {id(topic) for topic in TOPICS}


@pytest.mark.parametrize(("map_name", "key", "value"), SAMPLES, ids=[f"{m}.{k}" for m, k, _ in SAMPLES])
def test_unknown_fields_are_tolerated_and_missing_ones_named(map_name, key, value):
    if not isinstance(value, dict):
        return
    expected = decode(map_name, key, json.dumps(value).encode())
    assert decode(map_name, key, json.dumps({**value, "of_tomorrow": [1, {"x": None}]}).encode()) == expected
    for name in value:
        rest = {k: v for k, v in value.items() if k != name}
        outcome = decoded_or_rejected(map_name, key, json.dumps(rest).encode())
        if isinstance(outcome, PayloadRejected):
            # Of a heartbeat's three ways to say when, one is enough; and `flow` is an alias of `service`.
            expected_name = {"flow": "service"}.get(name, name)
            assert (outcome.field, outcome.rule) == (expected_name, "missing")


def test_caution_means_stalker():
    raw = {"posture": "CAUTION", "Rm": 0.8, "updated_at": ISO}
    assert decode("DOLPHIN_SAFETY", "latest", json.dumps(raw).encode()).posture == "STALKER"
    for word in (b'"CAUTION"', b"CAUTION"):
        assert SAFETY_POSTURE.decode("DOLPHIN_SAFETY", "posture", word) == "STALKER"
    assert SAFETY_POSTURE.decode("DOLPHIN_SAFETY", "posture", b"HIBERNATE") == "HIBERNATE"
    rejection("DOLPHIN_SAFETY", "posture", b"PANIC")
    assert rejection("DOLPHIN_SAFETY", "latest", {**raw, "posture": "PANIC"}).field == "posture"


def test_instants_are_read_in_either_form():
    book = next(value for _, key, value in SAMPLES if key == "asset_BTCUSDT_ob")
    as_unix = {**book, "timestamp": 1767323045.5, "_pushed_at": "2026-01-02T03:04:05.25Z"}
    payload = ASSET_OB.decode("DOLPHIN_FEATURES", "asset_BTCUSDT_ob", json.dumps(as_unix).encode())
    assert payload.timestamp == "2026-01-02T03:04:05.500000000Z"
    assert payload.pushed_at == 1767323045.25
    assert payload.source_ns() == 1767323045_500_000_000
    assert payload.source_sequence() == 9
    error = rejection("DOLPHIN_FEATURES", "asset_BTCUSDT_ob", {**book, "timestamp": "2026-13-45T00:00:00Z"})
    assert error.field == "timestamp"


def test_seconds_become_nanoseconds_without_the_rounding_of_one_product():
    assert instant_ns(1767323045.25) == 1767323045_250_000_000
    assert instant_ns(3) == 3_000_000_000
    assert instant_ns(-0.5) == -500_000_000
    for bad in (math.nan, math.inf, True, None):
        with pytest.raises(ValueError, match="no instant"):
            instant_ns(bad)


def test_a_heartbeat_of_older_times():
    raw = {"iso": "2026-01-02T03:04:05Z", "phase": "flow_end", "flow": "paper_blue"}
    payload = HEARTBEAT.decode("DOLPHIN_HEARTBEAT", "paper_heartbeat", json.dumps(raw).encode())
    assert (payload.service, payload.ts, payload.run_date) == ("paper_blue", 1767323045.0, "2026-01-02")
    assert rejection("DOLPHIN_HEARTBEAT", "x_heartbeat", {"phase": "a", "service": "x"}).field == "ts"
    made = Heartbeat.at("scanner", "warmup", 1767323045_500_000_000, bars=3, of=752)
    assert (made.ts, made.run_date, made.source_ns()) == (1767323045.5, "2026-01-02", 1767323045_500_000_000)


def test_a_probe_is_read_in_either_form():
    assert PROBE.decode("DOLPHIN_HEARTBEAT", "probe_ts", b'"2026-01-02T03:04:05Z"') == 1767323045.0
    assert rejection("DOLPHIN_HEARTBEAT", "probe_ts", b"-1").field == WHOLE


@pytest.mark.parametrize(
    ("topic", "changes", "path"),
    [
        (ACB_BOOST, {"boost": 0.9}, "boost"),
        (ACB_BOOST, {"boost": 3.1}, "boost"),
        (ACB_BOOST, {"beta": 1.1}, "beta"),
        (ACB_BOOST, {"factors": {"fng": {"weight": -1}}}, "factors[...].weight"),
        (ASSET_OB, {"bid_notional": [1, 2, 3, 4]}, "bid_notional"),
        (ASSET_OB, {"ask_depth": [1, 2, -3, 4, 5]}, "ask_depth[2]"),
        (EXF, {"fng": 140}, "fng"),
        (OBF_UNIVERSE, {"_n_assets": 2}, "_n_assets"),
    ],
)
def test_rules_are_named(topic, changes, path):
    map_name = topic.map_template
    key, value = next((k, v) for m, k, v in SAMPLES if topic.covers(m, k))
    assert rejection(map_name, key, {**value, **changes}).field == path


def test_maps_and_keys_without_a_declaration_are_refused_with_the_nearest():
    assert "latest_eigen_scan" in rejection("DOLPHIN_FEATURES", "latest_eigen_scam", {}).rule
    assert "DOLPHIN_FEATURES" in rejection("DOLPHIN_FEATURE", "latest_eigen_scan", {}).rule


def test_shard_keys_are_told_apart():
    assert topic_of("DOLPHIN_FEATURES_SHARD_03", "SOLUSDT") is SHARD_FEATURES
    assert topic_of("DOLPHIN_FEATURES_SHARD_03", "depth_1pct_usd_SOLUSDT") is SHARD_FEATURE
    assert topic_of("DOLPHIN_FEATURES", "obf_features_latest") is topics.OBF


def test_every_map_and_key_has_one_topic():
    for map_name, key, _ in SAMPLES:
        assert sum(topic.covers(map_name, key) for topic in TOPICS) == 1


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), finite, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_a_payload_or_a_rejection_comes_out(data):
    """Whatever another process writes, a reader's thread survives it."""
    map_name, key, value = data.draw(st.sampled_from([*SAMPLES, (MAP, KEY, flat()), (MAP, KEY, nested(str))]))
    if isinstance(value, dict) and data.draw(st.booleans()):
        value = {**value, data.draw(st.sampled_from(sorted(value))): data.draw(junk)}
    else:
        value = data.draw(junk)
    raw = json.dumps(value).encode()
    if data.draw(st.integers(0, 3)) == 0:
        raw = raw[: data.draw(st.integers(0, len(raw)))] + data.draw(st.binary(max_size=3))
    outcome = decoded_or_rejected(map_name, key, raw)
    if isinstance(outcome, PayloadRejected):
        assert outcome.field
        assert outcome.rule


def test_a_bottomless_payload_is_rejected():
    deep = b'{"score":0,"timestamp":"%s","components":{"x":' % ISO.encode() + b"[" * 100_000
    rejection("DOLPHIN_FEATURES", "esof_latest", deep)


def test_rejections_are_counted_by_place_and_the_newest_kept():
    kept = Rejections(kept=2)
    for field in ("a", "b", "b"):
        kept.add(PayloadRejected("M", "k", field, "rule"))
    assert kept.total == 3
    assert kept.counts == {("M", "k", "a"): 1, ("M", "k", "b"): 2}
    assert [error.field for error in kept.newest] == ["b", "b"]


def test_a_key_needs_its_parts():
    assert ASSET_OB.key(symbol="BTCUSDT") == "asset_BTCUSDT_ob"
    with pytest.raises(KeyError):
        ASSET_OB.key()
    assert "asset_{symbol}_ob" in repr(ASSET_OB)


def test_a_writer_of_locked_topics_knows_the_lock():
    assert ACB_BOOST.lock == "acb_writer"
    assert SAFETY.lock is None


def test_equal_payloads_have_equal_bytes_whatever_the_order_of_their_parts():
    """References compare bytes."""
    one = SafetyPayload(posture="APEX", rm=1.0, sensors={"a": 1, "b": {"x": 1, "y": 2}}, updated_at=ISO)
    other = SafetyPayload(posture="APEX", rm=1.0, sensors={"b": {"y": 2, "x": 1}, "a": 1}, updated_at=ISO)
    assert one == other
    assert encode(one) == encode(other)


def test_a_source_that_was_restarted_counts_as_newer():
    def book(push_seq, second):
        bands = (1.0,) * 5
        return AssetBook(
            timestamp=f"2026-01-02T03:04:{second:02d}Z", bid_notional=bands, ask_notional=bands,
            bid_depth=bands, ask_depth=bands, pushed_at=1.0, push_seq=push_seq,
        )  # fmt: skip

    assert supersedes(book(1, 6), book(900, 5))
    assert not supersedes(book(900, 5), book(1, 6))
    assert not supersedes(book(899, 5), book(900, 5))
    assert supersedes(book(900, 5), book(900, 5))
    assert supersedes("TURTLE", "APEX")

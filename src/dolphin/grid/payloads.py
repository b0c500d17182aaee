"""The payloads: what each value of the grid holds, declared once, with its rules and its older forms.

Entry points: the payload classes; `PayloadRejected`. Where each lives is the table in `dolphin.grid.topics`.

Invariants
----------
1. A payload keeps every rule of its class, or it does not exist.
2. Fields that are not known are tolerated on read and dropped, so that a newer writer does not blind an older
   reader.
3. Instants named `timestamp`, `updated_at`, `iso`, `_snapshot_utc` are ISO 8601 UTC text; `bridge_ts`,
   `file_mtime`, `_pushed_at`, `ts` are Unix seconds. Readers accept either form for either and normalise.
4. Predecessors' forms (nested scan, `CAUTION`, `flow`) are brought into the declared one by `normalise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta, field

from dolphin.domain.clock import NS_PER_S, iso_from_ns, ns_from_iso
from dolphin.domain.errors import DataError
from dolphin.domain.scan import WINDOWS, Scan, regime_from_vel_div

# The field of a rejection that concerns the payload as a whole.
WHOLE = "(payload)"

Positive: TypeAlias = Annotated[float, Meta(gt=0.0)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0.0)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Signed: TypeAlias = Annotated[float, Meta(ge=-1.0, le=1.0)]
_NS_MAX = 2**63 - 1
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Day: TypeAlias = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Bands: TypeAlias = tuple[
    NonNegative | None, NonNegative | None, NonNegative | None, NonNegative | None, NonNegative | None
]
Posture: TypeAlias = Literal["APEX", "STALKER", "TURTLE", "HIBERNATE"]


class PayloadRejected(DataError):  # noqa: N818 - what happened to the payload is the name people look for
    """A payload breaks its declaration. It was not delivered.

    Attributes: `map_name`, `key`, `field` (path inside the payload), `rule` (what was expected).
    """

    def __init__(self, map_name: str, key: str, field_name: str, rule: str) -> None:
        super().__init__(f"{map_name}[{key!r}] rejected: field {field_name}: {rule}")
        self.map_name = map_name
        self.key = key
        self.field = field_name
        self.rule = rule


class FieldError(ValueError):
    def __init__(self, field_name: str, rule: str) -> None:
        super().__init__(f"{field_name}: {rule}")
        self.field = field_name
        self.rule = rule


def instant_ns(value: float | str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 text or of Unix seconds. Raises ValueError for anything else."""
    if isinstance(value, str):
        return ns_from_iso(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no instant")
    # Split first: seconds times 1e9 in one product would round to about 256 ns.
    whole = math.floor(value)
    return whole * NS_PER_S + round((value - whole) * NS_PER_S)


def iso_of(field_name: str, value: Any) -> str:
    try:
        return value if isinstance(value, str) else iso_from_ns(instant_ns(value))
    except (ValueError, OverflowError, TypeError) as error:
        raise FieldError(
            field_name, f"expected an ISO 8601 instant or Unix seconds, got {value!r}"
        ) from error


def unix_of(field_name: str, value: Any) -> float:
    try:
        return instant_ns(value) / NS_PER_S if isinstance(value, str) else float(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise FieldError(
            field_name, f"expected Unix seconds or an ISO 8601 instant, got {value!r}"
        ) from error


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every payload.

    `SOURCE` names the attribute with the source's own time, `SEQUENCE` the one with its own count; empty
    where the payload has none. `ISO` and `UNIX` list the wire names of instants in either form.
    """

    SOURCE: ClassVar[str] = ""
    SEQUENCE: ClassVar[str] = ""
    ISO: ClassVar[tuple[str, ...]] = ()
    UNIX: ClassVar[tuple[str, ...]] = ()

    def source_ns(self) -> int | None:
        """When the source made it, in nanoseconds since 1970; None when it does not say."""
        value = getattr(self, self.SOURCE) if self.SOURCE else None
        return None if value is None else instant_ns(value)

    def source_sequence(self) -> int | None:
        """The source's own count; None when it does not count. It can fall when the source restarts."""
        return getattr(self, self.SEQUENCE) if self.SEQUENCE else None

    def check(self) -> None:
        """Rules that concern several fields. Raises ValueError."""
        for name in self.ISO:
            value = getattr(self, name.lstrip("_"))
            if value is not None:
                try:
                    ns_from_iso(value)
                except ValueError as error:
                    raise FieldError(name, f"expected an ISO 8601 instant, got {value!r}") from error

    @classmethod
    def normalise(cls, raw: Any) -> Any:
        """Bring a predecessor's form of this payload into the declared one. Raises ValueError.

        `raw` is the parsed JSON value, or the same as Python objects; it is not changed. What is not a known
        older form is returned as it came, and fails the declaration then.
        """
        if not isinstance(raw, Mapping):
            return raw
        out = dict(raw)
        for name in cls.ISO:
            if out.get(name) is not None:
                out[name] = iso_of(name, out[name])
        for name in cls.UNIX:
            if out.get(name) is not None:
                out[name] = unix_of(name, out[name])
        if out.get("posture") == "CAUTION":
            out["posture"] = "STALKER"
        return out


# --- the scan -----------------------------------------------------------------------------------------------


class WindowResult(msgspec.Struct, frozen=True, gc=False):
    """Statistics of one window: `lambda_max` dimensionless, `velocity` in 1/s, `rotation` in radians."""

    lambda_max: NonNegative
    velocity: float
    rotation: float | None = None
    instability: float | None = None


class ScanPayload(Payload, frozen=True, kw_only=True):
    """`latest_eigen_scan` and the scan log: the flat form ("NG8") of a scan.

    Units as in `dolphin.domain.scan.Scan`. `bridge_ts` and `file_mtime` are Unix seconds: when it was written
    to the grid, and when its file was, if it came through the bridge. `timestamp` repeats `timestamp_iso` for
    older readers.
    """

    SEQUENCE: ClassVar[str] = "scan_number"
    UNIX: ClassVar[tuple[str, ...]] = ("bridge_ts", "file_mtime")

    scan_number: Count
    timestamp_ns: Annotated[int, Meta(ge=0, le=_NS_MAX)]
    timestamp_iso: str
    timestamp: str
    bridge_ts: float | None = None
    file_mtime: float | None = None
    w50_lambda_max: NonNegative
    w50_velocity: float
    w50_rotation: float | None
    w50_instability: float | None
    w150_lambda_max: NonNegative
    w150_velocity: float
    w150_rotation: float | None
    w150_instability: float | None
    w300_lambda_max: NonNegative
    w300_velocity: float
    w300_rotation: float | None
    w300_instability: float | None
    w750_lambda_max: NonNegative
    w750_velocity: float
    w750_rotation: float | None
    w750_instability: float | None
    vel_div: float
    regime_signal: Signed
    instability_composite: float | None
    assets: tuple[str, ...]
    asset_prices: tuple[Positive | None, ...]
    asset_loadings: tuple[float, ...] | None
    schema_version: str
    data_quality_score: Fraction
    missing_asset_count: Count
    stale_assets: tuple[str, ...] = ()
    universe_id: str = ""
    certified_bits: tuple[int, ...] = ()
    outcome: tuple[str, ...] = ()
    eigenvalue_gradients: dict[str, float]
    multi_window_results: dict[str, WindowResult]

    @classmethod
    def from_scan(
        cls, scan: Scan, *, bridge_ts: float | None = None, file_mtime: float | None = None
    ) -> ScanPayload:
        """The payload of `scan`, written to the grid at `bridge_ts` (Unix seconds)."""
        iso = iso_from_ns(scan.timestamp_ns)
        columns = {name: getattr(scan, name) for name in _SCAN_FIELDS}
        return cls(
            timestamp_iso=iso,
            timestamp=iso,
            bridge_ts=bridge_ts,
            file_mtime=file_mtime,
            eigenvalue_gradients={
                "50": scan.w50_velocity,
                "150": scan.w150_velocity,
                "300": scan.w300_velocity,
                "750": scan.w750_velocity,
            },
            multi_window_results={
                str(w): WindowResult(*(columns[f"w{w}_{part}"] for part in _WINDOW_PARTS)) for w in WINDOWS
            },
            **columns,
        )

    def to_scan(self) -> Scan:
        """The scan, equal bit for bit to the one that the writer held."""
        return Scan(**{name: getattr(self, name) for name in _SCAN_FIELDS})

    def source_ns(self) -> int:
        """When the scan started, nanoseconds since 1970."""
        return self.timestamp_ns

    def check(self) -> None:
        """The columns of assets have one length."""
        n_assets = len(self.assets)
        if len(self.asset_prices) != n_assets:
            raise FieldError(
                "asset_prices", f"expected {n_assets} prices, one an asset, got {len(self.asset_prices)}"
            )
        if self.asset_loadings is not None and len(self.asset_loadings) != n_assets:
            raise FieldError(
                "asset_loadings",
                f"expected {n_assets} loadings, one an asset, got {len(self.asset_loadings)}",
            )

    @classmethod
    def normalise(cls, raw: Any) -> Any:
        """Accept the nested form and what the flat form may leave out.

        Raises ValueError naming what is missing.
        """
        if not isinstance(raw, Mapping):
            return raw
        out = dict(super().normalise(raw))
        nested = out.pop("result", None)
        if isinstance(nested, Mapping):
            for name, value in nested.items():
                out.setdefault(name, value)
        if out.get("timestamp_ns") is None:
            instant = next((out[n] for n in ("timestamp_iso", "timestamp") if out.get(n) is not None), None)
            if instant is None:
                raise FieldError("timestamp_ns", "missing, and so are timestamp_iso and timestamp")
            out["timestamp_ns"] = ns_from_iso(iso_of("timestamp", instant))
        if type(out["timestamp_ns"]) is int and 0 <= out["timestamp_ns"] <= _NS_MAX:
            out["timestamp_iso"] = out["timestamp"] = iso_from_ns(out["timestamp_ns"])
        for name in ("assets", "asset_prices", "asset_loadings"):
            # In the store these columns are JSON text; a bridge that passes a row on as it stands sends them
            # so.
            if isinstance(out.get(name), str):
                try:
                    out[name] = msgspec.json.decode(out[name])
                except msgspec.DecodeError as error:
                    raise FieldError(name, f"expected a list or JSON text of one: {error}") from error
        _fill_windows(out)
        out.setdefault("vel_div", out["w50_velocity"] - out["w750_velocity"])
        if isinstance(out["vel_div"], (int, float)):
            out.setdefault("regime_signal", regime_from_vel_div(out["vel_div"]))
        for name, value in _SCAN_ABSENT.items():
            out.setdefault(name, value)
        return out


_WINDOW_PARTS = ("lambda_max", "velocity", "rotation", "instability")
_SCAN_FIELDS: tuple[str, ...] = tuple(f.name for f in msgspec.structs.fields(Scan))
_SCAN_ABSENT: dict[str, Any] = {
    "instability_composite": None,
    "asset_loadings": None,
    "schema_version": "",
    "data_quality_score": 1.0,
    "missing_asset_count": 0,
}


def _fill_windows(out: dict[str, Any]) -> None:
    """Bring the windows' columns and `multi_window_results` into step; the columns win."""
    windows = out.get("multi_window_results")
    columns = [f"w{w}_velocity" for w in WINDOWS]
    if not any(name in out for name in columns):
        if not isinstance(windows, Mapping):
            raise FieldError(
                "result.multi_window_results",
                f"missing, and so are the flat columns {', '.join(columns)}: neither form of a scan",
            )
        for w in WINDOWS:
            # A mapping handed over as Python objects may have ints as keys; JSON has text only.
            window = windows.get(str(w), windows.get(w))
            if not isinstance(window, Mapping):
                raise FieldError(f"multi_window_results.{w}", "missing: all of 50, 150, 300, 750 are needed")
            for part in _WINDOW_PARTS:
                if part in window:
                    out[f"w{w}_{part}"] = window[part]
                elif part in ("lambda_max", "velocity"):
                    raise FieldError(f"multi_window_results.{w}.{part}", "missing")
    for w in WINDOWS:
        for part in ("lambda_max", "velocity"):
            value = out.get(f"w{w}_{part}")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                rule = "missing" if value is None else f"expected a number, got {value!r}"
                raise FieldError(f"w{w}_{part}", rule)
        out.setdefault(f"w{w}_rotation", None)
        out.setdefault(f"w{w}_instability", None)
    out["eigenvalue_gradients"] = {str(w): out[f"w{w}_velocity"] for w in WINDOWS}
    out["multi_window_results"] = {
        str(w): {part: out[f"w{w}_{part}"] for part in _WINDOW_PARTS} for w in WINDOWS
    }


# --- risk ---------------------------------------------------------------------------------------------------


class SafetyPayload(Payload, frozen=True, kw_only=True):
    """What the survival stack allows. `rm` ("Rm" on the wire) is its multiplier in [0, 1].

    `fence` is the writer's fencing token.
    """

    SOURCE: ClassVar[str] = "updated_at"
    SEQUENCE: ClassVar[str] = "fence"
    ISO: ClassVar[tuple[str, ...]] = ("updated_at",)

    posture: Posture
    rm: Fraction = field(name="Rm")
    sensors: dict[str, Any] = {}
    fence: Count = 0
    updated_at: str


class AcbFactor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One factor of the circuit breaker: its value (None when missing), weight and age in seconds."""

    value: float | None = None
    weight: NonNegative = 0.0
    age_s: float | None = None


class AcbBoost(Payload, frozen=True, kw_only=True):
    """State of the circuit breaker. `fence` is the writer's fencing token: a reader refuses a smaller one."""

    SOURCE: ClassVar[str] = "updated_at"
    SEQUENCE: ClassVar[str] = "fence"
    ISO: ClassVar[tuple[str, ...]] = ("updated_at",)

    boost: Annotated[float, Meta(ge=1.0, le=3.0)]
    beta: Fraction
    signals: NonNegative
    factors: dict[str, AcbFactor] = {}
    missing: tuple[str, ...] = ()
    w750: float | None = None
    threshold: float | None = None
    stress: Fraction = 0.0
    day: Day
    fence: Count = 0
    updated_at: str


class AcbState(AcbBoost, frozen=True, kw_only=True):
    """The circuit breaker's full state.

    What it publishes, and in `state` what it needs to go on after a restart.
    """

    state: dict[str, Any] = {}


class ForewarnerPayload(Payload, frozen=True, kw_only=True):
    """The forewarner's verdict. `status` is a colour for people; `gate` is the rule that decides.

    `drill_until` (Unix s) marks a planted verdict of `dolphin verify`: the watchdog counts it until then,
    hosts never do. No other verdict has it.
    """

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    status: Literal["GREEN", "ORANGE", "RED"]
    gate: Literal["OK", "ORANGE", "RED"] | None = None
    catastrophic_prob: Fraction
    envelope_score: float
    source: Literal["REAL_MODEL", "FALLBACK_NO_DATA", "FALLBACK_ERROR"]
    timestamp: str
    drill_until: NonNegative | msgspec.UnsetType = msgspec.UNSET


class ExfPayload(Payload, frozen=True, kw_only=True):
    """External factors.

    Funding rate, DVOL index points, fear and greed 0 to 100, taker buy ratio; None when unknown.
    """

    SOURCE: ClassVar[str] = "pushed_at"
    UNIX: ClassVar[tuple[str, ...]] = ("_pushed_at",)

    funding_btc: float | None = None
    dvol_btc: NonNegative | None = None
    fng: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None
    taker: NonNegative | None = None
    #: Further factors by name.
    factors: dict[str, float | None] = {}
    #: Age of each source in seconds at the push, and its state.
    ages_s: dict[str, float | None] = {}
    statuses: dict[str, str] = {}
    pushed_at: NonNegative = field(name="_pushed_at")


class EsofPayload(Payload, frozen=True, kw_only=True):
    """Esoteric factors: the advisor's score in [-1, 1], None without one, and what explains it."""

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    score: Signed | None
    components: dict[str, Any] = {}
    timestamp: str


# --- order books --------------------------------------------------------------------------------------------


class Coverage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far from mid each side of the book was visible, in basis points; None for a whole side."""

    bid: NonNegative | None = None
    ask: NonNegative | None = None


class AssetBook(Payload, frozen=True, kw_only=True):
    """`asset_{SYMBOL}_ob`: depth in the bands (k-1 %, k %] from mid, k = 1..5.

    Notional is in USD, depth in base units. A band whose far edge the book does not reach is None: unknown,
    not zero. `visible_bid` and `visible_ask` are the USD within `visible_bps` of mid, for a book that does
    not reach the first band's; None where the writer does not say.
    """

    SOURCE: ClassVar[str] = "timestamp"
    SEQUENCE: ClassVar[str] = "push_seq"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)
    UNIX: ClassVar[tuple[str, ...]] = ("_pushed_at",)

    timestamp: str
    bid_notional: Bands
    ask_notional: Bands
    bid_depth: Bands
    ask_depth: Bands
    coverage_bps: Coverage | None = None
    visible_bps: NonNegative | None = None
    visible_bid: NonNegative | None = None
    visible_ask: NonNegative | None = None
    pushed_at: NonNegative = field(name="_pushed_at")
    push_seq: Count = field(name="_push_seq")


class ObfLatest(Payload, frozen=True, kw_only=True):
    """Order-book features across assets.

    `depth_velocity` and shares are fractions, `degraded` means books absent.
    """

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    timestamp: str
    n_assets: Count
    median_imbalance: Signed
    agreement_pct: Fraction
    depth_pressure: float
    cascade_count: Count
    regime_signal: Signed
    depth_velocity: float
    acceleration: float
    degraded: bool = False


class ObfUniverseAsset(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Health of one symbol's book.

    Spread in basis points, depth in USD, prices in USDT, shares as fractions.
    """

    spread_bps: float
    depth_1pct_usd: NonNegative
    depth_quality: Fraction
    fill_probability: Fraction
    imbalance: Signed
    best_bid: NonNegative
    best_ask: NonNegative
    n_bid_levels: Count
    n_ask_levels: Count


class ObfUniverse(Payload, frozen=True, kw_only=True):
    """Health of every book of the universe service, once a minute."""

    SOURCE: ClassVar[str] = "snapshot_utc"
    ISO: ClassVar[tuple[str, ...]] = ("_snapshot_utc",)

    snapshot_utc: str = field(name="_snapshot_utc")
    n_assets: Count = field(name="_n_assets")
    assets: dict[str, ObfUniverseAsset]

    def check(self) -> None:
        """The count is the number of assets."""
        super().check()
        if self.n_assets != len(self.assets):
            raise FieldError(
                "_n_assets", f"expected {len(self.assets)}, the number of assets, got {self.n_assets}"
            )


class ShardFeatures(Payload, frozen=True, kw_only=True):
    """Order-book features of one symbol, in its shard."""

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    imbalance: Signed
    imbalance_ma5: Signed
    imbalance_persistence: Fraction
    depth_1pct_usd: NonNegative
    depth_quality: NonNegative
    fill_probability: Fraction
    spread_proxy_bps: float
    depth_asymmetry: float
    withdrawal_velocity: float
    regime_signal: Signed
    timestamp: str


class RawBook(Payload, frozen=True, kw_only=True):
    """A book as the exchange shows it.

    (price in USDT, quantity in base units) from the best level outwards.
    """

    SOURCE: ClassVar[str] = "timestamp"
    SEQUENCE: ClassVar[str] = "last_update_id"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    timestamp: str
    bids: tuple[tuple[Positive, NonNegative], ...]
    asks: tuple[tuple[Positive, NonNegative], ...]
    last_update_id: Count | None = None


# --- hosts --------------------------------------------------------------------------------------------------


class PnlDay(Payload, frozen=True, kw_only=True):
    """Result of one day.

    `pnl` and `capital` in USDT. `stale_state` marks a result made while its inputs changed.
    """

    date: Day
    pnl: float
    capital: float
    trades: Count
    boost: float | None = None
    beta: float | None = None
    mc_status: str | None = None
    posture: Posture | None = None
    stale_state: bool = False


class LastTrade(Payload, frozen=True, kw_only=True):
    """The last trade, for people; the ledger holds the truth. Prices and `net` in USDT, `side` -1 or +1."""

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    trade_id: str
    asset: str
    side: Literal[-1, 1]
    entry_price: Positive
    exit_price: Positive | None = None
    leverage: NonNegative | None = None
    notional: NonNegative | None = None
    net: float | None = None
    reason: str = ""
    bars_held: Count | None = None
    stale_state: bool = False
    timestamp: str


class StateLatest(Payload, frozen=True, kw_only=True):
    """State of a deployment: money in USDT, `drawdown` a fraction of `peak_capital`."""

    SOURCE: ClassVar[str] = "updated_at"
    ISO: ClassVar[tuple[str, ...]] = ("updated_at",)

    strategy: str
    capital: float
    date: Day
    pnl: float
    trades: Count
    peak_capital: float
    drawdown: float
    engine_state: Any = None
    updated_at: str


class StateNautilus(Payload, frozen=True, kw_only=True):
    """State of a deployment that runs in Nautilus; money in USDT."""

    SOURCE: ClassVar[str] = "updated_at"
    ISO: ClassVar[tuple[str, ...]] = ("updated_at",)

    strategy: str
    capital: float
    date: Day
    pnl: float
    trades: Count
    posture: Posture
    param_hash: str
    engine: str
    updated_at: str


class EngineSnapshot(Payload, frozen=True, kw_only=True):
    """What the engine holds after a scan; `capital` in USDT. `detail` takes what a host adds."""

    SOURCE: ClassVar[str] = "updated_at"
    SEQUENCE: ClassVar[str] = "scan_count"
    ISO: ClassVar[tuple[str, ...]] = ("updated_at",)

    capital: float
    open_positions: tuple[dict[str, Any], ...] = ()
    last_scan: int | None = None
    scan_count: Count
    vel_div: float | None = None
    vol_ok: bool | None = None
    posture: Posture | None = None
    detail: dict[str, Any] = {}
    updated_at: str | None = None


class Heartbeat(Payload, frozen=True, kw_only=True):
    """A service is alive. `ts` is Unix seconds; `bars` of `of` is the progress of a warm-up."""

    SOURCE: ClassVar[str] = "ts"
    ISO: ClassVar[tuple[str, ...]] = ("iso",)
    UNIX: ClassVar[tuple[str, ...]] = ("ts",)

    ts: NonNegative
    iso: str
    run_date: Day
    phase: str
    service: str
    bars: Count | None = None
    of: Count | None = None

    @classmethod
    def at(
        cls, service: str, phase: str, now_ns: int, *, bars: int | None = None, of: int | None = None
    ) -> Heartbeat:
        """The heartbeat of `service` at `now_ns` (nanoseconds since 1970)."""
        iso = iso_from_ns(now_ns)
        return cls(
            ts=now_ns / NS_PER_S, iso=iso, run_date=iso[:10], phase=phase, service=service, bars=bars, of=of
        )

    @classmethod
    def normalise(cls, raw: Any) -> Any:
        """`flow` is an older name of `service`; of the three ways to say when, one is enough."""
        out = super().normalise(raw)
        if isinstance(out, dict):
            if "service" not in out and "flow" in out:
                out["service"] = out["flow"]
            if out.get("ts") is None and out.get("iso") is not None:
                out["ts"] = unix_of("iso", out["iso"])
            if out.get("ts") is not None:
                out.setdefault("iso", iso_of("ts", out["ts"]))
                out.setdefault("run_date", str(out["iso"])[:10])
        return out


class MetaHealth(Payload, frozen=True, kw_only=True):
    """Health of the machinery: `rm_meta` and every sensor in [0, 1]."""

    SOURCE: ClassVar[str] = "timestamp"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    rm_meta: Fraction
    status: Literal["GREEN", "DEGRADED", "CRITICAL", "DEAD"]
    m4_control_plane: Fraction
    m1_data_infra: Fraction
    m1_trader: Fraction
    m2_heartbeat: Fraction
    m3_data_freshness: Fraction
    m5_coherence: Fraction
    service_status: dict[str, Any] = {}
    hz_key_status: dict[str, Any] = {}
    timestamp: str


class SignalPayload(Payload, frozen=True, kw_only=True):
    """The last decision of a deployment.

    `lanes` are multipliers by name, `conviction` the internal leverage.
    """

    SOURCE: ClassVar[str] = "timestamp"
    SEQUENCE: ClassVar[str] = "scan_number"
    ISO: ClassVar[tuple[str, ...]] = ("timestamp",)

    asset: str | None
    action: str
    vel_div: float
    confidence: float | None = None
    lanes: dict[str, float] = {}
    conviction: float | None = None
    reason: str = ""
    scan_number: Count
    timestamp: str | None = None

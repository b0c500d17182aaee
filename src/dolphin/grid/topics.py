"""Where the grid's values live: map, key, aliases and writer of every payload, and its bytes.

Entry points: the `Topic` constants (`SCAN`, `SAFETY`, ...) and `TOPICS`; `topic_of`, `encode`, `decode` and
`Rejections`. The payload classes are those of `dolphin.grid.payloads`; the typed door to a grid is
`dolphin.grid.typed`.

Invariants
----------
1. On the wire a payload is one JSON value in UTF-8. A finite float comes back bit for bit; NaN and infinities
   have no JSON form, so `encode` refuses them instead of letting them become null.
2. `decode` returns a payload that keeps every rule of its class, or raises PayloadRejected, which names the
   map, the key, the field and the rule. Nothing else ever comes out of it, whatever the bytes.
3. An older form takes a second, slower path that a well-formed payload never takes.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from dolphin.domain.errors import nearest
from dolphin.grid.payloads import (
    WHOLE,
    AcbBoost,
    AcbState,
    AssetBook,
    EngineSnapshot,
    EsofPayload,
    ExfPayload,
    FieldError,
    ForewarnerPayload,
    Heartbeat,
    LastTrade,
    MetaHealth,
    NonNegative,
    ObfLatest,
    ObfUniverse,
    Payload,
    PayloadRejected,
    PnlDay,
    Posture,
    RawBook,
    SafetyPayload,
    ScanPayload,
    ShardFeatures,
    SignalPayload,
    StateLatest,
    StateNautilus,
    unix_of,
)

# --- topics -------------------------------------------------------------------------------------------------

P = TypeVar("P")

_PARTS = {
    "symbol": r"[A-Z0-9]{2,24}",
    "feature": r"[A-Za-z0-9_]+",
    "shard": r"0\d",
    "deployment": r"[A-Za-z0-9]+",
    "date": r"\d{4}-\d{2}-\d{2}",
    "strategy": r"[A-Za-z0-9_.-]+",
    "service": r"[A-Za-z0-9_.-]+",
}


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(_PARTS[p] if i % 2 else re.escape(p) for i, p in enumerate(pieces)))


class Topic(Generic[P]):
    """One line of the table: where a payload lives, what it is and who writes it.

    `map_template` and `key_template` have parts in braces (`asset_{symbol}_ob`), filled by `map_name` and
    `key`. `aliases` are keys under which the same payload is written too. `lock` names the fenced lock that a
    writer holds.
    """

    __slots__ = (
        "_decoder",
        "_key_re",
        "_map_re",
        "aliases",
        "key_template",
        "lock",
        "map_template",
        "type",
        "writer",
    )

    def __init__(
        self,
        map_template: str,
        key_template: str,
        payload: Any,
        writer: str,
        *,
        aliases: Sequence[str] = (),
        lock: str | None = None,
    ) -> None:
        self.map_template = map_template
        self.key_template = key_template
        self.type = payload
        self.writer = writer
        self.aliases = tuple(aliases)
        self.lock = lock
        self._decoder = msgspec.json.Decoder(payload)
        self._map_re = _pattern(map_template)
        self._key_re = re.compile("|".join(_pattern(k).pattern for k in (key_template, *aliases)))

    def __repr__(self) -> str:
        return f"Topic({self.map_template}[{self.key_template!r}])"

    def map_name(self, **parts: str) -> str:
        """The map's name with its parts filled in. Raises KeyError for a part that is not given."""
        return self.map_template.format(**parts)

    def key(self, **parts: str) -> str:
        """The key with its parts filled in. Raises KeyError for a part that is not given."""
        return self.key_template.format(**parts)

    def covers(self, map_name: str, key: str) -> bool:
        """Whether this topic declares the payload of that map and key, aliases included."""
        return self._map_re.fullmatch(map_name) is not None and self._key_re.fullmatch(key) is not None

    def decode(self, map_name: str, key: str, data: bytes) -> P:
        """The payload in `data`, which stood at `map_name`[`key`].

        Raises PayloadRejected and nothing else.
        """
        try:
            payload = self._decoder.decode(data)
            if isinstance(payload, Payload):
                payload.check()
        except (ValueError, OverflowError, RecursionError) as first:
            # msgspec's errors are ValueErrors. The strict reading failed: it may be an older form.
            return self._decode_older(map_name, key, data, first)
        return cast(P, payload)

    def _decode_older(self, map_name: str, key: str, data: bytes, first: Exception) -> P:
        normalise: Callable[[Any], Any] = getattr(self.type, "normalise", _NORMALISE.get(id(self), _as_it_is))
        try:
            try:
                raw = msgspec.json.decode(data)
            except ValueError:
                if self is not SAFETY_POSTURE:
                    raise first from None
                raw = data.decode()
            payload = msgspec.convert(normalise(raw), self.type)
            if isinstance(payload, Payload):
                payload.check()
        except (ValueError, OverflowError, RecursionError) as error:
            raise PayloadRejected(map_name, key, *_field_and_rule(error)) from error
        return cast(P, payload)


def _as_it_is(raw: Any) -> Any:
    return raw


_AT = re.compile(r"^(?P<rule>.*?)(?: - at `(?P<path>\$?.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")


def _field_and_rule(error: Exception) -> tuple[str, str]:
    """Where a payload fails and which rule it breaks, out of msgspec's message or our own error."""
    if isinstance(error, FieldError):
        return error.field, error.rule
    match = _AT.match(str(error))
    rule = match["rule"] if match else str(error)
    path = ((match["path"] if match else None) or "").removeprefix("$").removeprefix(".")
    missing = _MISSING.search(rule)
    if missing:
        name = missing["name"]
        return (f"{path}.{name}" if path else name), "missing"
    return path or WHOLE, rule


SCAN: Topic[ScanPayload] = Topic("DOLPHIN_FEATURES", "latest_eigen_scan", ScanPayload, "scanner or bridge")
SAFETY: Topic[SafetyPayload] = Topic("DOLPHIN_SAFETY", "latest", SafetyPayload, "survival watchdog")
SAFETY_POSTURE: Topic[str] = Topic("DOLPHIN_SAFETY", "posture", Posture, "survival watchdog")
ACB_BOOST: Topic[AcbBoost] = Topic(
    "DOLPHIN_FEATURES", "acb_boost", AcbBoost, "ACB processor", lock="acb_writer"
)
ACB_STATE: Topic[AcbState] = Topic(
    "DOLPHIN_FEATURES", "acb_state_latest", AcbState, "ACB processor", lock="acb_writer"
)
EXF: Topic[ExfPayload] = Topic(
    "DOLPHIN_FEATURES", "exf_latest", ExfPayload, "ExF daemon", aliases=("ext_features_latest",)
)
ASSET_OB: Topic[AssetBook] = Topic("DOLPHIN_FEATURES", "asset_{symbol}_ob", AssetBook, "OB flow")
OBF: Topic[ObfLatest] = Topic(
    "DOLPHIN_FEATURES", "obf_latest", ObfLatest, "OB flow", aliases=("obf_features_latest",)
)
OBF_UNIVERSE: Topic[ObfUniverse] = Topic(
    "DOLPHIN_FEATURES", "obf_universe_latest", ObfUniverse, "universe service"
)
FOREWARNER: Topic[ForewarnerPayload] = Topic(
    "DOLPHIN_FEATURES", "mc_forewarner_latest", ForewarnerPayload, "forewarner flow"
)
ESOF: Topic[EsofPayload] = Topic("DOLPHIN_FEATURES", "esof_latest", EsofPayload, "EsoF producer")
SHARD_FEATURES: Topic[ShardFeatures] = Topic(
    "DOLPHIN_FEATURES_SHARD_{shard}", "{symbol}", ShardFeatures, "OB flow"
)
SHARD_FEATURE: Topic[Any] = Topic(
    "DOLPHIN_FEATURES_SHARD_{shard}", "{feature}_{symbol}", Any, "sharded store"
)
RAW_BOOK: Topic[RawBook] = Topic("DOLPHIN_OB", "{symbol}", RawBook, "OB flow")
PNL_DAY: Topic[PnlDay] = Topic("DOLPHIN_PNL_{deployment}", "{date}", PnlDay, "hosts")
LAST_TRADE: Topic[LastTrade] = Topic("DOLPHIN_PNL_{deployment}", "latest_trade", LastTrade, "hosts")
STATE: Topic[StateLatest] = Topic("DOLPHIN_STATE_{deployment}", "latest", StateLatest, "hosts")
STATE_NAUTILUS: Topic[StateNautilus] = Topic(
    "DOLPHIN_STATE_{deployment}", "latest_nautilus", StateNautilus, "Nautilus flow"
)
ENGINE_SNAPSHOT: Topic[EngineSnapshot] = Topic(
    "DOLPHIN_STATE_{deployment}", "engine_snapshot", EngineSnapshot, "hosts"
)
RUN_SNAPSHOT: Topic[EngineSnapshot] = Topic(
    "DOLPHIN_STATE_{deployment}", "state_{strategy}_{date}", EngineSnapshot, "hosts"
)
HEARTBEAT: Topic[Heartbeat] = Topic("DOLPHIN_HEARTBEAT", "{service}_heartbeat", Heartbeat, "each service")
HEARTBEAT_LATEST: Topic[Heartbeat] = Topic("DOLPHIN_HEARTBEAT", "latest", Heartbeat, "each service")
PROBE: Topic[float] = Topic("DOLPHIN_HEARTBEAT", "probe_ts", NonNegative, "each service")
META_HEALTH: Topic[MetaHealth] = Topic("DOLPHIN_META_HEALTH", "latest", MetaHealth, "MHS")
SIGNAL: Topic[SignalPayload] = Topic("DOLPHIN_SIGNALS", "{deployment}_latest", SignalPayload, "signal bridge")

TOPICS: tuple[Topic[Any], ...] = (
    SCAN, SAFETY, SAFETY_POSTURE, ACB_BOOST, ACB_STATE, EXF, ASSET_OB, OBF, OBF_UNIVERSE, FOREWARNER, ESOF,
    SHARD_FEATURES, SHARD_FEATURE, RAW_BOOK, PNL_DAY, LAST_TRADE, STATE, STATE_NAUTILUS, ENGINE_SNAPSHOT,
    RUN_SNAPSHOT, HEARTBEAT, HEARTBEAT_LATEST, PROBE, META_HEALTH, SIGNAL,
)  # fmt: skip

#: The log of the last scans, `ScanPayload` each, from which a reader that was away catches up.
SCAN_LOG = "DOLPHIN_SCAN_LOG"
SCAN_LOG_CAPACITY = 1000
#: The reference that wins over `DOLPHIN_SAFETY["latest"]`.
SAFETY_REFERENCE = "DOLPHIN_SAFETY"

_NORMALISE: dict[int, Callable[[Any], Any]] = {
    id(SAFETY_POSTURE): lambda raw: "STALKER" if raw == "CAUTION" else raw,
    id(PROBE): lambda raw: unix_of(WHOLE, raw),
}


@lru_cache(maxsize=4096)
def _find(map_name: str, key: str) -> Topic[Any] | None:
    return next((topic for topic in TOPICS if topic.covers(map_name, key)), None)


def topic_of(map_name: str, key: str) -> Topic[Any]:
    """The topic that declares `map_name`[`key`]. Raises PayloadRejected when none does."""
    topic = _find(map_name, key)
    if topic is None:
        known = {t.key_template for t in TOPICS if t._map_re.fullmatch(map_name)}
        if known:
            rule = f"no payload is declared for this key.{nearest(key, known)}"
        else:
            rule = (
                f"no payload is declared for this map.{nearest(map_name, {t.map_template for t in TOPICS})}"
            )
        raise PayloadRejected(map_name, key, WHOLE, rule)
    return topic


# Keys of dictionaries are sorted, so that equal payloads have equal bytes: references compare bytes.
_encoder = msgspec.json.Encoder(order="deterministic")


def encode(payload: Any) -> bytes:
    """JSON in UTF-8 of a payload or of any JSON value; equal payloads have equal bytes.

    Raises ValueError naming the field that is not finite.
    """
    data = _encoder.encode(payload)
    # NaN and infinities are encoded as null. Only a text that has a null somewhere needs the slow look.
    if b"null" in data and not _all_finite(payload):
        path = _not_finite(payload, "") or WHOLE
        raise ValueError(f"{path} is not finite; write None where a value is unknown")
    return data


def _all_finite(value: Any) -> bool:
    """Whether no float inside is NaN or infinite; columns of floats are looked at without a call for each."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (str, int)) or value is None:
        return True
    children: Any
    if isinstance(value, msgspec.Struct):
        children = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, Mapping):
        children = value.values()
    elif isinstance(value, (list, tuple)):
        children = value
    else:
        return True
    try:
        return all(map(math.isfinite, children))
    except (TypeError, OverflowError):
        return all(map(_all_finite, children))


def _not_finite(value: Any, path: str) -> str | None:
    """Path of the first float that is NaN or infinite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    children: Sequence[tuple[Any, Any]]
    if isinstance(value, msgspec.Struct):
        children = [(name, getattr(value, name)) for name in value.__struct_fields__]
    elif isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, (list, tuple)):
        children = list(enumerate(value))
    else:
        return None
    for name, child in children:
        step = f"[{name}]" if isinstance(name, int) else f".{name}" if path else str(name)
        found = _not_finite(child, path + step)
        if found is not None:
            return found
    return None


def decode(map_name: str, key: str, data: bytes) -> Any:
    """The payload that `data` holds, as declared for `map_name`[`key`].

    Raises PayloadRejected and nothing else.
    """
    return topic_of(map_name, key).decode(map_name, key, data)


class Rejections:
    """Counts rejected payloads by map, key and field, and keeps the newest. Safe to share between threads."""

    def __init__(self, kept: int = 100) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._newest: deque[PayloadRejected] = deque(maxlen=kept)

    def add(self, rejection: PayloadRejected) -> None:
        """Count one."""
        with self._lock:
            self._counts[rejection.map_name, rejection.key, rejection.field] += 1
            self._newest.append(rejection)

    @property
    def total(self) -> int:
        """How many were counted."""
        with self._lock:
            return self._counts.total()

    @property
    def counts(self) -> dict[tuple[str, str, str], int]:
        """Counts by (map, key, field)."""
        with self._lock:
            return dict(self._counts)

    @property
    def newest(self) -> tuple[PayloadRejected, ...]:
        """The newest rejections, oldest first."""
        with self._lock:
            return tuple(self._newest)

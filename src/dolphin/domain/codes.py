"""Words that kernels carry as small integers, and their names outside.

The integers are part of the canonical decision record: a word is added at the end, never renumbered.
"""

from __future__ import annotations

from typing import Final

# Postures, from most to least permissive.
APEX: Final = 0
STALKER: Final = 1
TURTLE: Final = 2
HIBERNATE: Final = 3
POSTURES: Final = ("APEX", "STALKER", "TURTLE", "HIBERNATE")

# Direction confirmation.
DC_NEUTRAL: Final = 0
DC_CONFIRM: Final = 1
DC_CONTRADICT: Final = 2
DC_NAMES: Final = ("NEUTRAL", "CONFIRM", "CONTRADICT")

# Which direction of an asset ranked higher: the engine's own or the other one.
DIRECT: Final = 0
INVERSE: Final = 1
IRP_ACTIONS: Final = ("DIRECT", "INVERSE")

# What a bar did.
ACTION_NONE: Final = 0
ACTION_ENTER: Final = 1
ACTION_HOLD: Final = 2
ACTION_EXIT: Final = 3
ACTIONS: Final = ("NONE", "ENTER", "HOLD", "EXIT")

# Why: exits first, in the order of their priority, then what kept a bar from entering.
REASON_NONE: Final = 0
HIBERNATE_HALT: Final = 1
SUBDAY_ACB_NORMALIZATION: Final = 2
LIQUIDATION_GUARD: Final = 3
FIXED_TP: Final = 4
STOP_LOSS: Final = 5
VD_ADVERSE_TURN: Final = 6
TREND_RECOVERY: Final = 7
MAX_HOLD: Final = 8
SIGNAL: Final = 9
NO_SIGNAL: Final = 10
WARMING_UP: Final = 11
VOL_GATE: Final = 12
JUST_EXITED: Final = 13
DAY_HALT: Final = 14
POSTURE_HALT: Final = 15
NO_CAPITAL: Final = 16
NO_ASSET: Final = 17
DC_REFUSED: Final = 18
OB_REFUSED: Final = 19
STALE_SCAN: Final = 20
LEDGER_HALT: Final = 21
OPERATOR_HALT: Final = 22
REASONS: Final = (
    "NONE",
    "HIBERNATE_HALT",
    "SUBDAY_ACB_NORMALIZATION",
    "LIQUIDATION_GUARD",
    "FIXED_TP",
    "STOP_LOSS",
    "VD_ADVERSE_TURN",
    "TREND_RECOVERY",
    "MAX_HOLD",
    "SIGNAL",
    "NO_SIGNAL",
    "WARMING_UP",
    "VOL_GATE",
    "JUST_EXITED",
    "DAY_HALT",
    "POSTURE_HALT",
    "NO_CAPITAL",
    "NO_ASSET",
    "DC_REFUSED",
    "OB_REFUSED",
    "STALE_SCAN",
    "LEDGER_HALT",
    "OPERATOR_HALT",
)

# What decided the leverage.
BOUND_NONE: Final = 0
BOUND_RAW: Final = 1
BOUND_LANES: Final = 2
BOUND_ABS_MAX: Final = 3
BOUND_POSTURE: Final = 4
BOUND_MIN: Final = 5
BOUNDS: Final = ("NONE", "RAW", "MAX_LEVERAGE_LANES", "ABS_MAX_LEVERAGE", "POSTURE_CAP", "MIN_LEVERAGE")

# Buckets of vel_div at entry.
BUCKETS: Final = ("extreme", "strong", "moderate", "weak")

# Status of the forewarner's gate.
MC_OK: Final = 0
MC_ORANGE: Final = 1
MC_RED: Final = 2
MC_ABSENT: Final = 3
MC_STATUSES: Final = ("OK", "ORANGE", "RED", "ABSENT")


def posture_code(word: str) -> int:
    """Code of a posture word; `CAUTION` is an alias of STALKER. Raises ValueError for an unknown word."""
    return POSTURES.index("STALKER" if word == "CAUTION" else word)


# What a decision says of its order books besides a provider's name: none are wired, or they went silent.
BOOKS_ABSENT: Final = "absent"
BOOKS_DEGRADED: Final = "degraded"
NO_BOOKS: Final = (BOOKS_ABSENT, BOOKS_DEGRADED)

# What a decision says of the esoteric lane: no producer was ever heard, a fresh score, or none that counts.
ESOF_ABSENT: Final = "absent"
ESOF_OK: Final = "ok"
ESOF_STALE: Final = "stale"

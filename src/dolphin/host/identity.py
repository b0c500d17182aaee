"""What a run is, for every host: the settings that decide its decisions, and what its summary says of it."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dolphin.domain.codes import POSTURES
from dolphin.domain.params import ParameterSet
from dolphin.host.session import Session

#: Where a run's settings keep what they were made with.
CODE_SHA256, DATA_SHA256, COMMAND = "code_sha256", "data_sha256", "command"

NO_BOOKS: Final = (
    "No order books are wired: the order-book edge is a coin flip of the legacy model, shown apart."
)
NO_BTC: Final = "BTCUSDT is not in the universe: the volatility gate stays open."


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The settings that decide the decisions; a run's folder remembers them and a resume compares them.

    forewarner is what decides the forewarner's answers, books and factors where they come from; empty when
    none are wired.
    """

    feed: str
    source: str
    source_id: str
    universe_id: str
    set_name: str
    params: ParameterSet
    deployment: str
    vol_threshold: float
    posture_when_unknown: int
    spectrum: str | None = None
    forewarner: str = ""
    books: str = ""
    factors: str = ""

    def recorded(self) -> dict[str, str]:
        """As the journal's settings keep them."""
        found = {
            "feed": self.feed,
            "source": self.source,
            "source_id": self.source_id,
            "universe_id": self.universe_id,
            "spectrum": self.spectrum or "",
            "set": self.set_name,
            "set_hash": self.params.hash(),
            "parameters": json.dumps(self.params.as_dict(), sort_keys=True),
            "deployment": self.deployment,
            "vol_threshold": repr(self.vol_threshold),
            "posture_when_unknown": POSTURES[self.posture_when_unknown],
            "forewarner": self.forewarner,
            "books": self.books,
            "factors": self.factors,
            "fills": "model",
        }
        if self.spectrum is None:
            del found["spectrum"]
        return found

    def session(self, symbols: Sequence[str]) -> Session:
        """A fresh session. Raises ConfigError when these settings may not trade."""
        return Session(self.params, symbols, deployment=self.deployment, vol_threshold=self.vol_threshold)

    def facts(
        self,
        session: Session,
        folder: Path,
        started: float,
        *,
        bars: int,
        counts: Mapping[str, int],
        interrupted: bool,
        **more: Any,
    ) -> dict[str, Any]:
        """What the journal cannot know; counts of nothing are left out. started is of time.monotonic()."""
        return {
            "feed": self.feed,
            "set": self.set_name,
            "bars": bars,
            "source": self.source,
            "deployment": self.deployment,
            "counts": {key: n for key, n in sorted(counts.items()) if n},
            **more,
            "halted": session.halted,
            "interrupted": interrupted,
            "folder": str(folder),
            "wall_s": round(time.monotonic() - started, 3),
        }


def warnings_of(session: Session) -> list[str]:
    """What a person must know of any run over this universe."""
    return [NO_BTC] if session.btc_missing else []


@functools.cache
def code_sha256() -> str:
    """SHA-256 (hex) over the package's Python sources: their paths inside it and their bytes, sorted."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def data_sha256(days: Mapping[str, str]) -> str:
    """SHA-256 (hex) over the days of a cache and the SHA-256 of each one's file, in their order."""
    return hashlib.sha256("".join(f"{day} {days[day]}\n" for day in sorted(days)).encode()).hexdigest()


def command_line() -> list[str]:
    """The words after the program's name, for a run's settings."""
    return list(sys.argv[1:])

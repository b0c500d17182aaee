"""Which kill switch a folder means: a system's, or the own one of a run on live prices.

Entry point: `switch_of`. It reads two small files at most and needs no extra: it is the operator's way out.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from dolphin.domain.errors import DolphinError, UsageError
from dolphin.services.home import Home
from dolphin.services.kill_switch import SWITCH_FILE

#: What `dolphin run` leaves in its folder, and the feeds whose runs hear a switch.
SETTINGS_FILE: Final = "settings.json"
JOURNAL_FILE: Final = "journal.db"
LIVE_FEEDS: Final = ("binance",)


class SwitchFolder(NamedTuple):
    """The switch's file, and what stands in the way of its being heard at once; empty for nothing."""

    path: Path
    note: str = ""


def switch_of(folder: Path) -> SwitchFolder:
    """The switch of a folder. A system whose settings are lost counts by anything else that it left.

    Raises UsageError, in one line, for a folder that is neither, and for a run that hears no switch.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: no such folder; give the folder of a system, or of a live run, with --home"
        )
    home = Home(folder)
    left = (home.settings_file, home.trader, home.market, home.supervisor, home.run_logs)
    if any(path.exists() for path in left):
        return SwitchFolder(home.kill_switch)
    if Home(folder.parent).settings_file.exists():
        raise UsageError(f"{folder}: the system is in the folder above; give --home {folder.parent}")
    settings = _json(folder / SETTINGS_FILE)
    if settings is None:
        if home.kill_switch.exists():
            return SwitchFolder(home.kill_switch)
        raise UsageError(
            f"{folder}: neither a system (system.json) nor a run on live prices (settings.json) is here;"
            " nothing would hear a switch"
        )
    feed = settings.get("feed")
    if feed not in LIVE_FEEDS:
        raise UsageError(
            f"{folder}: a run of {feed or 'a scan cache'}, which hears no switch; one on live prices does,"
            " `dolphin run --feed binance`"
        )
    return SwitchFolder(folder / SWITCH_FILE, _over(folder))


def _over(folder: Path) -> str:
    """What a run that has ended should be told of; one that nobody can ask counts as going on."""
    from dolphin.journal.store import Journal

    try:
        with contextlib.closing(Journal.read_only(folder / JOURNAL_FILE)) as journal:
            status = journal.meta().get("status", "")
    except (DolphinError, OSError):
        return ""
    if status in ("finished", "interrupted"):
        return f"the run here is {status}: the switch holds from the next `dolphin run --resume` on"
    return ""


def _json(path: Path) -> dict[str, Any] | None:
    """None where there is none; one that nobody can read is a run's all the same."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {"feed": LIVE_FEEDS[0]}
    return found if isinstance(found, dict) else {"feed": LIVE_FEEDS[0]}

"""The research extra: its libraries are loaded where they are used, and their absence is one line."""

from __future__ import annotations

import importlib
from typing import Any

from dolphin.domain.errors import UsageError


def library(name: str) -> Any:
    """The module of that name (like `arch.bootstrap`).

    Raises
    ------
    UsageError
        If the research extra is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise UsageError(
            f"{missing} is missing: statistics need the research extra; install it with make research"
        ) from error

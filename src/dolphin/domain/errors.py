"""Errors people meet. Each message is one line: what, where, the rule, the way out.

The command line prints the message of a `DolphinError` and exits with its `exit_code`; anything else is a
bug, told in one line with the file that keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DolphinError(Exception):
    """Base of every error that a person can act on."""

    exit_code = 1


class UsageError(DolphinError):
    """The command was asked for something that does not exist or makes no sense."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is refused."""


class DriftError(DolphinError):
    """A named parameter set no longer has the hash that the code base records for it."""


class DataError(DolphinError):
    """Recorded or received data break the rule that they must follow."""


class StoreError(DolphinError):
    """A file or folder cannot be read or written."""


class InvariantError(DolphinError):
    """The ledger or the engine broke one of its own rules: no new entries until a person has looked."""


class FenceError(DolphinError):
    """Another writer holds a higher fence: whoever gets this must stop writing at once."""


def plural(count: int, word: str) -> str:
    """`1 bar`, `2 bars`, `1,000 bars`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""

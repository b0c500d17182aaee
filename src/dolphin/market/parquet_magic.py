"""Whether a file is Parquet at all, said in our words before a library says it in its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from dolphin.domain.errors import DataError

_MAGIC: Final = b"PAR1"


def require_parquet(path: Path, expected: str = "") -> None:
    """Raise DataError for a file without Parquet's marks at both ends, with `expected` as what belongs there.

    What cannot be opened is left to whoever reads it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_MAGIC)))
            whole = head == file.read() == _MAGIC and size > 2 * len(_MAGIC)
    except OSError:
        return
    if not whole:
        raise DataError(f"{path}: is no Parquet file, or a cut-off one{expected and f'; {expected}'}")

"""Small recordings, in the shape of the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from factor_files import write_recordings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve days of all four factors, 2025-03-01 to 2025-03-12."""
    made = tmp_path / "factors"
    write_recordings(made)
    return made

"""A supervised system with live senses survives what its exchange and the kernel do to it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from .senses import senses_in
from .senses_faults import FAULTS, QUICK

pytestmark = [
    pytest.mark.xdist_group("real-system"),
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java for the grid's member"),
    pytest.mark.skipif(importlib.util.find_spec("supervisor") is None, reason="needs the services extra"),
    pytest.mark.skipif(importlib.util.find_spec("ccxt") is None, reason="needs the feeds extra"),
]


def test_senses_come_back_and_the_trader_goes_on_meanwhile(tmp_path: Path) -> None:
    with senses_in(tmp_path / "home", quick=True, life_s=400.0) as system:
        for fault in QUICK:
            row = system.hurt(fault)
            print(row.told())
            assert not [*system.broken, *fault.broken(row)], row.told()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_fault_of_the_table(tmp_path: Path) -> None:
    """The table of `python -m chaos.senses_faults`, with what each row has to be."""
    with senses_in(tmp_path / "home", quick=False, life_s=3600.0) as system:
        broken = []
        for fault in FAULTS:
            system.forget()
            row = system.hurt(fault)
            print(row.told())
            broken += fault.broken(row)
        assert not [*system.broken, *broken]

"""Chaos with real processes: five seeds, one of each scenario."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from .processes import SCENARIOS, run_scenario

pytestmark = [
    pytest.mark.xdist_group("real-system"),
    pytest.mark.skipif(shutil.which("java") is None, reason="needs Java for the grid's members"),
    pytest.mark.skipif(importlib.util.find_spec("supervisor") is None, reason="needs the services extra"),
]


@pytest.mark.parametrize(("seed", "name"), list(enumerate(SCENARIOS)))
def test_real_processes_survive(seed: int, name: str) -> None:
    result = run_scenario(name, seed)
    assert not result.broken, [*result.broken, f"rerun: python tools/chaos.py --real --seed {seed}"]
    print(result.told)

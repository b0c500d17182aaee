"""One small forewarner, really trained, for every test that asks it something."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_market import VOL_THRESHOLD, make_record

from dolphin.research.forewarner.artefact import save
from dolphin.research.forewarner.markets import Record
from dolphin.research.forewarner.train import Trained, TrainSettings, train

SETTINGS = TrainSettings(n_trials=512, days_per_trial=8, seed=1, vol_threshold=VOL_THRESHOLD)


@pytest.fixture(scope="session")
def record() -> Record:
    """Twelve made-up days on which about a tenth of the configurations come to ruin."""
    return make_record(volatility=0.02)


@pytest.fixture(scope="session")
def settings() -> TrainSettings:
    """What the small forewarner was trained with."""
    return SETTINGS


@pytest.fixture(scope="session")
def trained(record: Record) -> Trained:
    """Its models and what is recorded of them."""
    return train(record, SETTINGS)


@pytest.fixture(scope="session")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of it; tests copy it before they damage anything."""
    where = tmp_path_factory.mktemp("forewarner") / "artefact"
    save(trained, where)
    return where

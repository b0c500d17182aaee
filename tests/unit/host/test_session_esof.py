"""The esoteric lane's label in decisions and replays."""

from __future__ import annotations

import numpy as np

from dolphin.domain.decision import Decision
from dolphin.domain.params import GOLD
from dolphin.domain.scan import ScanRow
from dolphin.host.inputs import HostInputs
from dolphin.host.session import Session

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
ROW = ScanRow(1, 1_767_571_200_000_000_000, 0.0, 0.0, 0.0, float("nan"), np.ones(3))


def decided(session: Session, inputs: HostInputs) -> Decision:
    step = session.on_scan(ROW, inputs=inputs)
    assert step is not None
    return step.decision


def test_a_decision_says_what_its_haircut_comes_from() -> None:
    for mult, label in ((1.0, "absent"), (0.8, "ok"), (0.4, "stale")):
        decision = decided(Session(GOLD, SYMBOLS), HostInputs(esof_mult=mult, esof_label=label))
        assert (decision.esof_mult, decision.esof) == (mult, label)


def test_a_bar_made_again_has_the_same_label() -> None:
    decision = decided(Session(GOLD, SYMBOLS), HostInputs(esof_mult=0.4, esof_label="stale"))
    assert Session(GOLD, SYMBOLS).replay(ROW, decision).decision == decision

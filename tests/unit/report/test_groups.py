"""Breakdowns count every closed trade once, and their money adds up."""

from __future__ import annotations

import math

import pytest

from dolphin.report import groups


def test_every_breakdown_is_a_partition(make_report):
    closed = make_report(n_trades=40, leave_open=True).closed
    net = math.fsum(t.net for t in closed)
    for split in (groups.by_reason, groups.by_asset, groups.by_hour, groups.by_bucket):
        parts = split(closed)
        assert sum(g.n_trades for g in parts) == len(closed)
        assert math.fsum(g.net for g in parts) == pytest.approx(net, abs=1e-9)
        assert sum(g.n_wins for g in parts) == sum(t.net > 0 for t in closed)


def test_many_assets_are_put_together(make_report):
    closed = make_report(n_trades=40).closed
    parts = groups.by_asset(closed, n_max=4)
    assert len(parts) == 4
    assert sum(g.n_trades for g in parts) == len(closed)
    assert sum(g.label.startswith("others (") for g in parts) == 1


def test_hours_and_buckets_are_always_there():
    assert [g.label for g in groups.by_hour(())] == [f"{h:02d}" for h in range(24)]
    assert [g.label for g in groups.by_bucket(())] == ["extreme", "strong", "moderate", "weak"]
    assert groups.by_hour(())[0].win_rate is None


def test_legs_add_up_to_the_booked_net(make_report):
    trades = make_report(n_trades=40).trades
    legs = groups.legs_of(trades)
    assert legs.net == pytest.approx(math.fsum(t.net for t in trades), abs=1e-9)
    assert legs.real_net == pytest.approx(legs.net - legs.ob_edge, abs=1e-9)


def test_lane_stats(make_report):
    trades = make_report(n_trades=40).trades
    one = groups.lane_stats(trades, "esof")
    assert (one.lowest, one.highest, one.n_raised) == (0.85, 1.0, 0)
    assert one.n_cut == sum(t.lanes["esof"] < 1 for t in trades)
    assert groups.lane_stats(trades, "dc").n_cut == 0

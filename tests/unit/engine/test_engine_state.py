"""Options, the kernel's form of a parameter set, and the state before the first bar."""

from __future__ import annotations

import numpy as np
import pytest

from dolphin.domain import codes
from dolphin.domain.errors import ConfigError
from dolphin.domain.params import CHAMPION, GOLD
from dolphin.engine import state as st


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"irp_steps": "log"}, "irp_steps is 'log', expected absolute or relative"),
        ({"proxy_mode": "on"}, "proxy_mode is 'on', expected none or proxy"),
        ({"tf_exhaust_ratio": -0.1}, "tf_exhaust_ratio is -0.1, expected 0 to 1"),
        ({"fee_scale": -0.1}, "fee_scale is -0.1, expected 0 to 100"),
        ({"slippage_scale": 101.0}, "slippage_scale is 101.0, expected 0 to 100"),
        ({"tf_flip_ratio": 1.1}, "tf_flip_ratio is 1.1, expected 0 to 1"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        st.EngineOptions(**values)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_options_on_their_edges_are_taken() -> None:
    st.EngineOptions(tf_exhaust_ratio=0.0, tf_flip_ratio=1.0, irp_steps="relative", proxy_mode="proxy")


def test_every_parameter_reaches_its_own_slot() -> None:
    """Each parameter of the set is moved alone; exactly the slot of its meaning moves with it."""
    slots = {
        "min_leverage": "min_leverage",
        "max_leverage": "max_leverage",
        "abs_max_leverage": "abs_max_leverage",
        "leverage_convexity": "convexity",
        "fraction": "fraction",
        "fixed_tp_pct": "tp",
        "stop_pct": "sl",
        "max_hold_bars": "max_hold",
        "use_direction_confirm": "use_dc",
        "dc_lookback_bars": "dc_lookback",
        "dc_min_magnitude_bps": "dc_min_bps",
        "dc_skip_contradicts": "dc_skip",
        "dc_leverage_boost": "dc_boost",
        "dc_leverage_reduce": "dc_reduce",
        "use_asset_selection": "use_selection",
        "min_irp_alignment": "min_alignment",
        "use_sp_fees": "use_fees",
        "use_sp_slippage": "use_slippage",
        "sp_maker_entry_rate": "maker_entry",
        "sp_maker_exit_rate": "maker_exit",
        "use_ob_edge": "use_ob_edge",
        "ob_edge_bps": "ob_edge_bps",
        "ob_confirm_rate": "ob_confirm_rate",
        "lookback": "lookback",
        "vd_trend_lookback": "trend_lookback",
        "use_alpha_layers": "use_layers",
        "use_dynamic_leverage": "use_dynamic_leverage",
        "liquidation_guard": "liquidation_guard",
        "vel_div_extreme": "extreme",
        "vel_div_threshold": "threshold",
    }
    symbols, options = ["BTCUSDT", "USDCUSDT"], st.EngineOptions()
    base = st.step_params(CHAMPION, symbols, options)
    for name, slot in slots.items():
        value = getattr(CHAMPION, name)
        other = (
            (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 0.9
        )
        moved = st.step_params(CHAMPION.with_values({name: other}), symbols, options)
        differing = [
            field for field in base._fields if not np.array_equal(getattr(base, field), getattr(moved, field))
        ]
        assert differing == [slot], name
        assert getattr(moved, slot) == other


def test_options_reach_their_slots() -> None:
    options = st.EngineOptions(
        irp_steps="relative", vd_enabled=True, tf_enabled=True, tf_exhaust_ratio=0.1, tf_flip_ratio=0.2,
        proxy_mode="proxy", fee_scale=2.0, slippage_scale=3.0,
    )  # fmt: skip
    p = st.step_params(GOLD, ["USDCUSDT", "BTCUSDT"], options)
    assert (p.relative_irp, p.vd_enabled, p.tf_enabled, p.proxy_mode) == (True, True, True, True)
    assert (p.tf_exhaust_ratio, p.tf_flip_ratio) == (0.1, 0.2)
    assert (p.fee_scale, p.slippage_scale) == (2.0, 3.0)
    assert p.btc == 1
    assert st.excluded_assets(GOLD, ["USDCUSDT", "BTCUSDT"]).tolist() == [True, False]
    assert st.excluded_assets(CHAMPION, ["USDCUSDT"]).tolist() == [False]
    assert st.step_params(GOLD, ["ETHUSDT"], options).btc == st.NONE


def test_a_new_state_is_neutral() -> None:
    s = st.new_state(3, 500.0)
    floats = dict(zip(st.FLOAT_NAMES, s.floats.tolist(), strict=True))
    ints = dict(zip(st.INT_NAMES, s.ints.tolist(), strict=True))
    ones = {"boost", "mc_scale", "regime_size_mult", "proxy_scale"}
    assert {k for k, v in floats.items() if v == 1.0} == ones
    assert {k for k, v in floats.items() if v == 500.0} == {"capital", "day_start_capital"}
    assert all(v == 0.0 for k, v in floats.items() if k not in ones | {"capital", "day_start_capital"})
    assert {k for k, v in ints.items() if v == st.NONE} == {
        "last_bar",
        "last_exit_bar",
        "position",
        "entry_bar",
    }
    assert ints["posture"] == codes.APEX
    assert ints["mc_status"] == codes.MC_ABSENT
    assert s.prices.shape == (st.HISTORY_MAX + 1, 3)
    assert s._fields[: s._fields.index("first")] == st.SAVED


def test_absent_books_are_absent() -> None:
    books = st.absent_books(4)
    assert books.present is False
    assert [getattr(books, name).shape for name in st.BOOK_ARRAYS] == [(4,)] * 5
    assert all(isinstance(getattr(books, name), np.ndarray) for name in st.BOOK_ARRAYS)
    assert sum(isinstance(value, np.ndarray) for value in books) == 5

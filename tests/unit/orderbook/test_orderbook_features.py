"""Features of one book and of its past."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.orderbook.features import book_features, imbalance_persistence, withdrawal_velocity

BID = np.array([30.0, 5.0, 4.0, 3.0, 2.0])
ASK = np.array([10.0, 6.0, 4.0, 1.0, 1.0])


def test_a_book_by_hand() -> None:
    depth, imbalance, quality, fill, spread, asymmetry = book_features(BID, ASK, 20.0)
    assert depth == 40.0
    assert imbalance == (44.0 - 22.0) / 66.0
    assert quality == 2.0
    assert fill == 2.0 / 3.0
    assert spread == 100.0 * (1.0 - 40.0 / 66.0)
    assert asymmetry == 20.0 / 40.0 - (14.0 - 12.0) / 26.0


def test_an_empty_book_is_neutral_and_wide() -> None:
    empty = np.zeros(5)
    assert book_features(empty, empty, 20.0) == (0.0, 0.0, 0.0, 0.0, 100.0, 0.0)


def test_one_side_only() -> None:
    empty = np.zeros(5)
    assert book_features(BID, empty, 30.0)[1:4] == (1.0, 1.0, 0.5)
    assert book_features(empty, ASK, 30.0)[1] == -1.0


def test_nothing_near_or_nothing_far() -> None:
    near, far = np.array([8.0, 0, 0, 0, 0]), np.array([0.0, 8, 0, 0, 0])
    assert book_features(near, near / 4, 1.0)[5] == 6.0 / 10.0
    assert book_features(far, far / 4, 1.0) == (0.0, 6.0 / 10.0, 0.0, 0.0, 100.0, -6.0 / 10.0)


@pytest.mark.parametrize("reference", [0.0, -5.0])
def test_without_a_reference_there_is_no_quality(reference: float) -> None:
    assert book_features(BID, ASK, reference)[2:4] == (0.0, 0.0)
    assert book_features(BID, ASK, 1e-300)[2] > 0.0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1e9), min_size=10, max_size=10), st.floats(1e-3, 1e9))
def test_features_keep_their_ranges(sizes: list[float], reference: float) -> None:
    depth, imbalance, quality, fill, spread, asymmetry = book_features(
        np.array(sizes[:5]), np.array(sizes[5:]), reference
    )
    assert depth >= 0.0
    assert quality >= 0.0
    assert -1.0 <= imbalance <= 1.0
    assert 0.0 <= fill <= 1.0
    assert -1e-9 <= spread <= 100.0
    assert -2.0 <= asymmetry <= 2.0
    mirrored = book_features(np.array(sizes[5:]), np.array(sizes[:5]), reference)
    assert mirrored[1] == -imbalance
    assert mirrored[2] == quality


@pytest.mark.parametrize(
    ("depths", "lookback", "velocity"),
    [
        ([], 60, 0.0),
        ([5.0], 60, 0.0),
        ([4.0, 5.0], 60, 0.25),
        ([4.0, 5.0], 0, 0.0),
        ([1.0, 4.0, 5.0], 1, 0.25),
        ([1.0, 4.0, 5.0], 2, 4.0),
        ([1.0, 4.0, 5.0], 3, 4.0),
        ([0.0, 5.0], 1, 0.0),
        ([-1.0, 5.0], 1, 0.0),
        ([8.0, 2.0], 1, -0.75),
    ],
)
def test_withdrawal_looks_back_as_far_as_it_can(depths: list[float], lookback: int, velocity: float) -> None:
    assert withdrawal_velocity(np.array(depths), lookback) == velocity


@pytest.mark.parametrize(
    ("imbalances", "n", "share"),
    [
        ([], 10, 0.0),
        ([0.5, 0.0], 10, 0.0),
        ([0.5], 10, 1.0),
        ([-0.5], 10, 1.0),
        ([0.5, -0.5, 0.0, 0.2], 10, 0.5),
        ([0.5, -0.5, 0.0, -0.2], 10, 0.5),
        ([0.5, -0.5, 0.0, 0.2], 3, 1 / 3),
        ([0.5, -0.5, 0.0, 0.2], 4, 0.5),
        ([-0.1] * 5 + [0.1] * 10, 10, 1.0),
        ([-0.1] * 5 + [0.1] * 10, 15, 10 / 15),
        ([0.3, 0.0, 0.3], 3, 2 / 3),
        ([-0.3, 0.0, -0.3], 3, 2 / 3),
    ],
)
def test_persistence_is_the_share_with_the_newest_sign(imbalances: list[float], n: int, share: float) -> None:
    assert imbalance_persistence(np.array(imbalances), n) == share

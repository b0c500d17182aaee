"""Splits: no day on both sides, embargoes kept, skfolio's own splits where folds divide the days."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV, WalkForward

from dolphin.domain.errors import UsageError
from dolphin.research import extra, splits


@given(st.integers(3, 120), st.integers(1, 40), st.integers(1, 20), st.integers(0, 5))
def test_walk_forward_trains_on_the_past_and_tests_every_later_day_once(
    n_days: int, train_days: int, test_days: int, embargo_days: int
) -> None:
    if n_days <= train_days + embargo_days:
        with pytest.raises(UsageError, match="leave none to test"):
            splits.walk_forward(n_days, train_days=train_days, test_days=test_days, embargo_days=embargo_days)
        return
    windows = splits.walk_forward(
        n_days, train_days=train_days, test_days=test_days, embargo_days=embargo_days
    )
    tested = np.concatenate([w.test for w in windows])
    assert tested.tolist() == list(range(train_days + embargo_days, n_days))
    for window in windows:
        assert len(window.train) == train_days
        assert window.test[0] - window.train[-1] == embargo_days + 1
        assert window.train[0] >= 0


def test_walk_forward_is_that_of_skfolio_where_test_parts_divide_the_days() -> None:
    theirs = list(WalkForward(test_size=4, train_size=10, purged_size=2).split(np.zeros((36, 1))))
    ours = splits.walk_forward(36, train_days=10, test_days=4, embargo_days=2)
    # skfolio takes the gap out of the train part, we put it before the test part.
    assert [w.test.tolist() for w in ours] == [test.tolist() for _, test in theirs]
    assert all(train[-1] == w.train[-1] for (train, _), w in zip(theirs, ours, strict=True))


@pytest.mark.parametrize(
    ("folds", "tested", "days", "embargo"), [(6, 2, 60, 2), (5, 3, 25, 0), (8, 2, 56, 3)]
)
def test_combinatorial_splits_are_those_of_skfolio_where_folds_divide_the_days(
    folds: int, tested: int, days: int, embargo: int
) -> None:
    cv = CombinatorialPurgedCV(n_folds=folds, n_test_folds=tested, purged_size=embargo)
    ours = splits.combinatorial(days, n_folds=folds, n_test_folds=tested, embargo_days=embargo)
    theirs = list(cv.split(np.zeros((days, 1))))
    assert len(ours.splits) == len(theirs) == math.comb(folds, tested)
    for split, (train, tests) in zip(ours.splits, theirs, strict=True):
        assert split.train.tolist() == train.tolist()
        assert [t.tolist() for t in split.tests] == [t.tolist() for t in tests]


@given(st.integers(12, 90), st.integers(3, 8), st.integers(0, 2))
def test_combinatorial_keeps_train_away_from_test_and_each_path_covers_every_day_once(
    n_days: int, n_folds: int, embargo: int
) -> None:
    try:
        made = splits.combinatorial(n_days, n_folds=n_folds, n_test_folds=2, embargo_days=embargo)
    except UsageError:
        assert n_days // n_folds <= 2 * embargo
        return
    assert max(map(len, made.folds)) - min(map(len, made.folds)) <= 1
    for split in made.splits:
        gap = np.abs(split.train[:, None] - split.test[None, :]).min()
        assert gap > embargo
    assert made.paths.shape == (n_folds - 1, n_folds)
    for path in made.paths:
        days = np.concatenate([made.folds[fold] for fold in range(n_folds)])
        assert days.tolist() == list(range(n_days))
        for fold, split in enumerate(path):
            assert any(part is made.folds[fold] for part in made.splits[split].tests)
    # No part of a split is used twice.
    used = sorted((int(s), f) for path in made.paths for f, s in enumerate(path))
    assert len(used) == len(set(used)) == sum(len(s.tests) for s in made.splits)


@pytest.mark.parametrize(
    ("days", "settings", "words"),
    [
        (10, {"n_folds": 4, "n_test_folds": 1}, "expected 2 or more"),
        (10, {"n_folds": 4, "n_test_folds": 4}, "fewer than folds"),
        (3, {"n_folds": 4}, "too few for 4 folds"),
        (20, {"embargo_days": -1}, "embargo_days is -1"),
        (9, {"n_folds": 3, "embargo_days": 5}, "leaves none to train"),
    ],
)
def test_combinatorial_refuses_what_cannot_be_split(days: int, settings: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        splits.combinatorial(days, **settings)


@pytest.mark.parametrize("name", ["train_days", "test_days", "embargo_days"])
def test_walk_forward_names_the_length_that_is_out_of_range(name: str) -> None:
    settings = {"train_days": 5, "test_days": 2, "embargo_days": 1, name: -1}
    with pytest.raises(UsageError, match=f"{name} is -1"):
        splits.walk_forward(30, **settings)


def test_a_missing_extra_is_one_line_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"^no_such_library is missing: .*install it with make research$"):
        extra.library("no_such_library.part")

"""Which days to learn on and which to judge on: walk-forward windows and combinatorial purged splits.

An observation is one UTC day. Entry points: `walk_forward`, `combinatorial`.

Invariants:

1. No day is in the train part and in a test part of one split.
2. The last train day before a test part lies more than `embargo_days` before its first day; combinatorial
   splits also leave out `embargo_days` days after each test part.
3. Walk-forward trains on the past only, and no day is tested twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dolphin.domain.bar import IntArray
from dolphin.domain.errors import UsageError
from dolphin.research.extra import library


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Day positions of one split, ascending: `train` (n_train,) and one array a test part."""

    train: IntArray
    tests: tuple[IntArray, ...]

    @property
    def test(self) -> IntArray:
        """All test days of the split, ascending, shape (n_test,)."""
        return np.concatenate(self.tests)


@dataclass(frozen=True, slots=True, eq=False)
class Combinatorial:
    """All splits of `combinatorial`, and the paths that their test parts make.

    `paths[p, f]` is the split whose test part covers fold f on path p; `folds` are the day positions of each
    fold. Each path holds every day exactly once.
    """

    folds: tuple[IntArray, ...]
    splits: tuple[Split, ...]
    paths: IntArray


def walk_forward(n_days: int, *, train_days: int, test_days: int, embargo_days: int = 1) -> tuple[Split, ...]:
    """Windows that slide by `test_days`: train, then an embargo, then test.

    Parameters
    ----------
    n_days : int
        Days in all.
    train_days, test_days : int
        Length of each train part and of each test part, 1 or more. The last test part may be shorter.
    embargo_days : int
        Days between the two that neither sees, 0 or more: a position held over midnight and the signal's own
        memory end there.

    Returns
    -------
    tuple of Split
        In time order; each with one test part. Together the test parts are the days from
        `train_days + embargo_days` to the end, each once.

    Raises
    ------
    UsageError
        If a length is out of range, or not even one test day is left.

    References
    ----------
    Pardo (2008), The Evaluation and Optimization of Trading Strategies, chapter 11 (walk-forward analysis);
    the embargo is that of Lopez de Prado (2018), Advances in Financial Machine Learning, section 7.4.2.
    """
    _at_least("train_days", train_days, 1)
    _at_least("test_days", test_days, 1)
    _at_least("embargo_days", embargo_days, 0)
    first = train_days + embargo_days
    if n_days <= first:
        raise UsageError(
            f"{n_days} days leave none to test after {train_days} to train and {embargo_days} of embargo; "
            "take fewer train days or a longer period"
        )
    return tuple(
        Split(
            np.arange(start - first, start - embargo_days),
            (np.arange(start, min(start + test_days, n_days)),),
        )
        for start in range(first, n_days, test_days)
    )


def combinatorial(
    n_days: int, *, n_folds: int = 6, n_test_folds: int = 2, embargo_days: int = 1
) -> Combinatorial:
    """Combinatorial purged cross-validation: each choice of `n_test_folds` out of `n_folds` is tested once.

    Which splits there are and how their test parts join into paths is skfolio's `CombinatorialPurgedCV`. The
    days of the folds are ours: skfolio gives the last fold all of the remainder (9 days against 4 in a month
    of 29) and refuses an embargo that short folds can bear. Where the folds divide the days, the splits are
    skfolio's, with `embargo_days` as its `purged_size`.

    Parameters
    ----------
    n_days : int
        Days in all, at least one a fold.
    n_folds, n_test_folds : int
        3 or more, and 2 to n_folds - 1. Folds are consecutive days, as equal as possible, longer ones first.
    embargo_days : int
        Days left out of the train part before and after each test part, 0 or more.

    Returns
    -------
    Combinatorial
        C(n_folds, n_test_folds) splits and n_test_folds / n_folds times as many paths.

    Raises
    ------
    UsageError
        If an argument is out of range, the extra is missing, or a split would have no train day left.

    References
    ----------
    Lopez de Prado (2018), Advances in Financial Machine Learning, chapter 12.
    """
    _at_least("embargo_days", embargo_days, 0)
    if not 2 <= n_test_folds < n_folds:
        raise UsageError(f"{n_test_folds} test folds of {n_folds}: expected 2 or more, and fewer than folds")
    if n_days < n_folds:
        raise UsageError(
            f"{n_days} days are too few for {n_folds} folds; take fewer folds or a longer period"
        )
    cv = library("skfolio.model_selection").CombinatorialPurgedCV(n_folds=n_folds, n_test_folds=n_test_folds)
    folds = tuple(part.astype(np.int64) for part in np.array_split(np.arange(n_days), n_folds))
    splits = []
    for tested in cv.test_set_index:
        left = np.ones(n_days, dtype=np.bool_)
        for fold in tested:
            first, last = int(folds[fold][0]), int(folds[fold][-1])
            left[max(0, first - embargo_days) : last + 1 + embargo_days] = False
        if not left.any():
            raise UsageError(
                f"{n_days} days in {n_folds} folds: an embargo of {embargo_days} days leaves none to train "
                "on; take fewer folds, a shorter embargo or a longer period"
            )
        splits.append(Split(np.flatnonzero(left), tuple(folds[fold] for fold in tested)))
    return Combinatorial(folds, tuple(splits), np.asarray(cv.recombined_paths.T, dtype=np.int64))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}, expected {least} or more")

"""The random stream of the legacy order-book edge, as an input of the engine (spec 00, "Determinism")."""

from __future__ import annotations

import numpy as np

from dolphin.domain.bar import FloatArray

CHUNK = 4096


def draws(seed: int, at_least: int) -> FloatArray:
    """The first values of RandomState(seed).random_sample(), a whole number of chunks, more than `at_least`.

    numpy keeps this stream frozen for ever, so (seed, position) names a value on every machine.
    """
    n_chunks = at_least // CHUNK + 1
    return np.random.RandomState(seed).random_sample(n_chunks * CHUNK)

"""Whether loaded models can be asked at all: their compiled parts read these arrays without looking.

Entry point: `unsound`. A file whose types are all allowed may still hold trees that lead nowhere or in a
circle, or support vectors of another length; asking such models would end the process, which nothing can
turn into a fallback.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dolphin.research.extra import library

#: What the compiled code of the envelope takes by pointer.
_SUPPORT: Final = ("support_vectors_", "_dual_coef_", "support_", "_n_support", "_intercept_")


def unsound(models: Any, n_features: int) -> str:
    """What makes the models of a file unfit to be asked with n_features coordinates, or an empty string.

    May raise anything for attributes that are missing or are of another type.
    """
    if not isinstance(models, dict) or set(models) != {"classifier", "envelope"}:
        return "other models than a forewarner's"
    classifier, envelope = models["classifier"], models["envelope"]
    if not isinstance(classifier, library("sklearn.calibration").CalibratedClassifierCV):
        return "another classifier than a forewarner's"
    if not isinstance(envelope, library("sklearn.svm").OneClassSVM):
        return "another envelope than a forewarner's"
    trees = library("sklearn.ensemble").HistGradientBoostingClassifier
    estimators = [fold.estimator for fold in classifier.calibrated_classifiers_]
    if not estimators or not all(isinstance(model, trees) for model in estimators):
        return "no boosted trees"
    for model in (classifier, envelope, *estimators):
        if any(name in dir(type(model)) for name in vars(model)):
            return f"a {type(model).__name__} that overrides its own code"
    if not all(_trees_lead_on(model, n_features) for model in estimators):
        return "trees that do not end in leaves"
    if not _support_fits(envelope, n_features - 1):
        return "support vectors of another shape"
    return ""


def _trees_lead_on(model: Any, n_features: int) -> bool:
    """True when every branch of every tree goes to a later node of its own and asks a known feature."""
    common = library("sklearn.ensemble._hist_gradient_boosting.common")
    if np.any(model._bin_mapper.is_categorical_) or model._preprocessor is not None:
        return False
    for stage in model._predictors:
        for tree in stage:
            nodes = tree.nodes
            if nodes.dtype != common.PREDICTOR_RECORD_DTYPE or nodes.ndim != 1 or not len(nodes):
                return False
            inner = np.flatnonzero(nodes["is_leaf"] == 0)
            for side in ("left", "right"):
                to = nodes[side][inner].astype(np.int64)
                if np.any(to <= inner) or np.any(to >= len(nodes)):
                    return False
            asked = nodes["feature_idx"][inner]
            if np.any(asked < 0) or np.any(asked >= n_features) or np.any(nodes["is_categorical"]):
                return False
    return True


def _support_fits(model: Any, n_features: int) -> bool:
    vectors, weights, support, counts, intercept = (getattr(model, name) for name in _SUPPORT)
    k = len(support)
    return bool(
        (model.kernel, model._sparse) == ("rbf", False)
        and (vectors.shape, vectors.dtype) == ((k, n_features), np.float64)
        and (weights.shape, weights.dtype) == ((1, k), np.float64)
        and (support.shape, support.dtype) == ((k,), np.int32)
        and (counts.shape, counts.dtype) == ((2,), np.int32)
        and (intercept.shape, intercept.dtype) == ((1,), np.float64)
        and (model._probA.shape, model._probB.shape) == ((0,), (0,))
        and k
    )

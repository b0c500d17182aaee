"""The artefact: two fitted models in a skops file and a manifest beside it, and the forewarner that answers.

Entry points: `save`, `load`, `open_forewarner`, `Forewarner`.

Invariants
----------
1. A model file is never unpickled. Before anything of it is built, its SHA-256 is the manifest's, every type
   and every loader in its schema stands in `TYPES`, and what skops itself does not trust stands there too.
   Before anything of it is asked, its trees and support vectors are looked at (`sound`).
2. An artefact of another table, feature list, format or library version is refused: its numbers would be
   read as something that they are not.
3. `Forewarner` always answers: what it cannot say from its models is the fixed fallback, with the reason in
   `why`, and never a random number.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.market.scan_store import fsync_folder
from dolphin.research.extra import library
from dolphin.research.forewarner.sound import unsound
from dolphin.research.forewarner.table import (
    ROWS,
    Row,
    assessed,
    coordinates,
    features,
    mismatch,
)
from dolphin.research.forewarner.train import Trained, versions
from dolphin.risk.forewarner import (
    FALLBACK_ERROR,
    FALLBACK_NO_DATA,
    REAL_MODEL,
    Verdict,
    fallback,
    verdict,
)

FORMAT: Final = "dolphin forewarner 1"
MODEL_FILE: Final = "forewarner.skops"
MANIFEST_FILE: Final = "manifest.json"
_OWN_HASH: Final = "manifest_sha256"

#: Library versions that must be those of the training: another one may answer otherwise.
SAME_VERSIONS: Final = ("scikit-learn", "skops")

#: Every type that a model file may hold, and by which of skops' loaders.
TYPES: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("builtins.dict", "DictNode"),
        ("builtins.list", "ListNode"),
        ("builtins.tuple", "TupleNode"),
        ("builtins.str", "JsonNode"),
        ("builtins.str", "TypeNode"),
        ("numpy.ndarray", "NdArrayNode"),
        ("numpy.float64", "NdArrayNode"),
        ("numpy.int64", "NdArrayNode"),
        ("numpy.uint64", "NdArrayNode"),
        ("numpy.random._generator.Generator", "RandomGeneratorNode"),
        ("sklearn._loss._loss.CyHalfBinomialLoss", "LossNode"),
        ("sklearn._loss.link.Interval", "ObjectNode"),
        ("sklearn._loss.link.LogitLink", "ObjectNode"),
        ("sklearn._loss.loss.HalfBinomialLoss", "ObjectNode"),
        ("sklearn.calibration.CalibratedClassifierCV", "ObjectNode"),
        ("sklearn.calibration._CalibratedClassifier", "ObjectNode"),
        ("sklearn.ensemble._hist_gradient_boosting.binning._BinMapper", "ObjectNode"),
        (
            "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
            "ObjectNode",
        ),
        ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "ObjectNode"),
        ("sklearn.isotonic.IsotonicRegression", "ObjectNode"),
        ("sklearn.preprocessing._label.LabelEncoder", "ObjectNode"),
        ("sklearn.svm._classes.OneClassSVM", "ObjectNode"),
    }
)


#: A UTC date.
_Day = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Days(msgspec.Struct, frozen=True):
    """The recorded days of a training: those of each teaching group, and the held-out ones."""

    teaching: list[list[_Day]]
    held_out: list[_Day]


class Manifest(msgspec.Struct, frozen=True):
    """What hosts read of a manifest; the rest of it is for people.

    envelope_scale divides the envelope's decision, dimensionless; the hashes are SHA-256 in hex.
    """

    format: str
    model_sha256: str
    manifest_sha256: str
    table: list[Row]
    ranges: list[Row]
    features: list[str]
    days: Days
    versions: dict[str, str]
    envelope_scale: Annotated[float, msgspec.Meta(gt=0.0)]


class ArtefactMissingError(StoreError):
    """There is no artefact at that place."""


class ArtefactRefusedError(DataError):
    """An artefact is there and is damaged, foreign, or holds what it must not."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A loaded artefact: its models, the ranges and the scale they speak in, the model file's SHA-256.

    manifest is the whole record, for people; what `Manifest` names of it is of that shape.
    """

    models: Mapping[str, Any]
    rows: tuple[Row, ...]
    envelope_scale: float
    identity: str
    manifest: Mapping[str, Any]

    def numbers(self, params: ParameterSet, boost: float) -> tuple[float, float]:
        """(catastrophic probability, envelope score) of a running set at a boost of the breaker.

        Raises DataError for a configuration without a place in the table.
        """
        x = np.array([coordinates(assessed(params, boost), self.rows)])
        with library("threadpoolctl").threadpool_limits(limits=1):
            probability = float(self.models["classifier"].predict_proba(x)[0, 1])
            decision = float(self.models["envelope"].decision_function(x[:, :-1])[0])
        return probability, decision / self.envelope_scale


class Forewarner:
    """What a host asks: an artefact, or the reason why there is none and its fallback.

    `why` is empty while the models answer, else one line for people. `identity` names the answers: the model
    file's SHA-256, or the fallback's source.
    """

    def __init__(self, artefact: Artefact | None, source: str = REAL_MODEL, why: str = "") -> None:
        self.artefact = artefact
        self.source = source
        self.why = why

    @property
    def identity(self) -> str:
        """What decides the answers; a run's folder remembers it."""
        return self.source if self.artefact is None else self.artefact.identity

    def assess(self, params: ParameterSet, boost: float, timestamp_ns: int) -> Verdict:
        """The verdict on a running set at a boost, stamped by the caller (ns UTC). Raises nothing.

        A set that no trial speaks of gets FALLBACK_NO_DATA; models that fail, or give what is no number, get
        FALLBACK_ERROR.
        """
        if self.artefact is None:
            return fallback(self.source, timestamp_ns)
        reason = mismatch(params)
        if reason:
            self.why = f"{reason}; train on such a set, or run without a forewarner"
            return fallback(FALLBACK_NO_DATA, timestamp_ns)
        try:
            probability, score = self.artefact.numbers(params, boost)
        except Exception as error:
            self.why = f"the models failed: {_one_line(error)}; train again"
            return fallback(FALLBACK_ERROR, timestamp_ns)
        if not (0.0 <= probability <= 1.0 and math.isfinite(score)):
            self.why = f"the models gave {probability!r} and {score!r}, no numbers; train again"
            return fallback(FALLBACK_ERROR, timestamp_ns)
        self.why = ""
        return verdict(probability, score, REAL_MODEL, timestamp_ns)


def open_forewarner(folder: Path) -> Forewarner:
    """The forewarner of an artefact's folder; one that answers with a fallback where it cannot be used.

    Raises UsageError when the research extra is not installed: that is no state of an artefact.
    """
    library("sklearn")
    library("skops.io")
    try:
        return Forewarner(load(folder))
    except ArtefactMissingError as error:
        return Forewarner(None, FALLBACK_NO_DATA, str(error))
    except (ArtefactRefusedError, StoreError) as error:
        return Forewarner(None, FALLBACK_ERROR, str(error))


def require_free(folder: Path) -> None:
    """Raise StoreError when an artefact is in the folder already: it is never overwritten."""
    for name in (MANIFEST_FILE, MODEL_FILE):
        if (folder / name).exists():
            raise StoreError(f"{folder}: holds {name} already; choose another --out")


def save(trained: Trained, folder: Path) -> dict[str, Any]:
    """Write models and manifest, the manifest last; returns the manifest as written. Raises StoreError."""
    sio = library("skops.io")
    require_free(folder)
    model = folder / MODEL_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{MODEL_FILE}.tmp"
        sio.dump(trained.models, hidden, compression=zipfile.ZIP_DEFLATED)
        manifest = {
            "format": FORMAT,
            "model": MODEL_FILE,
            "model_sha256": _sha256(hidden.read_bytes()),
            **trained.manifest,
        }
        manifest[_OWN_HASH] = _own_hash(manifest)
        text = folder / f".{MANIFEST_FILE}.tmp"
        text.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        for path in (hidden, text):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(hidden, model)
        os.replace(text, folder / MANIFEST_FILE)
        fsync_folder(folder)
    except OSError as error:
        raise StoreError(
            f"{folder}: the artefact cannot be written ({error.strerror}); check disk and permissions"
        ) from error
    return manifest


def load(folder: Path) -> Artefact:
    """The artefact in a folder, after every check.

    Raises ArtefactMissingError when it is not there, ArtefactRefusedError when it is damaged, foreign, or
    holds a type that is not in `TYPES`; UsageError without the research extra.
    """
    manifest, whole = read_manifest(folder)
    path = folder / MODEL_FILE
    content = _read(path)
    if _sha256(content) != manifest.model_sha256:
        raise ArtefactRefusedError(f"{path}: its content is not what the manifest records; train again")
    models = _open_models(path, content)
    return Artefact(models, tuple(manifest.ranges), manifest.envelope_scale, manifest.model_sha256, whole)


def read_manifest(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """The manifest of an artefact that this code can read, and its whole record. Raises as `load` does."""
    path = folder / MANIFEST_FILE
    content = _read(path)
    try:
        whole = msgspec.json.decode(content)
    except _UNDECODABLE as error:
        raise ArtefactRefusedError(f"{path}: is no JSON ({_one_line(error)}); train again") from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ArtefactRefusedError(f"{path}: is no {FORMAT!r}; train again")
    try:
        signed = whole.get(_OWN_HASH) == _own_hash(whole)
        manifest = msgspec.convert(whole, Manifest)
    except _UNDECODABLE as error:
        raise ArtefactRefusedError(f"{path}: is no manifest ({_one_line(error)}); train again") from error
    if not signed:
        raise ArtefactRefusedError(f"{path}: was changed after the training; train again")
    own_end = [row.high for row in manifest.ranges]
    for what, same in (
        ("table", manifest.table == list(ROWS)),
        ("feature list", manifest.features == list(features())),
        (
            "kind of ranges",
            len(own_end) == len(ROWS)
            and manifest.ranges
            == [replace(row, high=end) if row.size else row for row, end in zip(ROWS, own_end, strict=True)]
            and all(row.low < row.high <= row.most for row in manifest.ranges),
        ),
    ):
        if not same:
            raise ArtefactRefusedError(f"{path}: has another {what} than this version; train again")
    here = versions()
    for name in SAME_VERSIONS:
        there = manifest.versions.get(name)
        if there != here[name]:
            raise ArtefactRefusedError(
                f"{path}: was trained with {name} {there}, here is {here[name]}; train again"
            )
    return manifest, whole


def _open_models(path: Path, content: bytes) -> dict[str, Any]:
    """The models of a skops file, each of its types looked at before any is built."""
    sio = library("skops.io")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            schema = json.loads(file.read("schema.json"))
        foreign = sorted({f"{name} by {loader}" for name, loader in set(_types(schema)) - TYPES})
        if foreign:
            raise ArtefactRefusedError(
                f"{path}: holds {foreign[0]}, which no forewarner has; do not use this file"
            )
        names = {name for name, _ in TYPES}
        untrusted = sio.get_untrusted_types(data=content)
        refused = sorted(set(untrusted) - names)
        if refused:
            raise ArtefactRefusedError(
                f"{path}: holds {refused[0]}, which no forewarner has; do not use this file"
            )
        models = sio.loads(content, trusted=untrusted)
        found = unsound(models, len(features()))
    except ArtefactRefusedError:
        raise
    except Exception as error:
        raise ArtefactRefusedError(f"{path}: cannot be read ({_one_line(error)}); train again") from error
    if found:
        raise ArtefactRefusedError(f"{path}: holds {found}; train again")
    return dict(models)


#: What a decoder may raise on foreign bytes.
_UNDECODABLE: Final = (ValueError, TypeError, RecursionError, msgspec.MsgspecError)


def _types(node: Any) -> Iterator[tuple[str, str]]:
    """(type, loader) of every node of a skops schema."""
    if isinstance(node, dict):
        if "__class__" in node or "__loader__" in node:
            yield f"{node.get('__module__')}.{node.get('__class__')}", str(node.get("__loader__"))
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for value in node:
            yield from _types(value)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtefactMissingError(f"{path}: is not there; train with dolphin forewarn train") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check permissions") from error


def _own_hash(manifest: Mapping[str, Any]) -> str:
    bare = {key: value for key, value in manifest.items() if key != _OWN_HASH}
    return _sha256(json.dumps(bare, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""The artefact: real gates from real models, every damaged or foreign one refused, nothing ever unpickled."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io as sio
from drawn_market import VOL_THRESHOLD

from dolphin.backtest.period import PeriodRunner
from dolphin.domain.codes import (
    ACTION_ENTER,
    DAY_HALT,
    MC_ABSENT,
    MC_OK,
    MC_ORANGE,
    MC_RED,
)
from dolphin.domain.errors import StoreError
from dolphin.domain.params import CHAMPION, GOLD, GREEN, ParameterSet
from dolphin.research.forewarner import artefact as artefacts
from dolphin.research.forewarner.artefact import (
    MANIFEST_FILE,
    MODEL_FILE,
    ArtefactMissingError,
    ArtefactRefusedError,
    Forewarner,
    load,
    open_forewarner,
    read_manifest,
    save,
)
from dolphin.research.forewarner.markets import Breaker, Record, bootstrap
from dolphin.research.forewarner.train import Trained
from dolphin.risk.forewarner import FALLBACK_ERROR, FALLBACK_NO_DATA, REAL_MODEL, fallback
from dolphin.services.forewarner_gate import mc_status_by_day

#: Small and large positions around the champion's.
QUIET = CHAMPION.with_values({"fraction": 0.08, "max_leverage": 2.0})
LARGE = CHAMPION.with_values({"fraction": 0.5, "max_leverage": 12.0, "abs_max_leverage": 12.0})


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """An artefact of one's own."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def forewarner(folder: Path) -> Forewarner:
    """The small forewarner, loaded."""
    return Forewarner(load(folder))


@pytest.fixture(scope="session")
def by_gate(forewarner: Forewarner) -> dict[int, ParameterSet]:
    """The first configuration at each gate, from small positions to large ones."""
    found: dict[int, ParameterSet] = {}
    for fraction in (0.08, 0.12, 0.16, 0.20, 0.25, 0.30, 0.40, 0.50):
        for leverage in (2.0, 4.0, 6.0, 8.0, 12.0):
            values = {"fraction": fraction, "max_leverage": leverage, "abs_max_leverage": 12.0}
            params = CHAMPION.with_values(values)
            found.setdefault(forewarner.assess(params, 1.0, 0).code, params)
    return found


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], sign: bool = True) -> None:
    """Change the manifest, and sign it as a training would."""
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    change(manifest)
    if sign:
        manifest["manifest_sha256"] = artefacts._own_hash(manifest)
    path.write_text(json.dumps(manifest))


def put_model(folder: Path, content: bytes) -> None:
    """Another model file, with the manifest that would belong to it."""
    (folder / MODEL_FILE).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda manifest: manifest.update(model_sha256=digest))


def test_each_gate_is_reached_by_a_real_configuration(
    forewarner: Forewarner, by_gate: dict[int, ParameterSet]
) -> None:
    assert set(by_gate) == {MC_OK, MC_ORANGE, MC_RED}
    for gate, params in by_gate.items():
        said = forewarner.assess(params, 1.0, 123)
        assert said.code == gate
        assert (said.source, said.timestamp_ns) == (REAL_MODEL, 123)
        assert said.envelope_score > 0.0
    assert forewarner.why == ""


def test_red_comes_from_the_envelope_too(forewarner: Forewarner) -> None:
    """A configuration like none that was tried, however small its positions are."""
    odd = QUIET.with_values(
        {"vel_div_threshold": -0.2, "vel_div_extreme": -0.9, "fixed_tp_pct": 0.9, "max_hold_bars": 100_000}
    )
    said = forewarner.assess(odd, 1.0, 0)
    assert said.envelope_score < -1.0
    assert said.gate == "RED"


def test_boost_is_in_the_assessed_leverage(forewarner: Forewarner) -> None:
    one = forewarner.assess(CHAMPION.with_values({"max_leverage": 10.0}), 1.0, 0)
    assert forewarner.assess(CHAMPION, 2.0, 0) == one
    assert forewarner.assess(CHAMPION, 1.0, 0) != one


def test_the_gate_halves_the_size_and_stops_entries_in_the_engine(
    forewarner: Forewarner, by_gate: dict[int, ParameterSet], record: Record
) -> None:
    """The codes of `mc_status_by_day` in the whole-period engine, against the same days without them."""
    market = bootstrap(record, record.groups()[0], 6, [3], Breaker(0.8, 0.2, 60.0))
    bars_per_day = len(market.vel_div) // 6
    days = PeriodRunner(market, VOL_THRESHOLD).days

    def entries(params: ParameterSet, codes: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        inputs = replace(market, mc_status=np.repeat(codes, bars_per_day))
        result = PeriodRunner(inputs, VOL_THRESHOLD).run(params, record="all")
        decisions = list(result.decisions())
        return decisions, [d for d in decisions if d.action == ACTION_ENTER]

    for gate, params in by_gate.items():
        codes = mc_status_by_day(forewarner, params, days, np.ones(6))
        assert codes.tolist() == [gate] * 6
        absent = np.full(6, MC_ABSENT, dtype=np.int64)
        every, found = entries(params, codes)
        _, free = entries(params, absent)
        assert free
        if gate == MC_RED:
            assert found == []
            assert DAY_HALT in {d.reason for d in every}
        elif gate == MC_ORANGE:
            assert (found[0].bar_idx, found[0].asset) == (free[0].bar_idx, free[0].asset)
            assert found[0].mc_scale == 0.5
            assert found[0].raw == pytest.approx(0.5 * free[0].raw)
            assert found[0].lane_regime == pytest.approx(0.5 * free[0].lane_regime)
        else:
            assert [d.notional for d in found] == [d.notional for d in free]


def test_a_loaded_artefact_answers_as_the_trained_models(trained: Trained, forewarner: Forewarner) -> None:
    assert forewarner.artefact is not None
    fresh = replace(forewarner.artefact, models=trained.models)
    for params in (CHAMPION, GOLD, QUIET, LARGE):
        assert forewarner.artefact.numbers(params, 1.2) == fresh.numbers(params, 1.2)


def test_the_manifest_records_what_made_it(folder: Path, record: Record) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert manifest["data_hash"] == record.data_hash
    assert manifest["model_sha256"] == hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()
    assert {"auc_held_out", "brier_held_out", "base_rate_held_out"} <= set(manifest["metrics"])
    assert {"scikit-learn", "skops", "numpy", "dolphin"} <= set(manifest["versions"])
    assert manifest["seed"] == 1
    assert len(manifest["ranges"]) == len(manifest["table"])


def test_nothing_is_ever_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the interpreter's own audit, and with an unpickler that cannot be made."""
    seen: list[str] = []
    listening = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if listening[0] and event.startswith("pickle"):
            seen.append(f"{event} {args}")

    sys.addaudithook(hook)  # cannot be taken away again; it goes deaf below

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    try:
        said = open_forewarner(folder).assess(CHAMPION, 1.0, 0)
    finally:
        listening[0] = False
    assert said.source == REAL_MODEL
    assert seen == []
    listening[0] = True
    try:
        monkeypatch.undo()
        pickle.loads(pickle.dumps(np.float64))
    finally:
        listening[0] = False
    assert seen, "the audit hears a pickle where there is one"


def test_a_missing_artefact_has_no_data(tmp_path: Path) -> None:
    with pytest.raises(ArtefactMissingError):
        load(tmp_path / "nowhere")
    found = open_forewarner(tmp_path / "nowhere")
    assert "train with dolphin forewarn train" in found.why
    assert found.assess(CHAMPION, 1.0, 5) == fallback(FALLBACK_NO_DATA, 5)
    assert found.identity == FALLBACK_NO_DATA


def test_a_model_file_that_is_gone_has_no_data(copy: Path) -> None:
    (copy / MODEL_FILE).unlink()
    assert open_forewarner(copy).assess(CHAMPION, 1.0, 5) == fallback(FALLBACK_NO_DATA, 5)


def _flip(folder: Path) -> None:
    content = bytearray((folder / MODEL_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL_FILE).write_bytes(bytes(content))


def _cut(folder: Path) -> None:
    put_model(folder, (folder / MODEL_FILE).read_bytes()[:-500])


def _other_models(folder: Path) -> None:
    put_model(folder, sio.dumps({"classifier": np.ones(3)}))


def _sign(folder: Path, content: Any) -> None:
    """Any JSON in the manifest's place, signed as far as it can be."""
    path = folder / MANIFEST_FILE
    if isinstance(content, dict):
        content = {**content, "manifest_sha256": artefacts._own_hash(content)}
    path.write_text(json.dumps(content))


def _without_sha(folder: Path) -> None:
    rewrite(folder, lambda m: m.pop("model_sha256"))


def _range_of_other_keys(folder: Path) -> None:
    rewrite(folder, lambda m: m["ranges"].__setitem__(0, {"parameter": "fraction", "from": 0, "to": 1}))


def _rebuilt(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """The models with something changed, saved by skops and signed."""

    def damage(folder: Path) -> None:
        content = (folder / MODEL_FILE).read_bytes()
        models = sio.loads(content, trusted=sio.get_untrusted_types(data=content))
        change(models)
        put_model(folder, sio.dumps(models))

    return damage


def _nodes(models: dict[str, Any]) -> Any:
    return models["classifier"].calibrated_classifiers_[0].estimator._predictors[0][0].nodes


def _circle(models: dict[str, Any]) -> None:
    _nodes(models)["left"][0] = 0


def _leads_out(models: dict[str, Any]) -> None:
    _nodes(models)["right"][0] = 1 << 30


def _unknown_feature(models: dict[str, Any]) -> None:
    _nodes(models)["feature_idx"][0] = 1 << 40


def _few_vectors(models: dict[str, Any]) -> None:
    models["envelope"].support_vectors_ = models["envelope"].support_vectors_[:1]


def _another_method(models: dict[str, Any]) -> None:
    models["envelope"]._impl = "c_svc"


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (_flip, "is not what the manifest records"),
    "a cut file under a signed manifest": (_cut, "cannot be read"),
    "other models": (_other_models, "other models"),
    "no JSON": (lambda f: (f / MANIFEST_FILE).write_text("{") and None, "is no JSON"),
    "another format": (lambda f: rewrite(f, lambda m: m.update(format="x")), "is no 'dolphin forewarner 1'"),
    "a changed figure": (lambda f: rewrite(f, lambda m: m.update(seed=2), sign=False), "was changed"),
    "a gentler scale": (lambda f: rewrite(f, lambda m: m.update(envelope_scale=9.0), sign=False), "changed"),
    "other ranges": (lambda f: rewrite(f, lambda m: m["table"][0].update(low=-9.0)), "another table"),
    "other features": (lambda f: rewrite(f, lambda m: m["features"].pop()), "another feature list"),
    "another version": (
        lambda f: rewrite(f, lambda m: m["versions"].update({"scikit-learn": "0.1"})),
        "trained with scikit-learn 0.1",
    ),
    "no model hash": (_without_sha, "missing required field `model_sha256`"),
    "versions in a list": (lambda f: rewrite(f, lambda m: m.update(versions=[1])), "is no manifest"),
    "a list": (lambda f: _sign(f, ["dolphin forewarner 1"]), "is no 'dolphin forewarner 1'"),
    "deep JSON": (lambda f: (f / MANIFEST_FILE).write_text("[" * 200_000) and None, "is no JSON"),
    "deep JSON that ends": (
        lambda f: (f / MANIFEST_FILE).write_text("[" * 200_000 + "]" * 200_000) and None,
        "is no JSON",
    ),
    "no text": (lambda f: (f / MANIFEST_FILE).write_bytes(b"\xff\xfe{}") and None, "is no JSON"),
    "ranges of other keys": (_range_of_other_keys, "is no manifest"),
    "ranges in a word": (lambda f: rewrite(f, lambda m: m.update(ranges="wide")), "is no manifest"),
    "one range less": (lambda f: rewrite(f, lambda m: m["ranges"].pop()), "another kind of ranges"),
    "a range moved below": (lambda f: rewrite(f, lambda m: m["ranges"][0].update(low=-9.0)), "another kind"),
    "no days": (lambda f: rewrite(f, lambda m: m.update(days=[])), "is no manifest"),
    "days that are none": (lambda f: rewrite(f, lambda m: m["days"].update(teaching=[1])), "is no manifest"),
    "a scale that turns": (lambda f: rewrite(f, lambda m: m.update(envelope_scale=-1.0)), "is no manifest"),
    "a scale in words": (lambda f: rewrite(f, lambda m: m.update(envelope_scale="1")), "is no manifest"),
    "a tree in a circle": (_rebuilt(_circle), "do not end in leaves"),
    "a tree that leads out": (_rebuilt(_leads_out), "do not end in leaves"),
    "an unknown feature": (_rebuilt(_unknown_feature), "do not end in leaves"),
    "too few support vectors": (_rebuilt(_few_vectors), "of another shape"),
    "another method": (_rebuilt(_another_method), "overrides its own code"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_or_foreign_artefact_falls_back_and_says_why(copy: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    damage(copy)
    with pytest.raises(ArtefactRefusedError, match=reason):
        load(copy)
    found = open_forewarner(copy)
    assert reason in found.why
    assert "\n" not in found.why
    assert found.assess(CHAMPION, 1.0, 5) == fallback(FALLBACK_ERROR, 5)
    assert (found.assess(CHAMPION, 1.0, 5).catastrophic_prob, found.identity) == (0.20, FALLBACK_ERROR)


JUNK: tuple[Any, ...] = (None, True, 0, -1, 1e300, 2**70, "", "x", "\ud800", [], [1], {}, {"a": 1}, -0.5)


def test_whatever_is_done_to_a_manifest_it_answers_or_refuses_in_one_line(copy: Path, folder: Path) -> None:
    """Random edits at every depth, signed as a training would."""
    chance = random.Random(4)
    text = (folder / MANIFEST_FILE).read_text()
    refused: list[str] = []
    for _ in range(150):
        manifest = json.loads(text)
        key = chance.choice(
            ["table", "ranges", "features", "versions", "days", "envelope_scale", "model_sha256", "format"]
        )
        node, at = manifest, key
        while isinstance(node[at], (dict, list)) and node[at] and chance.random() < 0.6:
            node = node[at]
            at = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if chance.random() < 0.3:
            del node[at]
        else:
            node[at] = chance.choice(JUNK)
        _sign(copy, manifest)
        try:
            read_manifest(copy)
        except ArtefactRefusedError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in line for line in refused)


def test_whatever_is_done_to_a_model_file_it_answers_or_falls_back(copy: Path) -> None:
    """Random bytes in the file and in its members, under a signed manifest."""
    chance = random.Random(5)
    whole = (copy / MODEL_FILE).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for trial in range(24):
        if trial % 3 == 0:
            put_model(copy, _spoilt(whole, chance))
        else:
            name = chance.choice([name for name in members if trial % 3 == 1 or name.endswith("json")])
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w") as file:
                for member, content in members.items():
                    file.writestr(member, _spoilt(content, chance) if member == name else content)
            put_model(copy, made.getvalue())
        found = open_forewarner(copy)
        said = found.assess(CHAMPION, 1.0, 0)
        assert said.source in (REAL_MODEL, FALLBACK_ERROR)
        assert bool(found.why) == (said.source != REAL_MODEL)
        assert "\n" not in found.why


def _spoilt(content: bytes, chance: random.Random) -> bytes:
    """A few random bytes put over others."""
    out = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        out[chance.randrange(len(out))] = chance.randrange(256)
    return bytes(out)


class Foreign:
    """A type that no forewarner has; making one of it would be told."""

    made = 0

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        Foreign.made += 1
        self.__dict__.update(state)


def test_a_foreign_type_is_refused_before_it_is_made(copy: Path) -> None:
    put_model(copy, sio.dumps({"classifier": Foreign(), "envelope": np.ones(2)}))
    with pytest.raises(ArtefactRefusedError, match=r"holds .*Foreign by ObjectNode"):
        load(copy)
    assert Foreign.made == 0


def test_a_type_that_skops_trusts_and_no_forewarner_has_is_refused_too(copy: Path) -> None:
    """The list is our own: a library's idea of what is harmless is not enough."""
    from sklearn.linear_model import LinearRegression

    content = sio.dumps({"classifier": LinearRegression(), "envelope": LinearRegression()})
    assert sio.get_untrusted_types(data=content) == []
    put_model(copy, content)
    with pytest.raises(ArtefactRefusedError, match="which no forewarner has"):
        load(copy)


def test_a_pickle_under_the_model_s_name_is_no_model(copy: Path) -> None:
    put_model(copy, pickle.dumps({"classifier": 1, "envelope": 2}))
    assert open_forewarner(copy).assess(CHAMPION, 1.0, 0).source == FALLBACK_ERROR


def test_a_schema_that_hides_its_types_is_refused(copy: Path, tmp_path: Path) -> None:
    path = tmp_path / "hidden.skops"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", json.dumps({"__loader__": "ReduceNode", "content": {}}))
    put_model(copy, path.read_bytes())
    with pytest.raises(ArtefactRefusedError):
        load(copy)


def test_a_set_of_which_no_trial_speaks_has_no_data(folder: Path) -> None:
    found = open_forewarner(folder)
    assert found.assess(GREEN, 1.0, 4) == fallback(FALLBACK_NO_DATA, 4)
    assert "direction is 1" in found.why
    assert found.assess(CHAMPION, 1.0, 4).source == REAL_MODEL
    assert found.why == "", "the next answer is from the models again"


@pytest.mark.parametrize("boost", [math.nan, 0.0, -2.0, math.inf])
def test_a_boost_that_is_no_factor_is_an_error_not_a_crash(folder: Path, boost: float) -> None:
    found = open_forewarner(folder)
    assert found.assess(CHAMPION, boost, 4) == fallback(FALLBACK_ERROR, 4)
    assert "boost" in found.why


@pytest.mark.parametrize("said", [(math.nan, 1.0), (0.1, math.nan), (1.5, 1.0), (0.1, math.inf)])
def test_models_that_give_no_numbers_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: tuple[float, float]
) -> None:
    found = open_forewarner(folder)
    monkeypatch.setattr(artefacts.Artefact, "numbers", lambda *_: said)
    assert found.assess(CHAMPION, 1.0, 4) == fallback(FALLBACK_ERROR, 4)


def test_an_artefact_is_never_overwritten(trained: Trained, copy: Path) -> None:
    before = (copy / MODEL_FILE).read_bytes()
    with pytest.raises(StoreError, match="choose another --out"):
        save(trained, copy)
    assert (copy / MODEL_FILE).read_bytes() == before

"""Recorded factors: what was known when, and what is believed of a source."""

from __future__ import annotations

from pathlib import Path

import pytest
from factor_files import DAY0, HOUR, write

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S, day_start_ns, iso_from_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.keeper import RULES, Keeper, Sample
from dolphin.factors.recorded import DVOL_FILE, FNG_FILE, RecordedSource, recorded_sources
from dolphin.factors.series import first_day


def value_at(folder: Path, name: str, instant_ns: int) -> float | None:
    sample = RecordedSource(name, folder).read(instant_ns)
    return None if sample is None else sample.value


def test_funding_counts_from_its_settlement_and_is_bitcoins(folder: Path) -> None:
    assert value_at(folder, "funding_btc", DAY0 - 1) is None
    assert value_at(folder, "funding_btc", DAY0 + 8 * HOUR - 1) == 0.0
    assert value_at(folder, "funding_btc", DAY0 + 8 * HOUR) == -1e-5


def test_a_days_index_is_known_when_the_day_is_over(folder: Path) -> None:
    """Its stamp is midnight at the day's beginning; whoever used it in the day would look ahead."""
    assert value_at(folder, "dvol_btc", DAY0 + NS_PER_DAY - 1) is None
    assert value_at(folder, "dvol_btc", DAY0 + NS_PER_DAY) == 50.0
    assert value_at(folder, "taker", DAY0 + 3 * NS_PER_DAY) == pytest.approx(0.82)
    assert value_at(folder, "fng", DAY0 + 3 * NS_PER_DAY) == 33.0


def test_the_hourly_taker_ratio_goes_on_where_the_daily_one_ends(folder: Path) -> None:
    end = DAY0 + 12 * NS_PER_DAY
    assert value_at(folder, "taker", end + HOUR - 1) == pytest.approx(0.91)
    assert value_at(folder, "taker", end + HOUR) == 2.0
    assert value_at(folder, "taker", end + 30 * HOUR) == 2.2


def test_what_is_no_recording_is_told_with_its_file(folder: Path) -> None:
    (folder / FNG_FILE).write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match=FNG_FILE):
        RecordedSource("fng", folder).read(DAY0)
    (folder / DVOL_FILE).unlink()
    with pytest.raises(StoreError, match=f"{DVOL_FILE}: not there"):
        RecordedSource("dvol_btc", folder).read(DAY0)
    write(folder / DVOL_FILE, [DAY0], other=[1.0])
    with pytest.raises(DataError, match="no recording with ts and dvol"):
        RecordedSource("dvol_btc", folder).read(DAY0)
    write(folder / DVOL_FILE, [], dvol=[])
    with pytest.raises(DataError, match="no row"):
        RecordedSource("dvol_btc", folder).read(DAY0)


def test_a_file_that_is_mended_is_read_again(folder: Path) -> None:
    good = (folder / FNG_FILE).read_bytes()
    (folder / FNG_FILE).write_bytes(b"half")
    source = RecordedSource("fng", folder)
    with pytest.raises(DataError):
        source.read(DAY0)
    (folder / FNG_FILE).write_bytes(good)
    assert source.read(DAY0) == Sample(30.0, DAY0)


def test_the_first_day_is_the_one_on_which_most_sources_speak(folder: Path) -> None:
    sources = list(recorded_sources(folder).values())
    # Index and ratio of the first day are known on the second.
    assert first_day(sources, lambda name: RULES[name].age_max_ns) == DAY0 + NS_PER_DAY
    (folder / DVOL_FILE).write_bytes(b"broken")
    (folder / FNG_FILE).write_bytes(b"broken")
    sources = list(recorded_sources(folder).values())
    assert first_day(sources, lambda name: RULES[name].age_max_ns) == DAY0 + NS_PER_DAY
    assert first_day([sources[0]], lambda name: NS_PER_DAY) == DAY0
    assert first_day([sources[1]], lambda name: NS_PER_DAY) is None


def test_a_source_with_a_hole_does_not_speak_in_it(folder: Path) -> None:
    write(folder / FNG_FILE, [DAY0, DAY0 + 9 * NS_PER_DAY], value=[40, 41])
    sources = [RecordedSource(name, folder) for name in ("dvol_btc", "fng")]
    write(folder / DVOL_FILE, [DAY0 + k * NS_PER_DAY for k in range(5, 12)], dvol=[60.0] * 7)
    assert first_day(sources, lambda name: 2 * NS_PER_DAY) == DAY0 + 9 * NS_PER_DAY


class Told:
    """A source that says what it is told to."""

    def __init__(self) -> None:
        self.answer: Sample | Exception | None = None

    def read(self, instant_ns: int) -> Sample | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_keeper_keeps_the_last_good_value_until_it_is_too_old() -> None:
    source = Told()
    keeper = Keeper("funding_btc", source)
    keeper.poll(DAY0)
    assert (keeper.status, keeper.value(DAY0), keeper.age_s(DAY0)) == ("no value yet", None, None)
    source.answer = Sample(0.0001, DAY0)
    keeper.poll(DAY0 + HOUR)
    assert (keeper.status, keeper.value(DAY0 + HOUR), keeper.age_s(DAY0 + HOUR)) == ("ok", 0.0001, 3600.0)
    source.answer = Sample(0.5, DAY0 + HOUR)
    keeper.poll(DAY0 + 2 * HOUR)
    assert (keeper.status, keeper.value(DAY0 + 2 * HOUR)) == ("out of range", 0.0001)
    assert "funding_btc is 0.5, expected -0.03 to 0.03" in keeper.fault
    source.answer = DataError("gone")
    keeper.poll(DAY0 + 24 * HOUR)
    assert (keeper.status, keeper.value(DAY0 + 24 * HOUR), keeper.fault) == ("failed", 0.0001, "gone")
    assert keeper.value(DAY0 + 24 * HOUR + 1) is None
    source.answer = Sample(0.0001, DAY0)
    keeper.poll(DAY0 + 25 * HOUR)
    assert (keeper.status, keeper.value(DAY0 + 25 * HOUR)) == ("stale", None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 401.0])
def test_what_is_no_index_is_never_given_on(value: float) -> None:
    source = Told()
    source.answer = Sample(value, DAY0)
    keeper = Keeper("dvol_btc", source)
    keeper.poll(DAY0)
    assert (keeper.status, keeper.value(DAY0)) == ("out of range", None)


def test_a_stamp_of_the_future_has_no_negative_age() -> None:
    source = Told()
    source.answer = Sample(50.0, DAY0 + HOUR)
    keeper = Keeper("dvol_btc", source)
    keeper.poll(DAY0)
    assert (keeper.status, keeper.age_s(DAY0)) == ("ok", 0.0)


@pytest.mark.recordings
def test_the_recordings_have_what_their_page_says(recordings: Path) -> None:
    sources = recorded_sources(recordings / "factors")
    instant_ns = day_start_ns("2025-02-03") + 9 * HOUR
    values = {name: source.read(instant_ns) for name, source in sources.items()}
    funding, dvol, fng = values["funding_btc"], values["dvol_btc"], values["fng"]
    assert funding is not None
    assert dvol is not None
    assert fng is not None
    assert iso_from_ns(funding.at_ns)[:19] == "2025-02-03T08:00:00"
    assert iso_from_ns(dvol.at_ns)[:10] == "2025-02-03"
    assert iso_from_ns(fng.at_ns)[:10] == "2025-02-03"
    assert values["taker"] is None
    for name, source in sources.items():
        series = source.series().values
        assert RULES[name].low <= series.min() <= series.max() <= RULES[name].high
    begin_ns = first_day(list(sources.values()), lambda name: RULES[name].age_max_ns)
    assert begin_ns is not None
    assert iso_from_ns(begin_ns)[:10] == "2022-11-07"
    assert begin_ns % (24 * 3600 * NS_PER_S) == 0

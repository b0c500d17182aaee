"""How every host drives a service: when it is due, its heartbeat, a grid that is away, a clock that jumps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, UsageError
from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.topics import HEARTBEAT, HEARTBEAT_LATEST
from dolphin.grid.typed import TypedGrid
from dolphin.services.clock import SystemClock, VirtualClock
from dolphin.services.home import Home, SystemSettings
from dolphin.services.service import Context, Hosted

NOW = 1_767_571_200 * NS_PER_S


class Counting:
    """A service that counts, and fails when it is told to."""

    period_s = 10.0
    phase = "running"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ticks = 0
        self.fails: Exception | None = None

    def start(self) -> None:
        pass

    def tick(self) -> None:
        self.ticks += 1
        if self.fails is not None:
            raise self.fails
        self.context.grid.grid.map("M").put("k", b"%d" % self.ticks)

    def stop(self) -> None:
        pass

    def health(self) -> tuple[bool, str]:
        return True, ""

    def gauges(self) -> dict[str, float]:
        return {}


@pytest.fixture
def grid() -> Iterator[InProcessGrid]:
    with InProcessGrid() as made:
        yield made


@pytest.fixture
def hosted(grid: InProcessGrid, tmp_path: Path) -> Hosted:
    context = Context("acb", Home(tmp_path), SystemSettings(), VirtualClock(NOW), TypedGrid(grid.peer()))
    made = Hosted(Counting(context), context)
    made.start()
    return made


def service(hosted: Hosted) -> Counting:
    assert isinstance(hosted.service, Counting)
    return hosted.service


def clock(hosted: Hosted) -> VirtualClock:
    assert isinstance(hosted.context.clock, VirtualClock)
    return hosted.context.clock


def pass_s(hosted: Hosted, seconds: float) -> None:
    """Real hosts wait for what is due; so does this one."""
    end = clock(hosted).now_ns() + int(seconds * NS_PER_S)
    while clock(hosted).now_ns() < end:
        hosted.step()
        clock(hosted).wait(threading.Event(), max(hosted.wait_s(), 0.001))
    hosted.step()


def test_it_is_ticked_once_a_period_and_beats_every_five_seconds(hosted: Hosted, grid: InProcessGrid) -> None:
    beats: list[float] = []
    TypedGrid(grid).listen(HEARTBEAT, lambda beat, event: beats.append(beat.ts), service="acb")
    pass_s(hosted, 60)
    assert service(hosted).ticks == 7
    assert [b - NOW / 1e9 for b in beats] == list(range(0, 61, 5))
    latest = TypedGrid(grid).get(HEARTBEAT_LATEST)
    assert latest is not None
    assert (latest.service, latest.phase) == ("acb", "running")


def test_dry_run_is_ticked_and_writes_no_heartbeat(grid: InProcessGrid, tmp_path: Path) -> None:
    context = Context(
        "trader", Home(tmp_path), SystemSettings(), VirtualClock(NOW), TypedGrid(grid.peer()),
        options={"dry_run": True},
    )  # fmt: skip
    made = Hosted(Counting(context), context)
    made.start()
    pass_s(made, 60)
    assert service(made).ticks == 7
    assert TypedGrid(grid).get(HEARTBEAT, service="trader") is None
    assert TypedGrid(grid).get(HEARTBEAT_LATEST) is None


def test_woken_it_is_ticked_at_once(hosted: Hosted) -> None:
    hosted.step()
    hosted.step()
    assert service(hosted).ticks == 1
    hosted.context.wake.set()
    hosted.step()
    assert service(hosted).ticks == 2
    assert not hosted.context.wake.is_set()


@pytest.mark.parametrize("jump_s", [-3600, -86_400, 3600])
def test_a_clock_that_jumps_silences_nothing(jump_s: int, hosted: Hosted, grid: InProcessGrid) -> None:
    pass_s(hosted, 30)
    before = service(hosted).ticks
    clock(hosted).move_to(clock(hosted).now_ns() + jump_s * NS_PER_S)
    pass_s(hosted, 30)
    assert service(hosted).ticks >= before + 3
    beat = TypedGrid(grid).get(HEARTBEAT, service="acb")
    assert beat is not None
    assert abs(beat.ts - clock(hosted).now_ns() / 1e9) <= 5


def test_a_grid_that_is_away_is_counted_asked_less_and_told_at_once_when_it_is_back(
    hosted: Hosted, grid: InProcessGrid
) -> None:
    hosted.step()
    peer = hosted.context.grid.grid
    assert isinstance(peer, InProcessGrid)
    peer.drop_connection()
    pass_s(hosted, 600)
    assert service(hosted).ticks == 61
    assert hosted.beats.state == "open"
    # 60 ticks each fail; heartbeats give up asking at every turn
    assert 60 < hosted.context.counts["grid_errors"] < 60 + 25
    assert "not reachable" in hosted.grid_error
    peer.restore_connection()
    hosted.step()
    beat = TypedGrid(grid).get(HEARTBEAT, service="acb")
    assert beat is not None
    assert beat.ts == clock(hosted).now_ns() / 1e9
    assert hosted.grid_error == ""


def test_any_other_error_is_the_hosts_to_end_with(hosted: Hosted) -> None:
    service(hosted).fails = DataError("broken")
    with pytest.raises(DataError, match="broken"):
        hosted.step()


def test_a_faster_clock_is_the_same_clock_only_faster() -> None:
    slow, fast = SystemClock(1.0), SystemClock(50.0, origin_ns=SystemClock().now_ns())
    slow_0, fast_0 = slow.now_ns(), fast.now_ns()
    never = threading.Event()
    assert fast.wait(never, 5.0) is False
    slow_s, fast_s = (slow.now_ns() - slow_0) / 1e9, (fast.now_ns() - fast_0) / 1e9
    assert 0.1 <= slow_s < 5.0
    assert fast_s >= 5.0
    assert 40.0 < fast_s / slow_s < 60.0
    for speed in (0.0, -1.0, 101.0):
        with pytest.raises(UsageError, match="speed is"):
            SystemClock(speed)


def test_settings_are_kept_and_unknown_keys_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    with pytest.raises(DataError, match="no system here"):
        home.load()
    home.save(SystemSettings(seed=9, speed=10.0))
    assert home.load() == SystemSettings(seed=9, speed=10.0)
    home.settings_file.write_text('{"sead": 9}')
    with pytest.raises(DataError, match="damaged"):
        home.load()

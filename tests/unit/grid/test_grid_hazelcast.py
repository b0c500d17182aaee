"""The edge to the vendor's client, as far as it can be seen without a member."""

from __future__ import annotations

import socket
import threading

import pytest

from dolphin.grid.hazelcast import HazelcastGrid
from dolphin.grid.hazelcast_link import HazelcastClient, Link, ReconnectMode, errors, translate
from dolphin.grid.port import GridError, GridUnreachable
from dolphin.services.grid_client import open_grid
from dolphin.services.home import SystemSettings


@pytest.fixture
def nobody():
    """An address of loopback where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def threads():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def test_without_a_member_it_gives_up_in_time_and_leaves_nothing_behind(nobody):
    settings = SystemSettings(grid_members=(nobody,), cluster_name="nowhere")
    before = threads()
    with pytest.raises(GridUnreachable, match=r"no member of cluster 'nowhere' answers .* `dolphin up`"):
        open_grid(settings, connect_timeout_s=0.2)
    assert not [t.name for t in threads() - before if t.name.startswith("dolphin-grid")]


def test_inline_is_refused(nobody):
    with pytest.raises(GridError, match="'thread'"):
        HazelcastGrid([nobody], dispatcher="inline")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ClientOfflineError(), GridUnreachable),
        (errors.TargetDisconnectedError("gone"), GridUnreachable),
        (errors.IndeterminateOperationStateError("who knows"), GridUnreachable),
        (errors.OperationTimeoutError("late"), GridUnreachable),
        (OSError("no connection"), GridUnreachable),
        (errors.IllegalArgumentError("no"), GridError),
        (errors.HazelcastSerializationError("no"), GridError),
    ],
)
def test_what_leaves_the_outcome_open_is_unreachable(error, kind):
    told = translate(error, "a put of M")
    assert type(told) is kind
    assert "a put of M" in str(told)
    assert "\n" not in str(told)


@pytest.fixture
def link(nobody):
    made = Link(
        [nobody], "nowhere", deadline_s=0.1, heartbeat_s=2.0, heartbeat_timeout_s=10.0, backoff_s=0.05,
        on_state=lambda link, state: None, on_members=lambda: None,
    )  # fmt: skip
    yield made
    made.deadline_s = 5.0
    made.close()


def test_a_question_that_nobody_answers_ends_at_its_deadline(link):
    from hazelcast.future import Future

    with pytest.raises(GridUnreachable, match=r"within 0.1 s; it may have done it"):
        link.ask("a put of M", Future)
    leave = threading.Event()
    with pytest.raises(GridUnreachable, match="within"):
        link.bounded("a proxy", leave.wait)
    leave.set()
    assert link.deadline_misses == 2


def test_offline_calls_fail_at_once(link):
    with pytest.raises(GridUnreachable, match="ClientOfflineError"):
        link.bounded("a map", lambda: link.client.get_map("M"))


def test_the_reactor_s_lag_is_measured(link):
    link.probe_reactor()
    give_up = threading.Event()
    for _ in range(500):
        if link._stale_probe is None:
            break
        give_up.wait(0.01)
    assert link._stale_probe is None
    assert 0.0 < link.reactor_lag_s < 5.0


def test_a_greeting_that_is_not_answered_is_given_up_and_tried_again():
    """The vendor alone would wait for ever for a member that takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20.0)
        taken: list[socket.socket] = []

        def accept() -> None:
            taken.extend(silent.accept()[0] for _ in range(2))

        taking = threading.Thread(target=accept, daemon=True)
        taking.start()
        with pytest.raises(GridUnreachable, match="no member of cluster 'nowhere'"):
            HazelcastGrid(
                [f"127.0.0.1:{silent.getsockname()[1]}"], "nowhere",
                deadline_s=0.2, backoff_s=0.02, connect_timeout_s=4.0,
            )  # fmt: skip
        taking.join(20.0)
        assert len(taken) == 2
        for each in taken:
            each.close()


def test_the_private_corners_are_there(link):
    """What we use of the vendor's inside; a new version that moves it is to be looked at."""
    client: HazelcastClient = link.client
    assert client._listener_service._active_registrations == {}
    assert client._connection_manager.active_connections == {}
    assert callable(client._reactor.add_timer)
    assert isinstance(client._invocation_service._pending, dict)
    assert client._config.reconnect_mode == ReconnectMode.ASYNC
    assert client._config.redo_operation is False
    assert client._config.smart_routing is False
    assert client._config.cluster_connect_timeout == -1
    assert client._config.fail_on_indeterminate_operation_state is True

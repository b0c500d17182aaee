"""The circuit breaker of writes that nobody waits for."""

from __future__ import annotations

from dolphin.domain.clock import NS_PER_S
from dolphin.services.circuit import BACKOFF_MAX_NS, FAILURES_TO_OPEN, Circuit

S = NS_PER_S


def opened(at_ns: int = 100 * S) -> Circuit:
    circuit = Circuit()
    for _ in range(FAILURES_TO_OPEN):
        assert circuit.allows(at_ns)
        circuit.failed(at_ns)
    assert circuit.state == "open"
    return circuit


def test_five_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    circuit = Circuit()
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            circuit.failed(0)
        assert circuit.state == "closed"
        circuit.succeeded()
    opened()


def test_nothing_is_tried_until_the_backoff_has_passed_then_one_probe() -> None:
    circuit = opened(100 * S)
    assert not circuit.allows(100 * S)
    assert not circuit.allows(101 * S - 1)
    assert circuit.allows(101 * S)
    assert circuit.state == "half_open"
    circuit.succeeded()
    assert circuit.state == "closed"
    assert circuit.allows(101 * S)


def test_the_backoff_doubles_up_to_a_minute_and_a_success_forgets_it() -> None:
    circuit = opened(0)
    at, waits = 0, []
    for _ in range(9):
        at = next(t for t in range(at, at + 2 * BACKOFF_MAX_NS, S // 2) if circuit.allows(t))
        waits.append(at)
        circuit.failed(at)
    gaps = [b - a for a, b in zip([0, *waits], waits, strict=False)]
    assert [gap // S for gap in gaps] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    circuit.allows(at + BACKOFF_MAX_NS)
    circuit.succeeded()
    for _ in range(FAILURES_TO_OPEN):
        circuit.failed(at)
    assert circuit.allows(at + S)


def test_one_failure_may_be_enough_and_the_bound_another() -> None:
    circuit, at, gaps = Circuit(failures_to_open=1, backoff_max_ns=30 * S), 0, []
    circuit.failed(at)
    for _ in range(7):
        before, at = at, next(t for t in range(at, at + 100 * S, S // 2) if circuit.allows(t))
        gaps.append((at - before) // S)
        circuit.failed(at)
    assert gaps == [1, 2, 4, 8, 16, 30, 30]


def test_a_clock_that_is_set_back_does_not_keep_it_open() -> None:
    circuit = opened(10_000 * S)
    assert circuit.allows(100 * S)

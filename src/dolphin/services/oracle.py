"""The standing oracle: one live scan of many is certified again, in a process of its own.

Entry point: `OracleService`. Which scans is a matter of their number and stamp, so that everybody can tell.
Scan and price ring are read from the store; nothing is asked of the scanner, which knows nothing of it. A
scan that does not come out the same, to the bit, engages the kill switch: no entries until a person has
looked and lifted it. The arithmetic runs in a child that is replaced now and then, because the library keeps
a little of every check for good. What is behind is left out rather than queued without bound.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeAlias

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import WARMUP_PRICES, Scan
from dolphin.grid.payloads import ScanPayload
from dolphin.grid.port import GridError, Subscription
from dolphin.grid.topics import SCAN
from dolphin.market.price_ring import read_rows
from dolphin.market.scan_store import ScanStore
from dolphin.scan.recertify import differences, recertified
from dolphin.scan.ring import RingRow, decode_row, row_bytes
from dolphin.services.kill_switch import DAMAGED, ORACLE, KillSwitch
from dolphin.services.pipeline import RING_FILE
from dolphin.services.service import Context

#: Scans that wait to be certified at most; the oldest are left out.
WAITING_MAX: Final = 16
#: How long a scan's row in the ring is waited for, seconds.
RING_WAIT_S: Final = 30.0
#: Checks of one child, and the longest wait for one, seconds.
CHECKS_A_CHILD: Final = 16
CHECK_MAX_S: Final = 60.0

Again: TypeAlias = Callable[[tuple[str, ...], Sequence[RingRow], int], Scan]


def chosen(scan_number: int, timestamp_ns: int, every: int) -> bool:
    """Whether the oracle looks at a scan: one in `every` on average, whoever asks."""
    return zlib.crc32(f"{scan_number}:{timestamp_ns}".encode()) % every == 0


class Children:
    """`recertified` in a process that is replaced every few checks."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def again(self, symbols: tuple[str, ...], rows: Sequence[RingRow], scan_number: int) -> Scan:
        """See `recertified`. Raises DataError too when the child died or did not answer."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=CHECKS_A_CHILD
            )
        try:
            return self._pool.submit(recertified, symbols, list(rows), scan_number).result(CHECK_MAX_S)
        except (BrokenProcessPool, TimeoutError) as error:
            self.close()
            raise DataError(f"the check did not end ({type(error).__name__})") from error

    def close(self) -> None:
        """End the child; the next check has another one."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


class OracleService:
    """See the module. again makes a scan again; by default in a child of this process."""

    period_s = 5.0

    def __init__(self, context: Context, again: Again | None = None) -> None:
        self.context = context
        self._children = Children()
        self._again = self._children.again if again is None else again
        self._store = ScanStore(context.home.market)
        self._switch = KillSwitch(context.home.kill_switch)
        self._waiting: deque[tuple[int, int]] = deque(maxlen=WAITING_MAX)
        self._subscription: Subscription | None = None
        self._mismatch = ""
        self._engaged = False
        self._checked_number: int | None = None
        self._lag_s = 0.0

    @property
    def phase(self) -> str:
        """See `Service.phase`."""
        return "halted" if self._halted else "running"

    @property
    def _halted(self) -> bool:
        """From a mismatch on until a person lifts what was engaged for it."""
        if not self._mismatch or not self._engaged:
            return bool(self._mismatch)
        state = self._switch.read()
        return state is not None and not {ORACLE, DAMAGED}.isdisjoint(state.engaged)

    def health(self) -> tuple[bool, str]:
        """A mismatch is not healthy until the oracle's engagement is lifted."""
        if self._halted:
            return False, self._mismatch
        n = self.context.counts["certified"]
        told = "no scan chosen yet" if self._checked_number is None else f"last scan {self._checked_number}"
        return True, f"{n} certified again, {told}"

    def gauges(self) -> dict[str, float]:
        """See `Service.gauges`."""
        return {
            "waiting": float(len(self._waiting)),
            "mismatch": float(self._halted),
            "checked": float(self.context.counts["certified"] + self.context.counts["mismatches"]),
            "mismatches": float(self.context.counts["mismatches"]),
            "lag_s": self._lag_s,
        }

    def start(self) -> None:
        """Listen to scans; a grid that is away is listened to later."""
        with contextlib.suppress(GridError):
            self._listen()

    def _listen(self) -> None:
        def heard(payload: ScanPayload, event: object) -> None:
            number, stamp = payload.scan_number, payload.timestamp_ns
            if chosen(number, stamp, self.context.settings.oracle_every):
                self._waiting.append((number, stamp))
                self.context.wake.set()

        self._subscription = self.context.grid.listen(SCAN, heard)

    def tick(self) -> None:
        """Certify one scan that waits."""
        if self._mismatch and not self._engaged:
            self._engage()
        if self._subscription is None:
            self._listen()
        if not self._waiting:
            return
        number, stamp = self._waiting.popleft()
        try:
            self._certify(number, stamp)
        except _NotYetError:
            self._waiting.appendleft((number, stamp))
            return
        except (DataError, StoreError) as error:
            # The ring may have moved on, or the scan was set aside: nothing is proven, nothing refuted.
            self.context.counts["not_certified"] += 1
            self.context.tell("oracle", f"scan {number} could not be certified again: {error}")
        if self._waiting:
            self.context.wake.set()

    def _certify(self, number: int, stamp: int) -> None:
        path = self._store.find(number)
        if path is None:
            raise DataError(f"it is not in {self._store.folder}")
        scan = self._store.read(path)
        if scan.timestamp_ns != stamp:
            raise DataError("another scan has its number by now")
        ring = self.context.home.market / RING_FILE
        rows = [decode_row(row) for row in read_rows(ring, row_bytes(len(scan.assets)))]
        if rows and rows[-1].timestamp_ns < stamp and self._age_s(stamp) < RING_WAIT_S:
            # The file is written first, the ring's row behind it.
            raise _NotYetError
        upto = [row for row in rows if row.timestamp_ns <= stamp]
        if not upto or upto[-1].timestamp_ns != stamp:
            raise DataError(f"its row is not in {ring}")
        found = differences(scan, self._again(scan.assets, upto[-WARMUP_PRICES:], number))
        self._checked_number = number
        self._lag_s = self._age_s(stamp)
        if not found:
            self.context.counts["certified"] += 1
            return
        self.context.counts["mismatches"] += 1
        self._mismatch = f"scan {number} does not certify again: {', '.join(found)} differ"
        self._engaged = False
        self._engage()

    def _engage(self) -> None:
        """Stop entries, durably; a disk that refuses is asked again on every tick."""
        try:
            self._switch.engage(
                "HALT", name=ORACLE, by=ORACLE, reason=self._mismatch, now_ns=self.context.clock.now_ns()
            )
        except StoreError as error:
            self.context.tell("oracle", f"{self._mismatch}; THE KILL SWITCH CANNOT BE ENGAGED: {error}")
        else:
            self._engaged = True
            self.context.tell("oracle", f"{self._mismatch}; the kill switch is on")

    def _age_s(self, stamp_ns: int) -> float:
        return (self.context.clock.now_ns() - stamp_ns) / NS_PER_S

    def stop(self) -> None:
        """Stop listening, and end the child."""
        self._children.close()
        if self._subscription is not None:
            self._subscription.close()


class _NotYetError(Exception):
    """The ring has not come to this scan."""

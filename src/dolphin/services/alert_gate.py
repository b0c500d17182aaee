"""Which alerts reach people, and how many: the same one once in five minutes, few of a kind, few altogether.

Entry points: `AlertGate`, `HeldBack`. It reads no clock: the time comes with every call.

Invariants
----------
1. What is held back is counted, and `due` gives the count when its window is over: nothing vanishes.
2. The first alert of a kind in a minute is never held back because of other kinds.
3. Memory is bounded, whatever is told how often.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from dolphin.domain.clock import NS_PER_S

SAME_WINDOW_NS: Final = 300 * NS_PER_S
RATE_WINDOW_NS: Final = 60 * NS_PER_S
OF_A_KIND_MAX: Final = 10
ALTOGETHER_MAX: Final = 30
TEXTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class HeldBack:
    """So many alerts of a kind were not passed on; text is theirs, or the last one's where they differ."""

    kind: str
    text: str
    count: int
    same: bool

    def told(self) -> str:
        """One line for people."""
        if self.same:
            return f"{self.count} more of the same: {self.text}"
        return f"{self.count} more of kind {self.kind} were held back, the last: {self.text}"


@dataclass(slots=True)
class _Window:
    began_ns: int
    text: str
    held: int = 0


class AlertGate:
    """Not safe between threads: whoever owns it locks."""

    def __init__(self) -> None:
        self._same: dict[tuple[str, str], _Window] = {}
        self._by_kind: dict[str, deque[int]] = {}
        self._all: deque[int] = deque()
        self._limited: dict[str, _Window] = {}

    def admit(self, kind: str, text: str, now_ns: int) -> bool:
        """Whether this alert goes to people now; counted for `due` when not."""
        window = self._same.get((kind, text))
        # A clock that was set back ends a window: better told twice than not.
        if window is not None and 0 <= now_ns - window.began_ns < SAME_WINDOW_NS:
            window.held += 1
            return False
        recent = self._by_kind.setdefault(kind, deque())
        for stamps in (recent, self._all):
            while stamps and not 0 <= now_ns - stamps[0] < RATE_WINDOW_NS:
                stamps.popleft()
        too_many = len(recent) >= OF_A_KIND_MAX or (bool(recent) and len(self._all) >= ALTOGETHER_MAX)
        if too_many or len(self._by_kind) > TEXTS_MAX or len(self._same) >= TEXTS_MAX:
            limited = self._limited.setdefault(
                kind if len(self._limited) < TEXTS_MAX else "", _Window(now_ns, text)
            )
            limited.held, limited.text = limited.held + 1, text
            return False
        recent.append(now_ns)
        self._all.append(now_ns)
        self._same[kind, text] = _Window(now_ns, text, 0 if window is None else window.held)
        return True

    def due(self, now_ns: int, *, everything: bool = False) -> list[HeldBack]:
        """What was held back in windows that are over (`everything`: in all); each is given once."""
        found: list[HeldBack] = []
        for (kind, text), window in list(self._same.items()):
            if everything or not 0 <= now_ns - window.began_ns < SAME_WINDOW_NS:
                del self._same[kind, text]
                if window.held:
                    found.append(HeldBack(kind, text, window.held, True))
        for kind, window in list(self._limited.items()):
            if everything or not 0 <= now_ns - window.began_ns < RATE_WINDOW_NS:
                del self._limited[kind]
                found.append(HeldBack(kind, window.text, window.held, False))
        for kind, stamps in list(self._by_kind.items()):
            if not stamps or not 0 <= now_ns - stamps[-1] < RATE_WINDOW_NS:
                del self._by_kind[kind]
        return found

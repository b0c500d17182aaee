"""Is anything listening there: several TCP ports at once, with one short deadline.

Entry points: `open_ports`, `any_open`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Sequence

PROBE_TIMEOUT_S = 0.25


def open_ports(addresses: Sequence[str], timeout_s: float = PROBE_TIMEOUT_S) -> dict[str, bool]:
    """Whether each `host:port` takes a connection within `timeout_s` for all together. Never raises."""
    found = dict.fromkeys(addresses, False)
    deadline = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for address in found:
            host, _, port = address.rpartition(":")
            try:
                probe = stack.enter_context(socket.socket())
                probe.setblocking(False)
                probe.connect_ex((host, int(port)))
                selector.register(probe, selectors.EVENT_WRITE, address)
            except (OSError, ValueError, OverflowError):
                continue
        while selector.get_map():
            left_s = deadline - time.monotonic()
            ready = selector.select(max(0.0, left_s))
            if not ready:
                break
            for key, _ in ready:
                selector.unregister(key.fileobj)
                if isinstance(key.fileobj, socket.socket):
                    error = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    found[key.data] = error == 0
    return found


def any_open(addresses: Sequence[str], timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether one of them does."""
    return any(open_ports(addresses, timeout_s).values())

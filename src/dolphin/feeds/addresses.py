"""Base addresses of exchanges and of sources: what one may look like. No network, no extra."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def base_parts(address: str) -> SplitResult | None:
    """The parts of a base address, which is scheme, host and port alone; None for anything else.

    What is no address at all, like a port beyond 65535 or half of an IPv6 host, is None too.
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 raises for what is no port
    except ValueError:
        return None
    more = parts.username or parts.password or parts.path.strip("/") or parts.query or parts.fragment
    return None if more or not parts.hostname else parts


def is_safe(parts: SplitResult) -> bool:
    """Whether what is asked there cannot be read on its way: https, or http to this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

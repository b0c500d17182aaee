"""The fixture for the tests beside it; others import it from `exchange.fixtures`."""

from exchange.fixtures import exchange

__all__ = ["exchange"]

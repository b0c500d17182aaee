"""An exchange on loopback: Binance USD-M, Deribit's volatility index and alternative.me's index, for tests.

Entry points: `LoopbackExchange`, `SyntheticMarket`, `ReplayMarket`, `Factors`; or
`python tests/exchange --help`. The real client library talks to it with nothing but changed base addresses.
"""

from .factors import Factors
from .faults import Fault, Faults
from .replay import ReplayMarket
from .server import LoopbackExchange
from .synthetic import SyntheticMarket, symbol_names

__all__ = [
    "Factors",
    "Fault",
    "Faults",
    "LoopbackExchange",
    "ReplayMarket",
    "SyntheticMarket",
    "symbol_names",
]

"""Live market data over the network. ccxt and aiohttp end here; nothing in this package can send an order."""

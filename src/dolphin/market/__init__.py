"""Market adapters: feeds of bars, the Arrow scan store, the price ring, the scan cache, the data passport."""

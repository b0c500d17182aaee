"""The grid: shared state, the same contract inside one process and over a network.

`port` is the contract, `topics` says what the values mean, `typed` joins the two; `inprocess` is the embedded
grid; `near_view` and `shards` are what readers use.
"""

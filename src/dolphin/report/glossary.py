"""The words of the page, for a reader who meets them for the first time."""

# Markup and sentences stay whole on their line.
# ruff: noqa: E501

from __future__ import annotations

GLOSSARY: tuple[tuple[str, str], ...] = (
    ("paper", "Fills are simulated from recorded or live prices. No order left the machine, no money moved."),
    ("scan, bar", "One tick of the scanner: the prices of all assets and the statistics made from them. The engine counts scans as bars."),
    ("λ (lambda)", "Largest eigenvalue of the correlation matrix over a window of bars. High: the market moves as one block. Low: assets go their own ways."),
    ("vel_div", "Velocity divergence: how fast λ changes over 50 bars minus how fast it changes over 750 bars, in 1/s. Strongly negative marks the onset of instability."),
    ("threshold, extreme", "vel_div beyond the threshold is a signal; beyond the extreme level it is the strongest kind."),
    ("bucket", "How strong the signal was at entry: weak, moderate, strong or extreme."),
    ("SHORT, LONG", "A SHORT earns when the price falls, a LONG when it rises."),
    ("lanes", "Five independent judgements that are multiplied into the leverage: base (signal strength), DC, ACB, OB and EsoF. 1.0 is neutral."),
    ("DC", "Direction confirmation: a short momentum check on the chosen asset. A contradiction means no entry."),
    ("ACB", "Adaptive circuit breaker: scales size by the regime of the day."),
    ("OB", "Order book: what resting bids and offers say about the trade. 1.0 without books."),
    ("EsoF", "Esoteric factors (calendar and sky): a haircut between 0 and 1, never an increase."),
    ("raw, cap, bound", "raw is the product of the lanes; the cap is the highest leverage allowed on that bar; bound names the limit that decided."),
    ("leverage", "Internal conviction that sizes the position. Not the leverage setting of an exchange account."),
    ("notional", "Size of the position in USDT: capital × fraction × leverage."),
    ("FIXED_TP", "Exit at the take-profit: the price moved far enough in our favour."),
    ("MAX_HOLD", "Exit because the position reached its longest allowed holding time."),
    ("slippage, fees", "Modelled costs: the price given up by trading at once, and what the exchange charges."),
    ("OB edge", "A gain the model credits for good order placement. Without real books it is imagined, so every result is also shown without it."),
    ("ROI", "Change of capital as a share of the initial capital."),
    ("drawdown", "How far equity is below its highest value so far, marked on every bar."),
    ("profit factor", "Sum of the winning trades divided by the sum of the losing trades. Above 1 is a profit; none without a loss."),
    ("Sharpe", "Mean over spread of the daily returns of marked equity, scaled to a year. Not stated under three days."),
    ("win rate", "Share of closed trades with a net result above zero."),
    ("certified bits", "Proven relative accuracy of the eigenvalues behind each decision, in binary digits. A usual computer number carries 53."),
    ("set, hash", "A frozen set of parameters and its fingerprint: the same hash means the same parameters."),
    ("decisions digest", "SHA-256 over every decision of the run, bar by bar. Two runs with the same digest decided the same."),
    ("ledger balanced", "The cash flows of all trades add up exactly to the change of equity."),
)  # fmt: skip

"""Figures, as ratios against named baselines of the same run. `python -m benchmarks` runs them all."""

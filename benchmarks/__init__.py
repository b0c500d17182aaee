"""Figures, as ratios against named baselines measured in the same run. `python -m benchmarks` runs them all."""

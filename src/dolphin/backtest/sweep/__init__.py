"""Sweeps: many bindings of parameters over one period, from a plan file to results that survive a kill."""

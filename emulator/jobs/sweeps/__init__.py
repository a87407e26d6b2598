"""Sweeps: many trials drawn, run, compared, ended early, and the best one named."""

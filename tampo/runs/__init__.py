"""Runs: training runs and evaluations that are made once, kept, resumed, and made side by side."""

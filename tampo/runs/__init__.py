"""Runs: training runs and evaluations, stored once, resumed after an interruption, and run in parallel."""

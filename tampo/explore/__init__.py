"""Explore: stored and running training runs in a notebook."""

"""The paper: its experiments, tables, figures and claims, and the studies beyond it."""

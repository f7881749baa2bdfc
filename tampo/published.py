"""The numbers the paper published, as data: what ours are shown beside."""

BENCHMARKS = ("AIME24", "MATH-500", "AMC23", "Minerva", "OlympiadBench")

# Table 1: (Pass@1, Pass@8) in percent, the average and then the benchmarks in the order above.
TABLE1: dict[str, tuple[tuple[float, float], ...]] = {
    "base": ((39.1, 57.8), (13.3, 26.7), (76.2, 89.2), (45.0, 72.5), (22.8, 41.5), (38.4, 59.0)),
    "fixed-0.9": ((42.0, 60.8), (20.0, 30.0), (75.2, 91.0), (50.0, 80.0), (26.1, 43.4), (38.7, 59.4)),
    "fixed-1.2": ((41.6, 61.1), (20.0, 33.3), (77.4, 90.6), (50.0, 77.5), (22.4, 43.4), (38.1, 60.5)),
    "fixed-1.5": ((42.6, 62.1), (23.3, 36.7), (75.4, 90.8), (52.5, 77.5), (22.8, 44.5), (39.0, 61.2)),
    "linear": ((42.8, 59.7), (16.7, 30.0), (76.6, 89.8), (55.0, 77.5), (24.6, 40.8), (41.0, 60.4)),
    "tampo": ((44.5, 63.8), (23.3, 40.0), (76.8, 91.0), (55.0, 82.5), (27.9, 44.8), (39.6, 60.7)),
}


def table1_value(method: str, benchmark: str, metric: str) -> float | None:
    """The published cell of Table 1, in percent; None for a benchmark or metric that is not in it.

    Args:
        method: A key of `TABLE1`.
        benchmark: "Average" or one of `BENCHMARKS`.
        metric: "pass@1" or "pass@8".
    """
    columns = ("Average", *BENCHMARKS)
    metrics = ("pass@1", "pass@8")
    if method not in TABLE1 or benchmark not in columns or metric not in metrics:
        return None
    return TABLE1[method][columns.index(benchmark)][metrics.index(metric)]

"""The results that the paper published."""

BENCHMARKS = ("AIME24", "MATH-500", "AMC23", "Minerva", "OlympiadBench")

# In percent: the average, then the benchmarks in this order. Keys are those of `tampo.paper.experiments`.
_TAMPO_1 = (44.5, 23.3, 76.8, 55.0, 27.9, 39.6)
_TAMPO_8 = (63.8, 40.0, 91.0, 82.5, 44.8, 60.7)
_MATH: dict[int, dict[str, dict[str, tuple[float, ...]]]] = {
    1: {
        "base": {"pass@1": (39.1, 13.3, 76.2, 45.0, 22.8, 38.4), "pass@8": (57.8, 26.7, 89.2, 72.5, 41.5, 59.0)},
        "fixed-0.9": {"pass@1": (42.0, 20.0, 75.2, 50.0, 26.1, 38.7), "pass@8": (60.8, 30.0, 91.0, 80.0, 43.4, 59.4)},
        "fixed-1.2": {"pass@1": (41.6, 20.0, 77.4, 50.0, 22.4, 38.1), "pass@8": (61.1, 33.3, 90.6, 77.5, 43.4, 60.5)},
        "fixed-1.5": {"pass@1": (42.6, 23.3, 75.4, 52.5, 22.8, 39.0), "pass@8": (62.1, 36.7, 90.8, 77.5, 44.5, 61.2)},
        "linear": {"pass@1": (42.8, 16.7, 76.6, 55.0, 24.6, 41.0), "pass@8": (59.7, 30.0, 89.8, 77.5, 40.8, 60.4)},
        "tampo": {"pass@1": _TAMPO_1, "pass@8": _TAMPO_8},
    },
    2: {
        "alpha-0.01": {"pass@1": (41.6, 20.0, 75.2, 50.0, 25.4, 37.5)},
        "tampo": {"pass@1": _TAMPO_1},
        "alpha-0.1": {"pass@1": (43.6, 23.3, 75.4, 57.5, 23.2, 38.8)},
    },
    3: {
        "p-0.9": {"pass@1": (43.0, 20.0, 76.6, 52.5, 26.1, 39.7)},
        "tampo": {"pass@1": _TAMPO_1},
        "p-0.5": {"pass@1": (42.2, 23.3, 75.4, 50.0, 24.3, 38.1)},
        "p-0": {"pass@1": (40.9, 20.0, 73.8, 50.0, 23.5, 37.2)},
    },
    4: {
        "run-1": {"pass@1": _TAMPO_1, "pass@8": _TAMPO_8},
        "run-2": {"pass@1": (44.6, 20.0, 77.6, 57.5, 28.7, 39.2), "pass@8": (63.6, 36.7, 90.8, 85.0, 45.6, 59.9)},
        "run-3": {"pass@1": (44.3, 23.3, 76.6, 55.0, 26.8, 39.9), "pass@8": (63.6, 40.0, 90.8, 82.5, 44.5, 60.4)},
    },
}
# Table 5 has one benchmark.
_ECQA: dict[str, dict[str, float]] = {
    "base": {"pass@1": 73.06, "pass@8": 77.76},
    "grpo": {"pass@1": 75.07, "pass@8": 78.94},
    "tampo": {"pass@1": 76.12, "pass@8": 79.67},
}

TABLES: dict[int, dict[str, dict[str, dict[str, float]]]] = {
    number: {
        key: {metric: dict(zip(("Average", *BENCHMARKS), values, strict=True)) for metric, values in metrics.items()}
        for key, metrics in rows.items()
    }
    for number, rows in _MATH.items()
} | {5: {key: {metric: {"ECQA": value} for metric, value in row.items()} for key, row in _ECQA.items()}}
"""Every number of Tables 1 to 5, in percent: `TABLES[table][row][metric][benchmark]`."""


def published_value(table: int, row: str, metric: str, benchmark: str = "Average") -> float | None:
    """A cell of one of the paper's tables, in percent; None if the paper has no such cell.

    Args:
        table: 1 to 5.
        row: A method's key, such as "fixed-0.9", "alpha-0.01" or "run-2".
        metric: "pass@1" or "pass@8".
        benchmark: "Average", one of `BENCHMARKS`, or for Table 5 "ECQA".
    """
    return TABLES.get(table, {}).get(row, {}).get(metric, {}).get(benchmark)

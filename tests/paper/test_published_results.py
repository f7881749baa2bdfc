"""The published numbers are typed in: each average must be the mean of its columns."""

import numpy as np
import pytest

from tampo.paper.experiments import TABLE1, TABLE2, TABLE3, TABLE5
from tampo.paper.published_results import BENCHMARKS, TABLES, published_value


def cells():
    return [
        (table, row, metric, values)
        for table, rows in TABLES.items()
        for row, metrics in rows.items()
        for metric, values in metrics.items()
    ]


def test_how_many_numbers_there_are():
    """Six methods by twelve columns, three and four rows by six, three runs by twelve, three rows by two."""
    counts = {table: sum(len(values) for number, _, _, values in cells() if number == table) for table in TABLES}
    assert counts == {1: 72, 2: 18, 3: 24, 4: 36, 5: 6}


@pytest.mark.parametrize(("table", "row", "metric", "values"), [cell for cell in cells() if cell[0] != 5])
def test_averages_are_the_means_of_their_columns(table, row, metric, values):
    assert tuple(values) == ("Average", *BENCHMARKS)
    assert values["Average"] == pytest.approx(np.mean([values[name] for name in BENCHMARKS]), abs=0.0501)


def test_pass_at_8_is_never_below_pass_at_1():
    for rows in TABLES.values():
        for metrics in rows.values():
            if "pass@8" in metrics:
                assert all(metrics["pass@8"][name] >= value for name, value in metrics["pass@1"].items())


def test_the_default_is_one_and_the_same_training_in_tables_1_to_4():
    rows = [TABLES[1]["tampo"], TABLES[2]["tampo"], TABLES[3]["tampo"], TABLES[4]["run-1"]]
    assert len({tuple(row["pass@1"].values()) for row in rows}) == 1
    assert TABLES[1]["tampo"]["pass@8"] == TABLES[4]["run-1"]["pass@8"]


@pytest.mark.parametrize(("table", "methods"), [(1, TABLE1), (2, TABLE2), (3, TABLE3), (5, TABLE5)])
def test_rows_are_keyed_as_our_methods_are(table, methods):
    assert {method.key for method in methods} == set(TABLES[table])


def test_what_the_paper_does_not_have_is_none():
    assert published_value(1, "tampo", "pass@1") == 44.5
    assert published_value(5, "grpo", "pass@8", "ECQA") == 78.94
    for cell in ((1, "tampo", "avg@8"), (2, "tampo", "pass@8"), (1, "cosine", "pass@1"), (6, "tampo", "pass@1")):
        assert published_value(*cell) is None
    assert published_value(1, "tampo", "pass@1", "gcd") is None

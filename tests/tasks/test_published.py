"""Problem sets: both sources, every check on rows, and overlaps against the labels in the local files.

Tests of the real files run where TAMPO_DATA_DIR names their folder. Nothing here uses the network.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import datasets
import httpx
import huggingface_hub
import pytest
from datasets.arrow_writer import ArrowWriter

from tampo.tasks.hub import hub_commit
from tampo.tasks.mini import Problem
from tampo.tasks.overlaps import drop_overlaps, overlaps
from tampo.tasks.published import (
    BENCHMARKS,
    DATA_DIR_VARIABLE,
    LETTERS,
    TRAINING_SETS,
    DataError,
    load_benchmark,
    load_training,
    read_jsonl,
)

REAL = os.environ.get(DATA_DIR_VARIABLE, "")
needs_files = pytest.mark.skipif(not REAL, reason=f"{DATA_DIR_VARIABLE} names no folder with the real files")

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)


def load(name, **options):
    return (load_training if name in TRAINING_SETS else load_benchmark)(name, **options)


def ecqa_row(i):
    return {"q_no": f"{i:032x}", "q_text": f"Where is {i}?", "q_ans": "c"} | {
        f"q_op{n}": text for n, text in enumerate("abcde", 1)
    }


# As the hub has them: set -> (rows, id, split, one row).
HUB = {
    "AIME24": (30, "HuggingFaceH4/aime_2024", "train", lambda i: {"id": 60 + i, "problem": f"Q {i}", "answer": "033"}),
    "MATH-500": (
        500,
        "HuggingFaceH4/MATH-500",
        "test",
        lambda i: {
            "problem": f"Q {i}",
            "solution": "so",
            "answer": r"\frac{1}{2}",
            "subject": "Algebra",
            "level": 3,
            "unique_id": f"test/algebra/{i}.json",
        },
    ),
    "AMC23": (40, "knoveleng/AMC-23", "train", lambda i: {"problem": f"Q {i}", "answer": 27.0}),
    "Minerva": (
        272,
        "knoveleng/Minerva-Math",
        "train",
        lambda i: {"problem": f"Q {i}", "solution": r"\boxed{0}, no: \boxed{ \frac{1}{\sqrt{2}} \} } m", "type": "x"},
    ),
    "OlympiadBench": (
        674,
        "knoveleng/OlympiadBench",
        "train",
        lambda i: {
            "id": 1600 + i,
            "question": f"Q {i}",
            "final_answer": ["$2$", "3"],
            "answer": "2",
            "is_multiple_answer": True,
            "unit": None,
            "error": "1e-1" if i == 0 else None,
            "answer_type": "Numerical",
        },
    ),
    "ECQA": (2194, "tasksource/ecqa", "test", ecqa_row),
    "open-s1": (18615, "knoveleng/open-s1", "train", lambda i: {"problem": f"Q {i}", "solution": "", "answer": f"{i}"}),
    "ecqa": (7598, "tasksource/ecqa", "train", ecqa_row),
}


# The newest commit of each of the others is asked for.
PINNED = {
    "AIME24": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "MATH-500": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
}


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub that is online: call it with the rows to serve; it returns the list of its calls."""

    def serve(rows):
        calls = []

        def load_dataset(path, split, revision):
            calls.append((path, split, revision))
            return rows if isinstance(rows, datasets.Dataset) else datasets.Dataset.from_list(rows)

        def repo_info(self, path, repo_type, revision, timeout):
            return huggingface_hub.DatasetInfo(id=path, sha=revision or COMMIT)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
        monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
        hub_commit.cache_clear()
        return calls

    return serve


def hub_rows(name, **changes):
    count, _, _, row = HUB[name]
    rows = [row(i) for i in range(count)]
    return [rows[0] | changes, *rows[1:]]


def test_every_set_has_a_case():
    assert set(HUB) == {*BENCHMARKS, *TRAINING_SETS}


@pytest.mark.parametrize("name", HUB)
def test_hub_sets(name, hub):
    count, dataset, split, _ = HUB[name]
    calls = hub(hub_rows(name))
    loaded = load(name)
    commit = PINNED.get(name, COMMIT)
    assert calls == [(dataset, split, commit)]
    source = dict(loaded.source)
    assert source.pop("letters", "").startswith("the first option") == (name.lower() == "ecqa")
    expected = {"name": name, "dataset": dataset, "split": split, "revision": commit, "rows": count}
    assert source == expected | {"files": {}, "stand_in": None}
    json.dumps(loaded.source)
    assert len({p.id for p in loaded.problems}) == len(loaded.problems) == count
    assert {p.task for p in loaded.problems} == {"ECQA" if name == "ecqa" else name}
    assert load(name, limit=3).problems == loaded.problems[:3]


@pytest.mark.parametrize(
    ("name", "id", "answer"),
    [
        ("AIME24", "aime24-60", "33"),
        ("MATH-500", "test/algebra/0.json", r"\frac{1}{2}"),
        ("AMC23", "amc23-" + hashlib.sha256(b"Q 0").hexdigest()[:12], "27"),
        ("Minerva", "minerva-" + hashlib.sha256(b"Q 0").hexdigest()[:12], r"\frac{1}{\sqrt{2}} \}"),
        ("OlympiadBench", "olympiadbench-1600", "$2$, 3"),
        ("ECQA", "0" * 32, "C"),
    ],
)
def test_hub_rows_become_problems(name, id, answer, hub):
    hub(hub_rows(name, **({"q_no": "ecqa"} if name == "ECQA" else {})))
    first = load(name).problems[0]
    assert (first.id, first.answer) == ("ecqa" if name == "ECQA" else id, answer)


def test_olympiad_metadata(hub):
    hub(hub_rows("OlympiadBench"))
    first, second = load("OlympiadBench", limit=2).problems
    assert first.metadata == {
        "final_answer": ["$2$", "3"],
        "is_multiple_answer": True,
        "unit": None,
        "error": 0.1,
        "answer_type": "Numerical",
    }
    assert second.metadata["error"] is None
    for written, read in (("", None), ("0", 0.0)):
        hub(hub_rows("OlympiadBench", error=written))
        assert load("OlympiadBench", limit=1).problems[0].metadata["error"] == read
    hub([{k: row[k] for k in ("question", "final_answer", "answer")} for row in hub_rows("OlympiadBench")])
    bare = load("OlympiadBench", limit=1).problems[0].metadata
    assert bare == dict.fromkeys(first.metadata) | {"final_answer": ["$2$", "3"]}


def test_olympiad_may_have_675_rows(hub):
    hub([*hub_rows("OlympiadBench"), HUB["OlympiadBench"][3](674)])
    assert load("OlympiadBench").source["rows"] == 675


def test_ecqa_by_text_takes_the_first_of_equal_options_and_counts_them(hub):
    hub(hub_rows("ECQA", q_op2=" c", q_ans="c "))
    loaded = load("ECQA")
    assert loaded.problems[0].answer == "B"
    assert loaded.problems[0].metadata == {"choices": ["a", "c", "c", "d", "e"], "letter": "B", "answer_text": "c"}
    assert "two options have the gold text in 1 rows" in loaded.source["letters"]


def test_a_question_printed_twice_keeps_both_ids(hub):
    rows = hub_rows("AMC23")
    hub([*rows[:38], *rows[:1], *rows[:1]])
    ids = [p.id for p in load("AMC23").problems]
    assert ids[38:] == [f"{ids[0]}-2", f"{ids[0]}-3"]


BAD_ROWS = [
    ("MATH-500", {"answer": "  "}, r"HuggingFaceH4/MATH-500 \[test\], row 0, column 'answer'.*not blank"),
    ("MATH-500", {"answer": None}, "column 'answer': expected text that is not blank, found None"),
    ("MATH-500", {"unique_id": "test/algebra/1.json"}, "row 1, column 'unique_id': expected a unique id"),
    ("AIME24", {"answer": "7.5"}, "column 'answer': expected a whole number, found '7.5'"),
    ("AIME24", {"answer": "x"}, "expected a whole number"),
    ("AIME24", {"answer": ""}, "expected a whole number"),
    ("AIME24", {"answer": "inf"}, "expected a whole number"),
    ("AIME24", {"answer": None}, "expected a whole number, found None"),
    ("Minerva", {"solution": r"no box \boxed{"}, r"column 'solution': expected a solution with its answer in"),
    ("Minerva", {"solution": r"\boxed{ }"}, "column 'solution'"),
    ("OlympiadBench", {"final_answer": []}, "column 'final_answer': expected a list of texts"),
    ("OlympiadBench", {"final_answer": [" "]}, "column 'final_answer': expected a list of texts"),
    ("OlympiadBench", {"error": "small"}, "column 'error': expected a number or nothing, found 'small'"),
    ("ECQA", {"q_ans": "z"}, "column 'q_ans': expected one of the options"),
    ("ECQA", {"q_op4": ""}, "column 'q_op4'"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD_ROWS)
def test_a_bad_row_is_named(name, changes, message, hub):
    hub(hub_rows(name, **changes))
    with pytest.raises(DataError, match=f"^{name}: .*{message}.*revision=.*data_dir="):
        load(name, check_rows=False)


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("MATH-500", "answer", 3, "expected text"),
        ("OlympiadBench", "final_answer", "2", "expected a list of texts"),
        ("OlympiadBench", "is_multiple_answer", "no", "expected bool or nothing"),
        ("OlympiadBench", "unit", 3, "expected str or nothing"),
        ("AIME24", "answer", True, "expected a whole number, found True"),
    ],
)
def test_a_column_of_another_type_is_named(name, column, value, message, hub):
    hub([row | {column: value} for row in hub_rows(name)])
    with pytest.raises(DataError, match=f"row 0, column '{column}': {message}"):
        load(name)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("AIME24", "answer"),
        ("MATH-500", "level"),
        ("MATH-500", "unique_id"),
        ("Minerva", "solution"),
        ("OlympiadBench", "question"),
        ("OlympiadBench", "final_answer"),
        ("ECQA", "q_op5"),
        ("open-s1", "problem"),
    ],
)
def test_a_missing_column_is_named_with_those_found(name, column, hub):
    hub([{k: v for k, v in row.items() if k != column} | {"other": 1} for row in hub_rows(name)])
    with pytest.raises(DataError, match=rf"^{name}: .*column '{column}': expected such a column, found only .*'other'"):
        load(name)


@pytest.mark.parametrize("name", HUB)
def test_a_wrong_number_of_rows_is_an_error_unless_allowed(name, hub):
    count, dataset, _, _ = HUB[name]
    hub(hub_rows(name)[:-1])
    expected = "674 or 675" if name == "OlympiadBench" else str(count)
    with pytest.raises(
        DataError, match=rf"{name}: expected {expected} rows, found {count - 1} in {dataset}.*check_rows"
    ):
        load(name, limit=1)
    loaded = load(name, check_rows=False)
    assert len(loaded.problems) == loaded.source["rows"] == count - 1
    more = 676 if name == "OlympiadBench" else count + 1
    hub([HUB[name][3](i) for i in range(more)])
    with pytest.raises(DataError, match=f"{name}: expected {expected} rows, found {more}"):
        load(name)


def test_unknown_names_and_limits():
    with pytest.raises(DataError, match="No problem set 'AIME' here; known are AIME24, MATH-500"):
        load_benchmark("AIME")
    with pytest.raises(DataError, match="known are open-s1, ecqa"):
        load_training("AIME24")
    with pytest.raises(DataError, match="limit must be at least 1, got 0"):
        load_benchmark("AIME24", limit=0)


def test_a_revision_is_passed_on_and_recorded(hub):
    calls = hub(hub_rows("AMC23"))
    assert load("AMC23", revision=OTHER).source["revision"] == OTHER
    assert calls == [("knoveleng/AMC-23", "train", OTHER)]


def test_where_the_commit_cannot_be_resolved_the_set_is_still_loaded(hub, monkeypatch):
    def unreachable(self, path, repo_type, revision, timeout):
        raise httpx.ConnectError("no route")

    calls = hub(hub_rows("AMC23"))
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    assert load("AMC23").source["revision"] is None
    assert load("AMC23", revision=OTHER).source["revision"] == OTHER
    assert [revision for _, _, revision in calls] == [None, OTHER]


@pytest.mark.parametrize("error", [ConnectionError("down"), ValueError("Unknown split"), httpx.ReadError("cut")])
def test_an_unreachable_set_says_the_way_out(error, hub, monkeypatch):
    def load_dataset(*args, **options):
        raise error

    hub([])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=rf"AMC23: cannot load knoveleng/AMC-23 \[train\].*{error}.*amc23.jsonl"):
        load("AMC23")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """AMC23 in the cache of `datasets` as a download leaves it, read offline by the real `load_dataset`."""
    folder = tmp_path / "knoveleng___amc-23" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    data = datasets.Dataset.from_list(hub_rows("AMC23"))
    with ArrowWriter(path=str(folder / "amc-23-train.arrow"), features=data.features) as writer:
        writer.write_table(data.data.table)
        rows, size = writer.finalize()
    split = {"name": "train", "num_bytes": size, "num_examples": rows, "dataset_name": "amc-23"}
    datasets.DatasetInfo(
        features=data.features,
        builder_name="parquet",
        dataset_name="amc-23",
        config_name="default",
        version="0.0.0",
        splits={"train": split},
    ).write_to_directory(str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def test_offline_the_revision_is_that_of_the_cached_copy(cached):
    for revision in (None, "main", COMMIT):
        assert load("AMC23", revision=revision).source["revision"] == COMMIT


def test_offline_another_revision_than_the_cached_one_is_refused(cached):
    # `datasets` itself serves the cached copy, whatever revision it is asked for.
    served = datasets.load_dataset("knoveleng/AMC-23", split="train", revision=OTHER)
    assert COMMIT in served.cache_files[0]["filename"]
    message = f"revision {OTHER} of knoveleng/AMC-23 is not in the cache .*, or give data_revisions {{AMC23: {COMMIT}}}"
    with pytest.raises(DataError, match=message):
        load("AMC23", revision=OTHER)


def test_offline_and_not_cached_says_the_way_out(cached):
    with pytest.raises(DataError, match=r"AIME24: cannot load HuggingFaceH4/aime_2024.*aime24\.jsonl"):
        load("AIME24")


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_keeps_line_separators_inside_texts(tmp_path):
    text = "a\u2028b\u2029c\x85d\x0be"
    path = write_jsonl(tmp_path / "x.jsonl", [{"problem": text}, {"problem": "next"}])
    assert [(n, row["problem"]) for n, row in read_jsonl(path)] == [(1, text), (2, "next")]


def test_jsonl_names_file_and_line(tmp_path):
    path = tmp_path / "x.jsonl"
    for bad in (b"{", b"\xff\xfe", b"[1]", b'{"a": 1} {"b": 2}'):
        path.write_bytes(b'{"a": 1}\r\n\n' + bad + b"\n")
        with pytest.raises(DataError, match=rf"{re.escape(str(path))}, line 3: "):
            list(read_jsonl(path))


def test_a_missing_file_says_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*amc23.jsonl: No such file.*TAMPO_DATA_DIR"):
        load("AMC23", data_dir=tmp_path)


def test_local_files(tmp_path, monkeypatch):
    rows = [{"id": f"amc23-{i}", "problem": f"a\u2028{i}", "answer": f"0{i}"} for i in range(40)]
    path = write_jsonl(tmp_path / "amc23.jsonl", rows)
    loaded = load("AMC23", data_dir=str(tmp_path))
    assert [(p.id, p.question, p.answer) for p in loaded.problems[:2]] == [
        ("amc23-0", "a\u20280", "0"),
        ("amc23-1", "a\u20281", "1"),
    ]
    assert loaded.source["files"] == {"amc23.jsonl": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert loaded.source["revision"] is None
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    assert load("AMC23") == loaded
    with pytest.raises(DataError, match="revision 'main' is one on the hub"):
        load("AMC23", revision="main")
    write_jsonl(path, [*rows[:5], {"id": "amc23-5", "problem": "x"}, *rows[6:]])
    with pytest.raises(DataError, match=rf"AMC23: {re.escape(str(path))}, line 6, column 'answer': expected such"):
        load("AMC23")
    write_jsonl(path, rows[:39])
    with pytest.raises(DataError, match="expected 40 rows, found 39"):
        load("AMC23")


@pytest.mark.parametrize("changes", [{"answer": "F"}, {"answer": "AB"}, {"answer_text": "b"}, {"choices": ["a"] * 4}])
def test_local_letters_must_agree_with_the_text(changes, tmp_path):
    row = {"id": "1", "problem": "Q?", "choices": ["a", "a", "c", "d", "e"], "answer": "B", "answer_text": "a"}
    write_jsonl(tmp_path / "ecqa_test.jsonl", [row])
    loaded = load("ECQA", data_dir=tmp_path, check_rows=False)
    assert loaded.problems[0].answer == "B"  # the first option has that text too
    assert loaded.source["letters"].startswith("the files give them; two options have the gold text in 1 rows")
    write_jsonl(tmp_path / "ecqa_test.jsonl", [row | changes])
    with pytest.raises(DataError, match="line 1, column '(answer|choices)'"):
        load("ECQA", data_dir=tmp_path, check_rows=False)


def problem(name, question):
    return Problem(name, "t", question, "1", {})


def test_overlaps():
    evaluation = [
        problem("e1", "What is the sum of the first ten primes?"),
        problem("e2", "Find $x$."),
        problem("e3", "…"),
        problem("e4", "Let $n$ be the least integer such that all of its digits are odd and n is prime."),
    ]
    training = [
        problem("t1", "what is the sum of the first ten Primes"),
        problem("t2", "Find x"),
        problem("t3", "Find y"),
        problem("t4", "!!!"),
        problem("t5", "Let n be the least integer such that all of its digits are odd and n is even."),
        problem("t6", "What is the sum of all odd integers?"),
    ]
    # e4 and t5 have 18 words, so 14 shingles each, of which the last one alone differs: 13 / 15.
    assert overlaps(training, evaluation) == [("t1", "e1", "equal"), ("t2", "e2", "equal"), ("t5", "e4", "near 0.87")]
    kept, dropped = drop_overlaps(training, evaluation)
    assert [p.id for p in kept] == ["t3", "t4", "t6"]
    assert [p.id for p in dropped] == ["t1", "t2", "t5"]


def test_overlap_similarity_against_plain_loops():
    def shingles(text):
        words = text.split()
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}

    texts = [" ".join(str((i * k) % 7) for k in range(5, 5 + 6 + i)) for i in range(12)]
    made = [problem(f"p{i}", text) for i, text in enumerate(texts)]
    expected = set()
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            one, two = shingles(a), shingles(b)
            if a == b or len(one & two) / len(one | two) >= 0.6:
                expected.add((f"p{i}", f"p{j}"))
    assert {(a, b) for a, b, _ in overlaps(made, made)} == expected
    assert all((p.id, p.id, "equal") in overlaps(made, made) for p in made)


@pytest.fixture(scope="module")
def real():
    assert REAL
    return {name: load(name, data_dir=REAL) for name in (*BENCHMARKS, *TRAINING_SETS)}


@needs_files
def test_real_rows_ids_and_golds(real):
    counts = {name: len(loaded.problems) for name, loaded in real.items()}
    assert counts == {name: count for name, (count, *_) in HUB.items()} | {"OlympiadBench": 675, "open-s1": 15_625}
    for loaded in real.values():
        assert all(p.question and p.answer for p in loaded.problems)
    mathematics = [p.id for name, loaded in real.items() if name != "ecqa" for p in loaded.problems]
    assert len(set(mathematics)) == len(mathematics)  # over all benchmarks and open-s1, not just within each


@needs_files
def test_real_stand_in_says_so(real):
    source = real["open-s1"].source
    assert "stand-in" in source["stand_in"] and len(source["files"]) == 4
    assert all(loaded.source["stand_in"] is None for name, loaded in real.items() if name != "open-s1")


@needs_files
def test_real_hashes_are_those_of_the_files(real):
    table = (Path(REAL) / "SOURCES.md").read_text(encoding="utf-8")
    for loaded in real.values():
        for file, digest in loaded.source["files"].items():
            assert re.search(rf"\| {file} \|.*\| {digest} \|", table)


@needs_files
def test_real_jsonl_rows_survive_line_separators():
    rows = [row for _, row in read_jsonl(Path(REAL) / "gsm8k_train.jsonl")]
    assert len(rows) == 7473
    assert sum("\u2028" in row["problem"] for row in rows) == 1


@needs_files
@pytest.mark.parametrize(("name", "twice"), [("ECQA", 10), ("ecqa", 35)])
def test_real_letters_agree_with_the_answer_text(real, name, twice):
    for p in real[name].problems:
        assert len(p.metadata["choices"]) == 5
        assert p.answer == p.metadata["letter"]
        assert p.metadata["choices"][LETTERS.index(p.answer)] == p.metadata["answer_text"]
    assert f"in {twice} rows" in real[name].source["letters"]


@needs_files
@pytest.mark.parametrize(("name", "wrong"), [("ECQA", 3), ("ecqa", 12)])
def test_real_letters_from_the_text_alone(real, name, wrong, hub):
    """What the hub's columns lose: the letter of some questions with two options of the gold text."""
    rows = []
    for p in real[name].problems:
        options = {f"q_op{i}": text for i, text in enumerate(p.metadata["choices"], 1)}
        rows.append({"q_no": p.id, "q_text": p.question, "q_ans": p.metadata["answer_text"]} | options)
    hub(rows)
    from_text = load(name).problems
    assert [p.id for p in from_text] == [p.id for p in real[name].problems]
    assert sum(a.answer != b.answer for a, b in zip(from_text, real[name].problems, strict=True)) == wrong


@needs_files
def test_real_minerva_golds_are_those_in_the_solutions(real, hub):
    rows = [row for _, row in read_jsonl(Path(REAL) / "minerva_math.jsonl")]
    hub([{"problem": row["problem"], "solution": row["solution"]} for row in rows])
    assert [p.answer for p in load("Minerva").problems] == [p.answer for p in real["Minerva"].problems]


@needs_files
def test_real_olympiad_metadata(real):
    metadata = [p.metadata for p in real["OlympiadBench"].problems]
    assert [m["error"] for m in metadata if m["error"] is not None] == [0.1]
    assert sum(m["unit"] is not None for m in metadata) == 8
    assert all(isinstance(m["is_multiple_answer"], bool) for m in metadata)


@needs_files
def test_real_overlaps_are_those_labelled(real):
    """The labels were made by the same definition over the five mathematics benchmarks: they must agree exactly."""
    labels = set()
    for file in real["open-s1"].source["files"]:
        for _, row in read_jsonl(Path(REAL) / file):
            labels |= {(row["id"], label.partition(":")[2]) for label in row.get("eval_overlap", ())}
    evaluation = [p for name in BENCHMARKS if name != "ECQA" for p in real[name].problems]
    assert {(a, b) for a, b, _ in overlaps(real["open-s1"].problems, evaluation)} == labels
    assert len(labels) == 36
    kept, dropped = drop_overlaps(real["open-s1"].problems, evaluation)
    assert (len(kept), len(dropped)) == (15_589, 36)


@needs_files
def test_real_ecqa_splits_share_the_questions_that_their_authors_published_twice(real):
    found = overlaps(real["ecqa"].problems, real["ECQA"].problems)
    twice = {row["id"] for _, row in read_jsonl(Path(REAL) / "ecqa_train.jsonl") if "test" in row["also_in"]}
    assert {a for a, b, how in found if a == b and how == "equal"} == twice
    assert (len(twice), len(found)) == (32, 36)

"""The user's own suite: files of a folder, judges, identities, and a run from training to graded samples."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tampo.cli import main
from tampo.config import ConfigError, load_params
from tampo.inference.evaluate import load_benchmarks
from tampo.paper.experiments import table_caption
from tampo.paper.notebook import notebook_params
from tampo.paper.questions import example_questions, suite_questions
from tampo.runs.identity import evaluation_identity, training_identity
from tampo.runs.pipeline import evaluate
from tampo.runs.plan_times import evaluation_problems
from tampo.runs.store import RunStore
from tampo.runs.training_data import find_overlaps, load_training_data
from tampo.tasks.mini import Problem, format_prompt, make_problems
from tampo.tasks.prompts import render
from tampo.tasks.published import DATA_DIR_VARIABLE, DataError
from tampo.tasks.suites import get_suite
from tests.helpers import ROOT

ROWS = [{"prompt": f"{i} + 1 =\n", "answer": i + 1} for i in range(5)]


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)


def write(folder: Path, **files: object) -> Path:
    """JSONL files by stem: rows, or the file's text or bytes."""
    folder.mkdir(exist_ok=True)
    for stem, rows in files.items():
        text = "".join(f"{json.dumps(row)}\n" for row in rows) if isinstance(rows, list) else rows
        (folder / f"{stem}.jsonl").write_bytes(text if isinstance(text, bytes) else str(text).encode())
    return folder


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "data", train=ROWS, hard=ROWS[:2], easy=ROWS[2:])


def own(folder: Path, **changes: object):
    return load_params("smoke", {"suite": "own", "data_dir": str(folder), "grader": "exact", **changes})


def load(folder: Path, count: int | None = None):
    return get_suite("own", "exact").training(count, 0, str(folder), {})


# --- the files


def test_every_other_file_is_a_benchmark(data):
    for name in ("notes.txt", ".hidden.jsonl", "._hard.jsonl"):
        (data / name).write_text("no JSON")
    (data / "folder.jsonl").mkdir()
    suite = get_suite("own", "exact", str(data))
    assert suite.benchmarks == ("easy", "hard")
    loaded = suite.benchmark("hard", None, 0, str(data), {})
    assert loaded.problems == [Problem(f"hard-{i + 1}", "hard", f"{i} + 1 =\n", str(i + 1), {}) for i in range(2)]
    assert suite.prompt(loaded.problems[1]) == "1 + 1 =\n", "as it is, with its newline"
    assert loaded.source["rows"] == 2
    assert set(load_benchmarks(own(data).evaluation())) == {"easy", "hard"}


def test_rows(tmp_path):
    rows = [
        {"prompt": "a", "answer": " x y ", "id": "first", "level": 3},
        {"prompt": "b", "answer": 0.5, "id": None},
        {"prompt": "c\u2028d", "answer": -3},
        {"prompt": "e", "answer": 10**400},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    problems = load(write(tmp_path / "data", train="\n\n".join(lines) + "\n  \n")).problems
    assert [p.id for p in problems] == ["first", "train-3", "train-5", "train-7"]
    assert [p.answer for p in problems] == ["x y", "0.5", "-3", str(10**400)]
    assert problems[2].question == "c\u2028d"


def test_messages_go_to_the_chat_template(tmp_path):
    class Tokenizer:
        chat_template = "any"

        def apply_chat_template(self, messages, tokenize, add_generation_prompt):
            return "".join(f"<{m['role']}>{m['content']}" for m in messages)

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?", "name": "me"}]
    [problem] = load(write(tmp_path / "data", train=[{"prompt": messages, "answer": "2"}])).problems
    prompt = get_suite("own").prompt(problem)
    assert render(Tokenizer(), prompt) == "<system>Be brief.<user>1 + 1?"
    assert problem.question == "1 + 1?"


def test_messages_need_a_chat_model(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(data, hard=[{"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}])
    assert main(["evaluate", "smoke", "--suite", "own", "--data-dir", str(data), "--base"]) == 2
    assert "has no chat template: use a chat model" in capsys.readouterr().err


def test_limits_take_the_first_rows(data):
    assert [p.id for p in load(data, 2).problems] == ["train-1", "train-2"]
    params = own(data, train_problems=4, eval_problems=1)
    assert len(load_training_data(params.training()).problems) == 4
    assert [len(loaded.problems) for loaded in load_benchmarks(params.evaluation()).values()] == [1, 1]
    assert [evaluation_problems(p) for p in (params, own(data, eval_problems="null", benchmarks="easy"))] == [2, 3]


def test_the_variable_names_the_folder(data, monkeypatch):
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(data))
    params = load_params("smoke", {"suite": "own"})
    assert list(load_benchmarks(params.evaluation())) == ["easy", "hard"]
    assert len(load_training_data(params.training()).problems) == 5


GOOD = {"prompt": "1 + 1 =", "answer": "2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", r"train\.jsonl is empty"),
        ("\n \n", r"train\.jsonl is empty"),
        ('{"prompt": 1\n', r"train\.jsonl, line 1: not JSON in UTF-8 .*Mend the line"),
        ("[1, 2]\n", r"train\.jsonl, line 1: expected a JSON object, found b'\[1, 2\]"),
        ("\n" + "[" * 100_000, r"train\.jsonl, line 2: not JSON"),
        (b'{"prompt": "\xff"}', r"train\.jsonl, line 1: not JSON in UTF-8"),
        ([GOOD, {"answer": "2"}], r"line 2, column 'prompt': .* found only \['answer'\]"),
        ([{"prompt": " ", "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": 7, "answer": "2"}], "line 1, column 'prompt': expected a text that is not blank, or a list"),
        ([{"prompt": [], "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": ["a"], "answer": "2"}], "line 1, column 'prompt': expected messages with a role"),
        ([{"prompt": [{"role": ["user"], "content": "a"}], "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": [{"role": "wizard", "content": "a"}], "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": [{"role": "user", "content": ""}], "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": [{"role": "assistant", "content": "a"}], "answer": "2"}], "of which the last is the user's"),
        ([GOOD, {"prompt": [{"role": "user", "content": "a"}], "answer": "2"}], "a text, as in the rows before"),
        ([{"prompt": "a \ud800", "answer": "2"}], "line 1, column 'prompt'"),
        ([{"prompt": "a"}], r"line 1, column 'answer': .*found only \['prompt'\]"),
        ([{"prompt": "a", "answer": ""}], "line 1, column 'answer': expected a text that is not blank, or a number"),
        ([{"prompt": "a", "answer": True}], "line 1, column 'answer'"),
        ([{"prompt": "a", "answer": None}], "line 1, column 'answer'"),
        ([{"prompt": "a", "answer": ["2"]}], "line 1, column 'answer'"),
        ([{"prompt": "a", "answer": float("nan")}], "line 1, column 'answer'"),
        ('{"prompt": "a", "answer": 1e999}', "line 1, column 'answer'"),
        ([GOOD | {"id": 7}], "line 1, column 'id': expected a text"),
        ([GOOD | {"id": "x"}, GOOD, GOOD | {"id": "x"}], "line 3, column 'id': 'x' is the id of line 1 too"),
        ([GOOD | {"id": "train-2"}, GOOD], "line 2, column 'id': 'train-2' is the id of line 1 too"),
    ],
)
def test_bad_files_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "data", train=rows), 1)


def test_a_folder_is_needed(tmp_path):
    params = load_params("smoke", {"suite": "own"})
    for use in (
        lambda: training_identity(params.training()),
        lambda: evaluation_identity(params.evaluation(), "mini", None),
        lambda: load_training_data(params.training()),
        lambda: load_benchmarks(params.evaluation()),
    ):
        with pytest.raises(DataError, match=f"needs a folder of JSONL files: set data_dir, or .*{DATA_DIR_VARIABLE}"):
            use()
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        training_identity(own(tmp_path / "nowhere").training())


def test_the_files_that_are_needed(tmp_path):
    params = own(write(tmp_path / "one", train=ROWS))
    assert training_identity(params.training())
    with pytest.raises(DataError, match="There is no benchmark in .*one"):
        evaluation_identity(params.evaluation(), "mini", None)
    with pytest.raises(DataError, match="There is no benchmark"):
        training_identity(own(tmp_path / "one", drop_overlaps=True).training())
    params = own(write(tmp_path / "two", hard=ROWS))
    assert evaluation_identity(params.evaluation(), "mini", None)
    with pytest.raises(DataError, match=r"no file train\.jsonl in .*two"):
        training_identity(params.training())
    with pytest.raises(ConfigError, match="Unknown benchmark 'train' in benchmarks; known are hard"):
        load_benchmarks(own(tmp_path / "two", benchmarks="train").evaluation())


def test_names_of_benchmarks(data):
    with pytest.raises(DataError, match=r"no file \.\./other\.jsonl"):
        write(data.parent, other=ROWS)
        get_suite("own").benchmark("../other", None, 0, str(data), {})
    for name in ("MATH-500", "Average", "a b", "a,b", "x" * 41):
        path = write(data, **{name: ROWS}) / f"{name}.jsonl"
        with pytest.raises(DataError, match=f"a benchmark cannot be called '{name}'. Rename the file"):
            evaluation_identity(own(data).evaluation(), "mini", None)
        path.unlink()


def test_revisions_are_of_the_hub(data):
    with pytest.raises(DataError, match="data_revisions names hard, but suite own reads files only"):
        training_identity(own(data, data_revisions={"hard": "main"}).training())


def test_overlaps(data):
    assert find_overlaps(own(data).training())[0] == ("train-1", "hard-1", "equal")
    write(data, easy=ROWS[2:4])
    loaded = load_training_data(own(data, drop_overlaps=True).training())
    assert ([p.id for p in loaded.problems], loaded.source["dropped"]) == (["train-5"], 4)


# --- judges


def verdicts(judge, completions, gold):
    problem = Problem("1", "hard", "?", gold, {"prompt": "?"})
    return get_suite("own", judge).grade([problem] * len(completions), completions)


@pytest.mark.parametrize(
    ("completion", "gold", "status", "answer"),
    [
        ("42", "42", "correct", "42"),
        (" 42\n", "42", "correct", "42"),
        ("It is 42", "42", "wrong", "It is 42"),
        ("42.0", "42", "wrong", "42.0"),
        (r"So \boxed{ 42 }.", "42", "correct", "42"),
        (r"\boxed{1} and \boxed{2}", "2", "correct", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "correct", r"\frac{1}{2}"),
        (r"\boxed{\boxed{3}}", "3", "correct", "3"),
        (r"\boxed{a\}b}", r"a\}b", "correct", r"a\}b"),
        (r"\boxed{1} then \boxed{2", "1", "correct", "1"),
        (r"\boxed{2", "2", "wrong", r"\boxed{2"),
        (r"\boxed{}", "2", "wrong", ""),
        (r"42 \boxed{7}", "42", "wrong", "7"),
        ("", "2", "unparseable", None),
        (" \n", "2", "unparseable", None),
    ],
)
def test_exact(completion, gold, status, answer):
    [verdict] = verdicts("exact", [completion], gold)
    assert (verdict.status, verdict.answer, verdict.correct) == (status, answer, status == "correct")


def test_exact_survives_hostile_text():
    texts = [
        "\ud800", "\0", "}" * 10, r"\boxed{" * 200_000, "{" * 1_000_000, "\\" * 1_000_000, "boxed{" * 100_000,
        r"\boxed{__import__('os').system('false')}", "\\boxed{" + "9" * 1_000_000 + "}",
        r"\boxed" + " " * 1_000_000,
    ]  # fmt: skip
    start = time.process_time()
    found = verdicts("exact", texts, "2")
    assert time.process_time() - start < 20
    assert {verdict.status for verdict in found} == {"wrong"}
    assert max(len(verdict.answer or "") for verdict in found) == 1_000


@pytest.mark.parametrize("judge", ["tampo", "math-verify"])
def test_mathematics(judge):
    texts = [r"\boxed{1/2}", r"\boxed{3}", "\0", r"\boxed{9^{9^{9^{9}}}}"]
    found = verdicts(judge, texts, "0.5")
    assert [v.correct for v in found] == [True, False, False, False]


def test_which_suite_has_which_judge(data):
    assert get_suite("own", "exact").grader == "exact 1"
    for judge in ("tampo", "math-verify"):
        assert get_suite("own", judge).grader == get_suite("math", judge).grader
        assert own(data, grader=judge).grader == judge
    for suite in ("math", "ecqa", "mini"):
        with pytest.raises(ConfigError, match=f"grader 'exact' judges the suite own only, not {suite}"):
            load_params("smoke", {"suite": suite, "grader": "exact"})
        with pytest.raises(ValueError, match=f"grader 'exact' judges the suite own only, not {suite}"):
            get_suite(suite, "exact")


# --- identities


def identities(folder, **changes):
    params = own(folder, **changes)
    training = training_identity(params.training())
    return training, evaluation_identity(params.evaluation(), "mini", None)


def test_results_are_known_by_the_files(data):
    training, evaluation = before = identities(data, benchmarks="hard")
    assert training["data"].keys() == {"train.jsonl"}
    assert evaluation["data"].keys() == {"hard.jsonl"}
    assert training["grader"] == evaluation["grader"] == "exact 1"
    assert str(data) not in str(before)
    moved = data.rename(data.with_name("moved"))
    assert identities(moved, benchmarks="hard") == before
    write(moved, easy=ROWS, new=ROWS)
    assert identities(moved, benchmarks="hard") == before
    write(moved, hard=ROWS)
    after = identities(moved, benchmarks="hard")
    assert (after[0] == training, after[1] == evaluation) == (True, False)
    write(moved, train=ROWS[1:])
    assert identities(moved, benchmarks="hard")[0] != training
    assert identities(moved, benchmarks="hard", grader="tampo")[1]["grader"].startswith("tampo ")


def test_all_benchmarks_count_where_they_are_left_out_of_the_training(data):
    training, _ = identities(data, drop_overlaps=True)
    assert training["data"].keys() == {"train.jsonl", "easy.jsonl", "hard.jsonl"}
    write(data, new=ROWS)
    assert identities(data, drop_overlaps=True)[0] != training


# --- from files to results


def test_notebooks_accept_it(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"params": "smoke", "suite": "own", "data_dir": str(data), "grader": "exact", "max_steps": 2}
    for notebook in ("table1", "table2", "table3", "table4", "table5"):
        params = notebook_params(dict(given), notebook)
        assert (params.suite, params.data_dir, params.grader) == ("own", str(data), "exact")
        assert "the user's own training set and benchmarks" in table_caption(params, notebook)
        assert "at most 6 problems per benchmark" in table_caption(params, notebook)
    assert load_params("smoke", {"suite": "own", "data_dir": str(data)}).suite == "own"


@pytest.mark.parametrize("template", [None, "any"])
def test_examples_are_from_its_benchmarks(data, template):
    model = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template))
    config = own(data).evaluation()
    questions = example_questions(config, model, 2)
    assert (questions.source, questions.prompts) == ("easy", ["2 + 1 =\n", "3 + 1 =\n"])
    assert [v.correct for v in questions.grade(questions.problems, ["3", "5"])] == [True, False]
    assert len(suite_questions(config, model, 2).problems) == 4


def test_a_run_from_files_to_graded_samples(tmp_path):
    problems = make_problems("chain_sum", 6, 0, "train"), make_problems("chain_sum", 5, 0, "test")
    train, test = ([{"prompt": format_prompt(p.question), "answer": int(p.answer)} for p in part] for part in problems)
    folder = write(tmp_path / "data", train=train, sums=test, few=test[:2])
    params = own(folder, max_steps=2, benchmarks="sums,few", eval_problems=4, eval_samples=4)
    store = RunStore(tmp_path / "runs")
    record = evaluate(store, params.evaluation(), params.model, params.training())
    samples = record.samples()
    assert samples.groupby("benchmark").size().to_dict() == {"sums": 16, "few": 8}
    assert set(samples["status"]) <= {"correct", "wrong", "unparseable"}
    assert samples["correct"].any(), "the mini model can add"
    boxed = samples["completion"].str.extract(r".*\\boxed\{([^{}]*)\}", flags=re.DOTALL)[0].str.strip()
    answers = boxed.fillna(samples["completion"].str.strip())
    assert (samples["correct"] == (answers == samples["gold"])).all()
    assert set(samples["gold"]) == {p.answer for p in problems[1][:4]}
    trained = store.load("training", training_identity(params.training()))
    assert trained.manifest["data"]["files"].keys() == {"train.jsonl"}
    moved = own(folder.rename(tmp_path / "moved"), max_steps=2, benchmarks="sums,few", eval_problems=4, eval_samples=4)
    assert evaluate(store, moved.evaluation(), moved.model, moved.training()).folder == record.folder


def test_the_example_of_the_documentation(tmp_path):
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Your own data")[2]
    files = re.findall(r"`my-data/(\w+)\.jsonl`:\n\n```json\n(.*?)```", text, re.DOTALL)
    params = own(write(tmp_path / "my-data", **dict(files)))
    assert list(load_benchmarks(params.evaluation())) == ["hard"]
    assert len(load_training_data(params.training()).problems) >= params.prompts_per_step

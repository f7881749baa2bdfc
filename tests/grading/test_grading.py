r"""Grading: each answer type, hostile text, the pool's processes, and accuracy on real completions.

The real files are not part of the project; TAMPO_DATA_DIR names the folder that holds them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("math_verify", reason="math-verify is not installed")

from tampo.grading.extraction import find_boxed
from tampo.grading.pool import GradingPool, Verdict, grade_math
from tests.grading.cases import EQUAL, UNEQUAL

DATA = Path(os.environ.get("TAMPO_DATA_DIR", ""))
needs_data = pytest.mark.skipif(not os.environ.get("TAMPO_DATA_DIR"), reason="TAMPO_DATA_DIR is not set")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
BENCHMARKS = {"aime24": 30, "math500": 500, "amc23": 40, "minerva_math": 272, "olympiadbench": 675}

# Gold 1.55, answer 1.55 eV: labelled wrong.
MISLABELLED = {"gc01859"}


@pytest.fixture(scope="module")
def pool():
    with GradingPool(workers=2, deadline=30) as pool:  # generous: the machine may be busy
        yield pool


def rows(name):
    with open(DATA / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def children(pid=None):
    path = Path(f"/proc/{pid or os.getpid()}/task")
    while True:
        try:
            found = [int(child) for task in path.iterdir() for child in (task / "children").read_text().split()]
            break
        except FileNotFoundError:  # a thread has ended meanwhile, and its children are another's
            assert path.exists()
    return {child for child in found if b"tampo.grading.pool" in Path(f"/proc/{child}/cmdline").read_bytes()}


RIGHT = [  # gold, boxed answer
    ("33", "033"),
    ("033", "33"),
    ("33.0", "33"),
    ("-256", "-256."),
    ("58,500", "58500"),
    ("10,\\!080", "10{,}080"),
    ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
    ("\\$32,\\!348", "32348"),
    ("\\frac43", "4/3"),
    ("1\\frac{4}{5}", "1.8"),
    ("-1./3", "-\\frac13"),
    ("1/3", "0.333333"),
    ("11\\sqrt2", "11\\sqrt{2}"),
    ("$\\frac{n(n+1)}{2}$", "\\dfrac{n^2+n}{2}"),
    ("4.5e33", "4.5\\times10^{33}"),
    ("4.5e33", "4.50 × 10³³"),
    ("9.35e5", "935000"),
    ("1.77e-6", "1.77 \\times 10^{-6} \\text{ cm}"),
    ("np.arcsin(10/13)", "\\sin^{-1}\\left(\\frac{10}{13}\\right)"),
    ("90^\\circ", "90"),
    ("15\\mbox{ cm}^2", "15"),
    ("\\frac{270}7\\text{ degrees}", "\\frac{270}{7}^\\circ"),
    ("62.5\\%", "62.5"),
    ("62.5%", "\\frac58"),
    ("3, 5, 7", "7, 3 \\text{ and } 5"),
    ("$221,$8$", "8,221"),
    ("$69$,$84$", "84, 69"),
    ("(3,2),(-3,2)", "(-3, 2), (3, 2)"),
    ("(3,\\frac{\\pi}{2})", "\\left( 3, \\pi/2 \\right)"),
    ("(0,9) \\cup (9,36)", "(0,9)\\cup(9,36)"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("t(0,4]", "t \\in (0, 4]"),
    ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"),
    ("\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{bmatrix} 0.2 \\\\ -3.6 \\end{bmatrix}"),
    ("6-5i", "-5i + 6"),
    ("x=5", "5"),
    ("$f(x)=2 x$", "2x"),
    ("y = 2x+3", "2x - y + 3 = 0"),
    ("E_{1},E_{2}", "E_2, E_1"),
    ("\\lambda_{\\text {red}} / \\sqrt{2}", "\\frac{\\lambda_{red}}{\\sqrt2}"),
    ("x^{\\prime}+r x-r c=0", "x' + rx = rc"),
    ("\\cot x", "\\frac{\\cos x}{\\sin x}"),
    ("\\text{Evelyn}", "Evelyn"),
    ("\\text{(C)}", "C"),
    ("C", "\\textbf{(C)}\\ 14"),
    ("B", "\\text{B. the cat}"),
    ("go to bed", "\\text{Go to bed.}"),
    ("\\boxed{12}", "12"),
]
WRONG = [
    ("33", "330"),
    ("1.77e-6", "2e-6"),  # math-verify rounds both to 0.000002
    ("7e-12", "0"),
    ("1/3", "0.33"),
    ("\\pi", "3.14"),
    ("5\\%", "500\\%"),
    ("(3,2)", "(2,3)"),
    ("(3,4]", "[3,4)"),
    ("3,5,7", "3,5"),
    ("p - q", "q - p"),
    ("6-5i", "6+5i"),
    ("y=2x+3", "y=2x-3"),
    ("\\infty", "-\\infty"),
    ("C", "D"),
    ("A", "\\text{A and B}"),
    ("go to bed", "bed to go"),
    ("\\text{even}", "odd"),
]


def test_right_answers(pool):
    verdicts = pool.grade([f"So it is $\\boxed{{{answer}}}$." for _, answer in RIGHT], [gold for gold, _ in RIGHT])
    assert [case for case, verdict in zip(RIGHT, verdicts, strict=True) if not verdict.correct] == []


def test_wrong_answers(pool):
    verdicts = pool.grade([f"So it is $\\boxed{{{answer}}}$." for _, answer in WRONG], [gold for gold, _ in WRONG])
    assert [case for case, verdict in zip(WRONG, verdicts, strict=True) if verdict.status != "wrong"] == []


def completion(answer):
    return answer[1:] if answer.startswith("!") else f"So it is $\\boxed{{{answer}}}$."


def test_equal_answers_of_every_kind(pool):
    verdicts = pool.grade([completion(answer) for _, answer in EQUAL], [gold for gold, _ in EQUAL])
    assert [(case, v.status) for case, v in zip(EQUAL, verdicts, strict=True) if not v.correct] == []


def test_unequal_answers_of_every_kind(pool):
    verdicts = pool.grade([completion(answer) for _, answer in UNEQUAL], [gold for gold, _ in UNEQUAL])
    assert [case for case, verdict in zip(UNEQUAL, verdicts, strict=True) if verdict.correct] == []
    assert "timeout" not in {verdict.status for verdict in verdicts}


@pytest.mark.parametrize(
    ("completion", "gold", "verdict"),
    [
        ("\\boxed{1} or no: \\boxed{2}", "2", Verdict(True, "correct", "2")),
        ("$\\boxed{7}$ and $\\boxed{-5}$.", "-5,7", Verdict(True, "correct", "7, -5")),
        ("$a=-\\boxed{256}$", "-256", Verdict(True, "correct", "-256")),
        (
            "The final answer is $\\frac{2}{63}$. I hope it is correct.",
            "2/63",
            Verdict(True, "correct", "\\frac{2}{63}"),
        ),
        ("The answer is (B).", "B", Verdict(True, "correct", "(B).")),
        ("\\boxed{3}", "4", Verdict(False, "wrong", "3")),
        ("", "5", Verdict(False, "unparseable", None)),
        ("I do not know.", "5", Verdict(False, "unparseable", None)),
        ("put it within \\boxed{}", "5", Verdict(False, "unparseable", None)),
        ("\\boxed{?!}", "5", Verdict(False, "unparseable", "?!")),
        ("\\boxed{5}", "", Verdict(False, "gold_unparseable", "5")),
        ("\\boxed{5}", "???", Verdict(False, "gold_unparseable", "5")),
    ],
)
def test_status_and_answer(pool, completion, gold, verdict):
    assert pool.grade([completion], [gold]) == [verdict]


def test_tolerance(pool):
    completions = ["\\boxed{4.25}", "\\boxed{4.35}", "\\boxed{4.25\\%}", "\\boxed{4.25}"]
    verdicts = pool.grade(completions, ["4.2"] * 4, [0.1, 0.1, 0.1, None])
    assert [verdict.correct for verdict in verdicts] == [True, False, True, False]
    assert [v.correct for v in pool.grade(["\\boxed{5}"] * 2, ["4"] * 2, [1, 0.5])] == [True, False]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} \\boxed{2", "1"),
        ("\\boxed {\\{1,2\\}}", "\\{1,2\\}"),
        ("\\\\boxed{4}", "4"),
        ("} { \\boxed{4} }", "4"),
        ("\\boxed{5}. Again: \\boxed{5}", "5"),
        ("no", None),
    ],
)
def test_find_boxed(text, answer):
    assert find_boxed(text) == answer


QUICK = {  # name: (completion, gold), graded within the deadline, and not as correct
    "closed boxes": ("\\boxed{1},\n" * 50_000, "5"),
    "open boxes": ("\\boxed{" * 100_000, "5"),
    "backslashes": ("\\" * 1_000_000, "5"),
    "lone surrogate": ("\\boxed{\ud800}", "5"),
    "surrogates everywhere": ("\udfff", "\ud800"),
    "2 MB without a box": ("lorem ipsum dolor " * 120_000, "5"),
    "ragged matrix": ("\\boxed{\\begin{pmatrix}1&2\\\\3\\end{pmatrix}}", "x"),
    "one over nothing": ("\\boxed{\\frac{1}{0}}", "5"),
    "code": ("\\boxed{__import__('os').abort()}", "5"),
}
SLOW = {  # may need the deadline
    "tower": ("\\boxed{9^{9^{9^{9}}}}", "5"),
    "megabyte of braces": ("\\boxed{" + "{" * 500_000 + "}" * 500_001, "5"),
    "nested fractions": ("\\boxed{" + "\\frac{1}{" * 10_000 + "2" + "}" * 10_001, "1/2"),
    "billion digits": ("\\boxed{10^{10^9}}", "x"),
    "billion digits in e-notation": ("\\boxed{1e1000000000}", "5"),
    "integral": ("\\boxed{\\int_0^\\infty \\frac{\\sin(x^3+x)}{e^{x}+x^5}dx}", "\\frac{\\pi}{7}"),
    "sum": ("\\boxed{x\\sum_{n=1}^{\\infty} \\frac{1}{n^{3}+\\sqrt{n}}}", "5x"),
    "factorial": ("\\boxed{(10^{10})!}", "5x"),
    "gold tower": ("\\boxed{5}", "9^{9^{9^{9}}}"),
}


def test_hostile_text():
    cases = list((QUICK | SLOW).items())
    with GradingPool(workers=2, deadline=1) as pool:
        start = time.monotonic()
        verdicts = pool.grade([text for _, (text, _) in cases], [gold for _, (_, gold) in cases])
        assert time.monotonic() - start < 60
        statuses = {name: verdict.status for (name, _), verdict in zip(cases, verdicts, strict=True)}
        assert not any(verdict.correct for verdict in verdicts)
        assert statuses["tower"] == "timeout"
        assert statuses["2 MB without a box"] == "unparseable"
        assert all(len(verdict.answer or "") <= 1000 for verdict in verdicts)
        # The pool still works, and NUL bytes do not hide an answer.
        after = pool.grade(["\\boxed{5\0}", "\\boxed{x+x}"], ["5", "2x"])
        assert [verdict.status for verdict in after] == ["correct", "correct"]


@needs_proc
def test_the_deadline_counts_the_workers_own_time():
    """A worker that the machine does not run for longer than the deadline gives the same verdict."""
    before = children()
    with GradingPool(workers=1, deadline=1) as pool:
        assert pool.grade(["\\boxed{x}"], ["x"])[0].correct
        [worker] = children() - before
        os.kill(worker, signal.SIGSTOP)
        timer = threading.Timer(2.5, os.kill, (worker, signal.SIGCONT))
        timer.start()
        assert pool.grade(["\\boxed{x+x}"], ["2x"])[0].correct
        assert children() - before == {worker}


def test_long_numbers_take_no_longer_than_their_length():
    """Cleaning is linear: a deadline that the shortest answer needs is enough for 200,000 digits."""
    with GradingPool(workers=1, deadline=2) as pool:
        for text in ("1" * 200_000, "1," * 50_000, "1 " * 50_000, "12e" * 20_000, "(" * 50_000, "\\frac" * 20_000):
            assert pool.grade([f"\\boxed{{{text}}}"], ["5"])[0].status in ("wrong", "unparseable")


@needs_proc
def test_memory_is_capped():
    before = children()
    with GradingPool(workers=1, memory=2**29) as pool:
        assert pool.grade(["\\boxed{x}"], ["x"])[0].correct
        [worker] = children() - before
        limits = Path(f"/proc/{worker}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max address space")]
    assert line.split()[3] == str(2**29)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=20), st.integers(0, 9), st.booleans()), max_size=6))
def test_length_and_order(pool, cases):
    completions = [f"{text}\n\\boxed{{{n if right else n + 1}}}" for text, n, right in cases]
    verdicts = pool.grade(completions, [str(n) for _, n, _ in cases])
    assert len(verdicts) == len(cases)
    for (text, _, right), verdict in zip(cases, verdicts, strict=True):
        if not set(text) & set("{}\\=$(-"):  # these may change what is boxed
            assert verdict.correct is right


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(), max_size=60), st.text(alphabet="\\{}^_$()[],.0123x+-frac ", max_size=20))
def test_any_text_gets_a_verdict(pool, completion, gold):
    [plain, boxed] = pool.grade([completion, f"\\boxed{{{gold}}}"], [gold, completion])
    assert isinstance(plain, Verdict)
    assert isinstance(boxed, Verdict)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 completions, 1 golds"):
        grade_math(["a", "b"], ["a"])


def test_default_pool_from_threads():
    results = {}

    def work(i):
        results[i] = grade_math([f"\\boxed{{{i}x}}", "\\boxed{0}"], [f"x \\cdot {i}", "1"])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: [verdict.correct for verdict in results[i]] for i in results} == {i: [True, False] for i in range(2, 6)}


@needs_proc
def test_killed_workers_are_replaced_and_none_is_left():
    before = children()
    with GradingPool(workers=1, deadline=3) as pool:
        assert pool.grade(["\\boxed{x}"], ["x"])[0].correct
        [first] = children() - before
        os.kill(first, signal.SIGKILL)
        assert pool.grade(["\\boxed{x}"], ["x"])[0].correct
        [second] = children() - before
        # Killed at work: the same answer goes to a fresh worker.
        timer = threading.Timer(1, os.kill, (second, signal.SIGKILL))
        timer.start()
        verdict = pool.grade(["\\boxed{9^{9^{9^{9}}}}"], ["5"])[0]
        assert verdict.status == "timeout"
        assert pool.grade(["\\boxed{x}"], ["x"])[0].correct
    assert children() == before
    with pytest.raises(RuntimeError):
        pool.grade(["\\boxed{x}"], ["x"])


@needs_proc
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"])
def test_no_worker_outlives_its_process(end):
    """A script without a `__main__` guard; workers import neither torch nor pandas."""
    code = f"""
import os, pathlib, sys
from tampo.grading.pool import GradingPool
pool = GradingPool(workers=1, deadline=2)
verdict = pool.grade(["\\\\boxed{{2x}}"], ["x+x"])[0]
print(verdict.status, *(m for m in ("torch", "pandas", "sympy") if m in sys.modules))
[worker] = [worker.process.pid for worker in pool._workers]
maps = pathlib.Path(f"/proc/{{worker}}/maps").read_text()
print(worker, "torch" in maps or "pandas" in maps, flush=True)
{end}
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    status, worker, heavy = result.stdout.split()
    assert (status, heavy) == ("correct", "False"), result.stderr
    for _ in range(100):
        if not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes():
            return
        time.sleep(0.1)
    pytest.fail("a worker outlived its process")


@needs_data
def test_verdicts_on_real_completions_are_their_labels(pool):
    cases = rows("graded_completions")
    verdicts = pool.grade([row["completion"] for row in cases], [row["gold"] for row in cases])
    wrong = {row["id"] for row, verdict in zip(cases, verdicts, strict=True) if verdict.correct != row["truth"]}
    assert wrong == MISLABELLED


@needs_data
def test_the_plain_library_is_right_less_often(pool):
    cases = [row for row in rows("graded_completions") if row["set"] == "minerva_math"][::4]  # units and e-notation
    verdicts = pool.grade([row["completion"] for row in cases], [row["gold"] for row in cases], grader="math-verify")
    right = sum(verdict.correct == row["truth"] for row, verdict in zip(cases, verdicts, strict=True))
    assert 0.9 * len(cases) <= right < len(cases) - 1
    assert pool.grade(["\\boxed{2}"], ["2 m"], grader="math-verify")[0].correct, "it takes a variable for a unit"


@needs_data
@pytest.mark.parametrize(("name", "count"), BENCHMARKS.items())
def test_every_gold_is_read_and_equals_itself(pool, name, count):
    cases = rows(name)
    assert len(cases) == count
    golds = [row["answer"] for row in cases]
    tolerances = [float(row["error"]) if row.get("error") else None for row in cases]
    same = pool.grade([f"\\boxed{{{gold}}}" for gold in golds], golds, tolerances)
    assert [gold for gold, verdict in zip(golds, same, strict=True) if not verdict.correct] == []
    # Equal strings need no parser, another answer does.
    other = pool.grade(["\\boxed{z + 987654}"] * count, golds, tolerances)
    assert [(g, v.status) for g, v in zip(golds, other, strict=True) if v.status != "wrong"] == []

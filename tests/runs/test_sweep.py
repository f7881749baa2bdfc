"""Sweeps: what is refused, real jobs on this machine, failures, interruptions, and what Slurm is asked for."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tampo.cli import build_parser, main
from tampo.config import ConfigError, load_params
from tampo.runs.interrupts import Interrupted, stop_on_signals
from tampo.runs.jobs import Job, Run, follow, submit, update
from tampo.runs.pipeline import evaluate
from tampo.runs.slurm import Resources, Slurm, Work
from tampo.runs.store import PROGRESS, RunStore
from tampo.runs.sweep import parse_controllers, sweep
from tampo.runs.workers import Workers, worker_environment
from tests.helpers import without_times
from tests.runs.processes import children, working_in

ROOT = Path(__file__).parents[2]
ZERO2 = str(ROOT / "params/accelerate/8gpu-zero2.yaml")
SMALL = {
    "prompts_per_step": 2,
    "per_device_train_batch_size": 16,
    "train_problems": 20,
    "max_completion_length": 16,
    "max_steps": 12,
}
SMALL |= {"eval_problems": 3, "eval_samples": 4, "eval_max_completion_length": 16, "benchmarks": "gcd", "workers": 1}
WORDS = ["sweep", "smoke", "--cluster=local", *(f"--{name}={value}" for name, value in SMALL.items())]
PARAMS = load_params("smoke", SMALL)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc, as on Linux")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", (0, 1, 2, 3, 4)), ("0,2,5", (0, 2, 5)), ("0-2,7", (0, 1, 2, 7)), (" 3 , 1-3", (3, 1, 2)), ("7-7", (7,))],
)
def test_seeds(text, seeds):
    assert load_params("smoke", {"seeds": text}).seeds == seeds


@pytest.mark.parametrize("text", ["a", "-1", "1-", "4-2", "1.5", "0-1000", "٣-٤", "0-999999999", "9" * 5000])
def test_bad_seeds(text):
    with pytest.raises(ConfigError, match="seeds"):
        load_params("smoke", {"seeds": text})


def test_controllers():
    assert parse_controllers("tampo, fixed,tampo") == ("tampo", "fixed")
    with pytest.raises(ConfigError, match=r"Unknown controller 'linea' in --controllers. Did you mean 'linear'\?"):
        parse_controllers("tampo,linea")
    with pytest.raises(ConfigError, match="Known are tampo, fixed, linear"):
        parse_controllers("")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "4-2"], "the range 4-2 must go up"),
        (["--controllers", "bandit"], "Unknown controller 'bandit'"),
        (["--temperature-controller", "fixed"], "sets the parameter 'temperature_controller' by --controllers"),
        (["--seed", "1"], "sets the parameter 'seed' by --seeds"),
        (["--alhpa", "1"], "Did you mean --alpha?"),
        (["--time", "0"], "--time must be at least a minute"),
        (["--cluster", "slurm"], "There is no Slurm here"),
        (["--accelerate", "no.yaml"], "Cannot read num_processes"),
        (["--accelerate", str(ROOT / "params/accelerate/2nodes-zero3.yaml")], "asks for 2 machines"),
        (["--accelerate", ZERO2, "--processes=8"], "8 GPUs, and this machine has 2"),
        (["--accelerate", ZERO2], "processes is 1, and --accelerate"),
        (["--accelerate", ZERO2], "8gpu-zero2.yaml starts 8. Give --processes 8, or --accelerate a file with num_proc"),
        (
            ["--processes=2"],
            "processes is 2, and without --accelerate there are 1. Give --processes 1, or --acc",
        ),
    ],
)
def test_refusals_start_nothing(words, said, monkeypatch, capsys):
    monkeypatch.setattr(Workers, "submit", lambda *arguments: pytest.fail("submitted"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main([*WORDS, *words]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder that tampo takes for the project, so that results/ is of the tests."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".tampo-project").touch()
    return folder


@pytest.fixture
def in_project(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The records of one of the runs as this process makes them."""
    job = Job("tampo", PARAMS.evaluation(), PARAMS.training(temperature_controller="tampo", seed=0), PARAMS.model)
    store = RunStore(tmp_path_factory.mktemp("runs"))
    evaluate(store, job.evaluation, job.model, job.training)
    return job.find(store)


def test_interrupted_then_resumed_then_found(in_project, expected, monkeypatch, capsys):
    """SIGTERM stops the job, with a checkpoint and without a process left behind; the same command ends in the bits
    of an uninterrupted run, though another run fails; then nothing is left to do."""
    command = [sys.executable, "-P", "-m", "tampo", *WORDS, "--seeds", "0", "--controllers", "tampo,linear"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = in_project / "results" / "smoke" / "runs"
    training = runs / expected[0].name
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        while step(training) < 3:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        assert working_in(in_project)
        first.send_signal(signal.SIGTERM)
        shown, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert re.search(r"tampo +0 +running +1 .*\n *linear +0 +waiting +0", shown)
    assert "Stopping the jobs; each saves within a step." in said
    assert "tampo: Finished work is kept; the same command resumes it." in said
    assert working_in(in_project) == []
    (log,) = runs.glob("evaluation-*.log")
    stopped = int(re.search(r"Stopped after step (\d+) of 12", log.read_text())[1])
    assert (training / "checkpoints" / f"checkpoint-{stopped}").is_dir()

    # Linear's training fails at once, through a launcher that does.
    failing = [sys.executable, "-c", "print('out of luck'); raise SystemExit(3)"]
    monkeypatch.setattr(
        Resources, "launch", lambda *args: failing if args[-1]["temperature_controller"] == "linear" else None
    )
    assert main(command[4:]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"linear, seed 0 failed; trying once more. See results/smoke/runs/evaluation-\w+\.log", shown)
    assert re.search(r"tampo +0 +done +1 *\n *linear +0 +failed +2", shown)
    report = re.search(
        r"linear, seed 0 failed \(RunFailed: .*\); the end of (results/smoke/runs/evaluation-\w+\.log):\n(.*)",
        shown,
        re.S,
    )
    assert Path(report[1]).read_text().count("out of luck\n") == 2, "one log for both attempts"
    assert re.search(r"RunFailed: .* ended with exit status 3", report[2])

    names = [record.name for record in expected]
    (path,) = (in_project / "results" / "smoke").glob("*/sweep.csv")
    assert "controllers=tampo+linear" in path.parent.name, "another sweep's table has another folder"
    table = pd.read_csv(path)
    assert table.columns.tolist()[6:] == ["pass@1", "avg@4", "pass@4"]
    assert table.iloc[0, :6].tolist() == ["tampo", 0, "done", 1, *names]
    assert table.iloc[1, :4].tolist() == ["linear", 0, "failed", 2]
    assert table.iloc[1, 4:].isna().all()
    for record in expected:
        files = json.loads((runs / record.name / "manifest.json").read_text())["files"]
        assert without_times(files) == without_times(record.manifest["files"])

    monkeypatch.setattr("tampo.runs.workers.Worker.start", lambda *arguments: pytest.fail("submitted"))
    assert main([*command[4:-1], "tampo"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"tampo +0 +found +0", shown)
    assert re.search(r"controller +pass@1 +avg@4 +pass@4 +seeds\n *tampo +[\d.]+ +[\d.]+ +[\d.]+ +1\n", shown)


def step(training):
    try:
        return json.loads((training / PROGRESS).read_text())["step"]
    except (OSError, ValueError):
        return 0


TRAINING = """
import os, signal, subprocess, sys, time
from pathlib import Path
os.environ.pop("PYTHONSAFEPATH")
Path(sys.argv[1], "thread").write_text(os.environ["OMP_NUM_THREADS"])
if Path(sys.argv[1], "saved").exists():
    raise SystemExit("went on")
child = "import signal, time; signal.signal(signal.SIGTERM, lambda *a: None); time.sleep(60); print('saved late')"
subprocess.Popen([sys.executable, "-c", child.replace("time.sleep(60)", "signal.pause(); time.sleep(1)")])
time.sleep(0.5)
Path(sys.argv[1], "started").touch()
signal.signal(signal.SIGTERM, lambda *a: (Path(sys.argv[1], "saved").touch(), sys.exit(0)))
time.sleep(60)
"""


@pytest.fixture
def queued(tmp_path):
    """A store and a run in it, whose training is a script without torch."""
    job = Job("tampo, seed 0", PARAMS.evaluation(), PARAMS.training())
    return RunStore(tmp_path / "runs"), Run(job, [sys.executable, "-c", TRAINING, str(tmp_path)])


def wait_for(condition, seconds=120):
    for _ in range(seconds * 50):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("waited in vain")


def test_a_stop_reaches_all_that_a_launcher_started_and_only_the_sweep_decides_on_ctrl_c(queued, tmp_path):
    store, run = queued
    workers = Workers(store.root, 1)
    try:
        submit([run], store, workers)
        wait_for((tmp_path / "started").exists)
        assert update(run, store, attempts=2) is False
        assert run.state == "running"
        (worker,) = children()
        os.kill(worker, signal.SIGINT)  # a terminal sends Ctrl-C to all; the sweep handles it
        time.sleep(0.5)
        assert run.attempt.state() == "running"
    finally:
        workers.stop()
    assert update(run, store, attempts=2)
    assert run.error == "Interrupted: Stopped on request; finished work is kept."
    assert (tmp_path / "saved").exists()
    assert "saved late" in run.log.read_text(), "waited for the last to save"
    assert (tmp_path / "thread").read_text() == "1"
    assert run.state == "waiting", "it failed for the first time"
    assert children() == []


ODD_NAMES = [
    "100%j of %A", "%a", "%t", "%N", "%x%u", "%%", "50%", "%5j", "a b", "it's \"q\"", "$HOME", "`id`", "back\\slash",
    "end\\", "two\nlines", "carriage\rreturn", "\ttab", "é 数据 😀", "-dash", "#hash", "a #b", "~tilde", "{a,b}",
    "[0-3]",
]  # fmt: skip


def log_in_slurm(script, job, task=None):
    """The file that Slurm writes the output of a script to, by the rules of sbatch's manual."""
    (line,) = re.findall("^#SBATCH (--output=.*)", script, re.M)
    word, quote, characters = "", None, iter(line)
    for character in characters:
        if character == "\\":  # also in quotes
            word += next(characters, "")
        elif quote:
            quote, word = (None, word) if character == quote else (quote, word + character)
        elif character in "'\"":
            quote = character
        elif character.isspace() or character == "#":
            break
        else:
            word += character
    path = word.removeprefix("--output=")
    if "\\" in path:
        return path.replace("\\", "")
    known = {
        "%": "%",
        "j": job,
        "A": job,
        "a": task,
        "t": "0",
        "N": "node",
        "x": "tampo",
        "u": "user",
        "n": "0",
        "s": "0",
    }
    return re.sub("%([0-9]*)(.)", lambda match: str(known.get(match[2], match[0])), path)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_slurms_logs_are_where_the_sweep_reads_them_whatever_the_path(slurm, tmp_path, monkeypatch, name, seeds):
    """One job, and an array; nothing else is written beside the project."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = tmp_path / name
    project.mkdir()
    store, runs = RunStore(project / "runs"), slurm_runs(seeds)
    submit(runs, store, Slurm(store.root, "tampo", Resources()))
    script = (slurm / "script0").read_bytes().decode()
    assert subprocess.run(["bash", "-n", slurm / "script0"], check=True).returncode == 0
    for number, run in enumerate(runs):
        assert log_in_slurm(script, "12", number) == str(run.attempt.log)
        assert run.attempt.handle.paths.submitted_pickle.is_file()
        assert run.attempt.note.is_file()
    made = {path.name for path in tmp_path.iterdir()}
    assert made - {"home"} == {"slurm", name}
    assert ("home" in made) == bool(set(name) & set("%\\\n\r\t")), "the store, wherever its path can be written"
    (slurm / "states").write_text("12|RUNNING|node\n12_0|RUNNING|node\n12_1|RUNNING|node\n")
    for run in runs:
        found, attempt = Slurm(store.root, "tampo", Resources()).find(run.job.folder(store).name)
        assert (found.log, attempt) == (run.attempt.log, 1)


@pytest.mark.parametrize("name", ["50%", "back\\slash", "two\nlines"])
def test_a_path_that_slurm_cannot_write_in_is_refused_before_anything_is_written(
    slurm, tmp_path, monkeypatch, capsys, name
):
    project = tmp_path / name
    project.mkdir()
    (project / ".tampo-project").touch()
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(project / "home"))
    words = [word for word in WORDS if word != "--cluster=local"]
    assert main([*words, "--cluster=slurm", "--controllers", "tampo", "--seeds", "0"]) == 2
    said = capsys.readouterr().err
    assert "Slurm cannot write logs in" in said
    assert repr(str(project))[1:-1] in said
    assert "TAMPO_STORE" in said
    assert {path.name for path in tmp_path.rglob("*")} == {name, ".tampo-project", "slurm", *os.listdir(slurm)}
    monkeypatch.setenv("TAMPO_STORE", str(tmp_path / "plain"))
    store = RunStore.of(PARAMS)
    submit(slurm_runs([0]), store, Slurm(store.root, "tampo", Resources()))
    assert (tmp_path / "plain").is_dir()


def test_jobs_of_this_machine_in_any_path(queued, tmp_path):
    _, run = queued
    (tmp_path / "saved").touch()  # with which the launcher fails at once
    store = RunStore(tmp_path.joinpath(*ODD_NAMES) / "runs")
    follow([run], store, Workers(store.root, 1), lambda ended: None)
    assert run.log.read_text().startswith("went on\n")
    assert "went on" in run.failure()
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "thread", ODD_NAMES[0]}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_launcher_finds_accelerates_file_in_any_path(tmp_path, monkeypatch, name):
    config = tmp_path / f"{name}.yaml"
    config.write_text("num_processes: 1\nuse_cpu: true\n")
    monkeypatch.chdir(tmp_path)
    command = Resources(accelerate=Path(config.name)).launch("smoke", {"model": name})
    assert command[3:5] == ["--config_file", str(config)]
    options = build_parser().parse_args(command[command.index("tampo") + 1 :])
    assert options.overrides["model"] == name


def test_without_submitit_slurm_names_what_to_install(slurm, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(ImportError, match=r'pip install "tampo\[slurm\]"'):
        patch.setitem(sys.modules, "submitit", None)
        sweep("smoke", ["tampo"], [0], SMALL | {"scale": "unasked"})
    assert Resources("local").use_slurm() is False


def test_a_pre_emption_stops_all_that_a_launcher_started_and_the_job_resumes(queued, tmp_path, monkeypatch):
    """In a real job of submitit, whose local executor requeues as Slurm does."""
    import submitit

    store, run = queued
    for name, value in (worker_environment() | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=10, stderr_to_stdout=True)
    job = executor.submit(Work(), run.job.order(store, run.launch))
    wait_for((tmp_path / "started").exists)
    (work,) = (pid for pid in working_in(tmp_path / "jobs") if pid != int(job.job_id))
    os.kill(work, signal.SIGUSR2)
    wait_for(job.done)
    log = job.paths.stdout.read_text()
    assert log.index("saved late") < log.index("Requeued job") < log.index("went on"), "waited for the last to save"
    wait_for(lambda: working_in(tmp_path / "jobs") == [])


def test_jobs_end_with_the_process_that_submitted_them(queued, tmp_path):
    code = """
import sys, time
from pathlib import Path
from tampo.config import load_params
from tampo.runs.jobs import Job, Run, submit
from tampo.runs.store import RunStore
from tampo.runs.workers import Workers, worker_environment
params, store = load_params("smoke"), RunStore(Path(sys.argv[1]))
workers = Workers(store.root, 1)
submit([Run(Job("job", params.evaluation(), params.training()), sys.argv[2:])], store, workers)
time.sleep(60)
"""
    store, run = queued
    words = [sys.executable, "-c", code, str(store.root), *run.launch]
    parent = subprocess.Popen(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    wait_for((tmp_path / "started").exists)
    assert working_in(tmp_path) == children(parent.pid) != []
    parent.kill()
    parent.wait()
    wait_for((tmp_path / "saved").exists)
    wait_for(lambda: not working_in(tmp_path))


def test_a_second_ctrl_c_says_something_too(monkeypatch, capsys):
    monkeypatch.setattr("tampo.runs.sweep.sweep", lambda *arguments: signal.raise_signal(signal.SIGINT))
    assert main(WORDS) == 130
    assert "tampo: Interrupted. The same command resumes from there." in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_reach_a_training_and_only_a_pre_emption_requeues(number, monkeypatch):
    """`run_job` behaves as a training run: it is asked to stop, and then raises Interrupted."""
    seen = []

    def train(order):
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            seen.append(bool(stop))
        raise Interrupted("saved")

    monkeypatch.setattr("tampo.runs.slurm.run_job", train)
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, lambda *arguments: seen.append("requeued"))
    try:
        with pytest.raises(Interrupted, match="saved"):
            Work()("{}")
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert seen == [True] + ["requeued"] * (number == signal.SIGUSR2)
    again = Work().checkpoint("order")
    assert isinstance(again.function, Work)
    assert again.args == ("order",)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm that accepts every job and runs none: sbatch stores its input, sacct prints the file `states`."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    commands = {
        "sbatch": f'n=$(ls {folder} | grep -c script); cp "$1" {folder}/script$n; env > {folder}/env; '
        "echo Submitted batch job $((12 + n))",
        "sacct": f"echo 'JobID|State|NodeList'; cat {folder}/states",
        "srun": "exit 1",
    }
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "states").write_text("")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    yield folder
    import submitit

    submitit.SlurmJob.watcher.clear()


def slurm_runs(seeds=(0, 1)):
    return [Run(Job(f"seed {seed}", PARAMS.evaluation(), PARAMS.training(seed=seed))) for seed in seeds]


def test_what_slurm_is_asked_for(slurm, tmp_path):
    options = {"account": "me", "cpus-per-task": "8", "exclusive": True}
    resources = Resources("auto", ROOT / "params/accelerate/8gpu-zero2.yaml", 90, "gpu", options)
    assert resources.use_slurm()
    store, runs = RunStore(tmp_path / "runs"), slurm_runs()
    submit(runs, store, Slurm(store.root, "tampo-smoke", resources, workers=1))
    asked = set((slurm / "script0").read_text().splitlines())
    expected = "job-name=tampo-smoke array=0-1%1 gpus-per-node=8 time=90 partition=gpu nodes=1 ntasks-per-node=1 "
    expected += "account=me cpus-per-task=8 exclusive signal=USR2@540"
    assert {f"#SBATCH --{word}" for word in expected.split()} <= asked
    assert {"OMP_NUM_THREADS=1", "PYTHONSAFEPATH=1"} <= set((slurm / "env").read_text().splitlines())
    assert [run.attempt.handle.job_id for run in runs] == ["12_0", "12_1"]
    notes = [json.loads(path.read_text()) for path in (tmp_path / "runs" / "sweep").glob("*.json")]
    assert sorted(note["job"] for note in notes) == ["12_0", "12_1"]


def test_jobs_in_slurms_queue_are_taken_up_again_not_submitted_twice(slurm, tmp_path):
    store = RunStore(tmp_path / "runs")
    submit(slurm_runs(), store, Slurm(store.root, "tampo", Resources()))
    (slurm / "states").write_text("12_0|RUNNING|node\n12_1|FAILED|node\n")
    runs, seen = slurm_runs(), []

    def report(ended):
        seen.extend((run.state, run.attempts, run.attempt.handle.job_id) for run in runs)
        raise InterruptedError

    backend = Slurm(store.root, "tampo", Resources())
    with pytest.raises(InterruptedError):
        follow(runs, store, backend, report)
    assert seen == [("running", 1, "12_0"), ("waiting", 1, "13")]
    for text in ("", "[]", "{", '{"job": 12, "attempts": 1}', '{"job": "--all", "attempts": 1}', '{"job": "12_0"}'):
        for path in (store.root / "sweep").glob("*.json"):
            path.write_text(text)
        assert backend.find(slurm_runs([0])[0].job.folder(store).name) is None


def test_a_slurm_job_that_ends_without_its_records_is_submitted_once_more(slurm, tmp_path):
    store, (run,) = RunStore(tmp_path / "runs"), slurm_runs([0])
    backend = Slurm(store.root, "tampo", Resources())
    (slurm / "states").write_text("12|OUT_OF_MEMORY|node\n13|TIMEOUT|node\n")
    states = []
    for _ in range(3):
        submit([run], store, backend)
        assert update(run, store, attempts=2) is (len(states) < 2)
        states.append((run.state, run.attempts))
    assert states == [("waiting", 1), ("failed", 2), ("failed", 2)]
    assert run.error == "Slurm's state: TIMEOUT"
    assert not list((tmp_path / "runs" / "sweep").glob("*.json"))


def test_what_slurm_refuses_is_said(slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho invalid partition specified: gpu >&2\nexit 1\n")
    store = RunStore(tmp_path / "runs")
    with pytest.raises(ConfigError, match="Slurm refused the jobs: .*invalid partition"):
        submit(slurm_runs(), store, Slurm(store.root, "tampo", Resources(partition="gpu")))


def test_leaving_a_sweep_on_slurm_leaves_its_jobs(slurm, in_project, capsys):
    (slurm / "states").write_text("12|PENDING|\n")
    overrides = SMALL | {"scale": "on-slurm"}
    with pytest.raises(Interrupted, match="The jobs on Slurm continue; the same command finds them again"):
        sweep("smoke", ["tampo"], [0], overrides, log=lambda line: os.kill(os.getpid(), signal.SIGTERM))
    shown = []

    def say(line):
        shown.append(line)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        sweep("smoke", ["tampo"], [0], overrides, log=say)
    assert re.search(r"tampo +0 +waiting +1", shown[0])
    assert "Leaving." in capsys.readouterr().err
    assert len(list(slurm.glob("script*"))) == 1, "submitted by the first call alone"


def test_launch_command(tmp_path):
    config = tmp_path / "two.yaml"
    config.write_text("num_processes: 2\n")
    changes = {"alpha": 0.1, "benchmarks": ["gcd"], "temperature_controller": "fixed", "seed": 3, "eval_problems": None}
    command = Resources(accelerate=config).launch("params/smoke.yaml", changes)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[3:7] == ["--config_file", str(config), "--main_process_port", "0"]
    assert command[9:13] == ["-m", "tampo", "train", "params/smoke.yaml"]
    assert load_params("smoke", build_parser().parse_args(command[11:]).overrides) == load_params("smoke", changes)
    assert Resources(accelerate=config).gpus() == Resources(accelerate=config).processes() == 2
    assert Resources().launch("smoke", changes) is None
    config.write_text("num_processes: 2\nuse_cpu: true\n")
    assert (Resources(accelerate=config).gpus(), Resources(accelerate=config).processes()) == (0, 2)
    assert (Resources().gpus(), Resources().processes(), Resources(one_gpu=True).gpus()) == (0, 1, 1)
    for text in ("", "[]", "{", "num_processes: none", "num_processes: 0", "{num_processes: 8, num_machines: 2}"):
        config.write_text(text)
        with pytest.raises(ConfigError, match="two.yaml"):
            Resources(accelerate=config).gpus()


def test_gpus_of_this_machine_are_given_out_and_back(tmp_path, monkeypatch):
    """Two jobs of two GPUs each on a machine that shows five: the third waits for one of them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3,4,5,7")
    code = "import os, sys; open(sys.argv[1], 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' '); sys.exit(1)"
    launch = [sys.executable, "-c", code, str(tmp_path / "given")]
    runs, store = [Run(run.job, launch) for run in slurm_runs(range(3))], RunStore(tmp_path / "runs")
    workers, running = Workers(store.root, 8, gpus=2), []

    def report(ended):
        running.append(sum(run.state == "running" for run in runs))

    follow(runs, store, workers, report)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in workers._workers] == ["1,3", "4,5"]
    given = (tmp_path / "given").read_text().split()
    assert len(given) == 3
    assert set(given) <= {"1,3", "4,5"}
    assert max(running) == 2


@pytest.mark.slow
def test_a_run_under_accelerate(in_project, tmp_path, capsys):
    config = tmp_path / "cpu.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\nuse_cpu: true\n")
    words = [*WORDS, "--seeds", "0", "--controllers", "tampo", "--max-steps=2", "--scale=launched"]
    assert main([*words, "--accelerate", str(config)]) == 0
    assert re.search(r"tampo +0 +done +1", capsys.readouterr().out)
    (log,) = (in_project / "results" / "launched" / "runs").glob("*.log")
    assert "Trained: results/launched/runs/training-" in log.read_text()

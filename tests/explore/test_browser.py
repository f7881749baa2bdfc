"""quickstart, algorithm and explore in a real front end: JupyterLab and Chromium, headless, on a small store."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from tampo.paper.experiments import TRAINED
from tampo.runs.store import RunStore
from tests.explore.logged import STEPS, add_runs
from tests.explore.small_store import HOSTILE, PARAMS, identity, make_store, take_steps
from tests.helpers import free_port

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")

RUNS = Path("results", "smoke", "runs")
IDLE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const kernel = panel?.sessionContext?.session?.kernel;
    return kernel?.status === "idle" && panel.content.widgets.every(
        cell => cell.model.type !== "code" || cell.model.executionCount !== null);
}"""
OUTPUTS = """() => {
    const notebook = window.jupyterapp.shell.currentWidget.context.model.toJSON();
    return notebook.cells.flatMap(cell => cell.outputs ?? []);
}"""


SETTINGS = {  # lines that are added to the notebook's parameters
    "explore": f'params, TRAIN, max_steps = "smoke", False, {PARAMS.max_steps}',
    "algorithm": 'params = "smoke"',
    "quickstart": 'params = "smoke"',
}


@pytest.fixture
def name():
    """The notebook; a test may name another one."""
    return "explore"


@pytest.fixture
def project(tmp_path, name):
    """A folder like the project, with the notebook set to look at a small store."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "params").symlink_to(ROOT / "params")
    (root / ".tampo-project").touch()
    if name == "explore":
        make_store(root / RUNS)
    elif name == "algorithm":
        add_runs(RunStore(root / RUNS))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f"\n{SETTINGS[name]}"
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    return root


@pytest.fixture
def jupyter(project, name, tmp_path):
    """The address of a separate JupyterLab: no settings of the user, nothing left behind."""
    port = free_port()
    token, home = secrets.token_hex(16), tmp_path / "home"
    news = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # no question, no look-up in the network
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(home / folder) for name, folder in folders.items()}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", f"--port={port}"]
    options += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={project}"]
    with open(tmp_path / "jupyter.log", "w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(f"{address}/api?token={token}", server), seconds=60)
        yield f"{address}/lab/tree/notebooks/{name}.ipynb?token={token}"
    finally:
        server.terminate()  # which ends the kernel as well
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=15)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        wait_for(lambda: not processes_of(home), seconds=15)  # a kernel has its own process group, and ends by itself


def answers(address, server):
    assert server.poll() is None, "JupyterLab has ended"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


def processes_of(folder):
    """Processes with `folder` in their command line (Linux; elsewhere nothing is found)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
    return found


@pytest.fixture
def page(jupyter, name, tmp_path):
    """The notebook, all cells run; at the end nothing may have been complained about, by Python or by the browser."""
    complaints = []
    playwright.expect.set_options(timeout=20_000)  # the rest of the suite may run beside
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 2700})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(jupyter)
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=60_000)
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready")
        page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(IDLE, timeout=120_000)
        shown = page.locator(".jp-OutputArea img" if name == "quickstart" else ".widget-vbox").first
        shown.scroll_into_view_if_needed()
        yield page
        kept = Path(os.environ.get("TAMPO_SCREENSHOTS", tmp_path))
        shown.screenshot(path=str(kept / f"{name}.png"))
        page.screenshot(path=str(kept / f"{name}.whole.png"))
        outputs = page.evaluate(OUTPUTS)
        browser.close()
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert complaints == []


def test_explore(page, project):
    expect = playwright.expect
    controls = page.locator(".widget-vbox").first
    pictures = controls.locator("img.widget-image").all()  # policy, curves, likelihood
    expect(controls).to_contain_text("Step 4 of 6. 5 of 6 runs.")
    expect(controls.locator("th")).to_have_count(5)
    expect(controls).to_contain_text("tampo, seed 0, step 4, sum-1, rollout 1")

    # Another step: all pictures and completions change. One completion is hostile, and stays text.
    before = [picture.get_attribute("src") for picture in pictures]
    assert len(before) == 3
    page.locator(".widget-slider .noUi-handle").press("ArrowRight")
    expect(controls).to_contain_text("Step 5 of 6")
    for picture, address in zip(pictures, before, strict=True):
        expect(picture).not_to_have_attribute("src", address)
    expect(controls).not_to_contain_text("step 4, sum-1")
    hostile = controls.locator("pre", has_text="tampo, seed 0, step 5, sum-1, rollout 1")
    assert hostile.inner_text().endswith(HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e"))
    assert controls.locator("script, pre *, h1, td img, mjx-container").count() == 0
    assert page.evaluate("() => window.ran") is None

    # Another problem, another rollout: the pictures of whole runs do not change.
    before = [picture.get_attribute("src") for picture in pictures]
    page.get_by_label("Problem").select_option("sum-2")
    expect(controls).to_contain_text("step 5, sum-2")
    expect(pictures[2]).not_to_have_attribute("src", before[2])
    second = pictures[2].get_attribute("src")
    page.get_by_label("Rollout").select_option(label="GRPO (T = 0.9), seed 0: 2 wrong, A = -0.87")
    expect(pictures[2]).not_to_have_attribute("src", second)
    assert [picture.get_attribute("src") for picture in pictures[:2]] == before[:2]

    # A running training run beside a finished one; it takes two more steps, then another while it is followed.
    page.get_by_label("Runs").select_option(["TAMPO, seed 1, at step 3 of 6", "TAMPO, seed 0"])
    expect(controls.locator("th")).to_have_count(2)
    expect(controls).to_contain_text("The rollouts of step 5 are not there, or not yet.")
    folder = RunStore(project / RUNS).folder("training", identity(TRAINED[-1], seed=1))
    take_steps(folder, TRAINED[-1], 1, range(4, 6))
    controls.get_by_role("button", name="Refresh").click()
    expect(controls).to_contain_text("tampo, seed 1, step 5, sum-2")
    before = [picture.get_attribute("src") for picture in pictures]
    controls.locator(".widget-play button").first.click()
    take_steps(folder, TRAINED[-1], 1, range(6, 7))
    expect(page.get_by_label("Runs")).to_contain_text("TAMPO, seed 1, at step 6 of 6")
    for picture, address in zip(pictures[:2], before[:2], strict=True):
        expect(picture).not_to_have_attribute("src", address)
    controls.locator(".widget-play button").first.click()  # which is "pause" now

    # A chosen run that cannot be found for a moment leaves the list, comes back, and is chosen still.
    folder.rename(folder.with_name("elsewhere"))
    controls.get_by_role("button", name="Refresh").click()
    expect(controls.locator("th")).to_have_count(1)
    folder.with_name("elsewhere").rename(folder)
    controls.get_by_role("button", name="Refresh").click()
    expect(controls.locator("th")).to_have_count(2)


@pytest.mark.parametrize("name", ["algorithm"])
def test_algorithm(page):
    expect = playwright.expect
    controls = page.locator(".widget-vbox").first
    course, distribution = controls.locator("img.widget-image").all()
    step, alpha, top_p = controls.locator(".widget-slider .noUi-handle").all()
    expect(controls).to_contain_text(f"Step {STEPS // 2}. facts: T = ")
    expect(controls).to_contain_text("arithmetic: T = ")

    def moved(handle, key):
        """The pictures before a slider is moved; the second one always changes."""
        before = course.get_attribute("src"), distribution.get_attribute("src")
        handle.press(key)
        expect(distribution).not_to_have_attribute("src", before[1])
        return before

    before = moved(step, "ArrowRight")
    expect(controls).to_contain_text(f"Step {STEPS // 2 + 1}. facts")
    expect(course).not_to_have_attribute("src", before[0])
    before = moved(alpha, "End")  # 1: only the newest batch counts
    expect(course).not_to_have_attribute("src", before[0])
    moved(top_p, "Home")  # 0: greedy


@pytest.mark.parametrize("name", ["quickstart"])
def test_quickstart(page, project):
    playwright.expect(page.locator(".jp-OutputArea img")).to_have_count(2)
    assert (project / "results" / "smoke" / "studies" / "quickstart.png").is_file()

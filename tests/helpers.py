"""What several test modules share."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def make_project(folder: Path) -> Path:
    """A project with the parameters and notebooks of the checkout, so that results of tests stay out of results/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".tampo-project").touch()
    return folder

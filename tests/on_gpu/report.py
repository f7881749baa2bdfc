"""What a stage found: PASS, FAIL or SKIP for each check, with numbers. The file is complete after every check."""

from pathlib import Path
from typing import Any

from tampo.files import write_json

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


class Skipped(Exception):
    """Raised by a stage that cannot run here; the message is the reason."""


class Report:
    """The checks of one stage, written to `path` as a JSON list: name, status, numbers, message."""

    def __init__(self, path: Path) -> None:
        self._path, self.checks = path, list[dict[str, Any]]()

    def check(self, name: str, passed: bool, message: str = "", **numbers: Any) -> None:
        """Add a check; `message` says what was expected."""
        self._add(name, PASS if passed else FAIL, message, numbers)

    def skip(self, name: str, reason: str) -> None:
        """Add a check that cannot be made here."""
        self._add(name, SKIP, reason, {})

    def _add(self, name: str, status: str, message: str, numbers: dict[str, Any]) -> None:
        rounded = {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in numbers.items()}
        self.checks.append({"name": name, "status": status, "numbers": rounded, "message": message})
        write_json(self._path, self.checks)


def status_of(checks: list[dict[str, Any]]) -> str:
    """FAIL if any check failed, SKIP if none was made, else PASS."""
    found = {check["status"] for check in checks}
    return FAIL if FAIL in found else PASS if PASS in found else SKIP

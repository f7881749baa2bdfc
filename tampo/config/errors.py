"""What is wrong with parameters, for a user."""

from tampo.extras import extra

with extra("reproduce"):
    from pydantic import ValidationError


class ConfigError(ValueError):
    """A parameter is unknown, of the wrong type or out of range; the message names it and the way out."""


def explain(error: ValidationError, where: str) -> str:
    """A line for each parameter that was refused: its name, the reason, and the value.

    Args:
        error: Of one of the config's models.
        where: Where the values come from.
    """
    lines, items = [], error.errors()
    for item in items:
        if item["type"] == "too_short" and any(other["loc"][:1] == item["loc"] for other in items if other is not item):
            continue  # a list is short because its items were refused
        name = ".".join(str(part) for part in item["loc"])
        given = f", got {item['input']!r}" if name else ""
        lines.append(f"  {name or 'parameters'}: {item['msg'].removeprefix('Value error, ')}{given}")
    return f"Bad parameters ({where}):\n" + "\n".join(lines)

"""What the text of a parameter means: lists, ranges of seeds, mappings, null."""

import re
from typing import Any

from tampo.extras import extra

with extra("reproduce"):
    import yaml

# At most so many seeds, which a slip in a range would exceed.
MAX_SEEDS = 1000


def refuse_null_characters(value: Any) -> None:
    """Raise ValueError if a text, or one in a list or mapping, has a null character, which no file name can have."""
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not have a null character")
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            refuse_null_characters(item)


def mapping(value: Any) -> Any:
    """A mapping, which may be text: {start_temperature: 0.8}, as YAML or JSON write it. None is an empty one."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError("must be a mapping such as {start_temperature: 0.8}") from error


def list_items(value: Any) -> Any:
    """The items of a list, which may be one value, or text with commas and perhaps brackets; anything else as it is."""
    if isinstance(value, str):
        inside = re.fullmatch(r"\s*[\[(](.*)[\])]\s*", value, re.DOTALL)
        return [part.strip(" \t\n'\"") for part in (inside[1] if inside else value).split(",") if part.strip()]
    if isinstance(value, int | float):
        return [value]
    if not isinstance(value, list | tuple | range) or any(isinstance(item, bool) for item in value):
        raise ValueError("must be a list")
    return [*value]


def expand_ranges(items: Any) -> Any:
    """Seeds with "0-4" written out; repeated ones count once."""
    if not isinstance(items, list | tuple):
        return items
    seeds: list[Any] = []
    for item in items:
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", item) if isinstance(item, str) else None
        if match is None:
            seeds.append(item)
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last:
            raise ValueError(f"the range {item.strip()} must go up")
        if last - first >= MAX_SEEDS:
            raise ValueError(f"the range {item.strip()} has more than {MAX_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(seeds) > MAX_SEEDS:
        raise ValueError(f"more than {MAX_SEEDS} seeds")
    hashable = all(isinstance(seed, int | float | str) for seed in seeds)
    return list(dict.fromkeys(seeds)) if hashable else seeds

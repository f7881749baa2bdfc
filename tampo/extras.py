"""The optional parts of tampo, and the error where one of them is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports in this context that find no library raise an ImportError with the line that installs `name`.

    Example:
        >>> with extra("slurm"):
        ...     import no_such_library
        Traceback (most recent call last):
        ImportError: no_such_library is not installed. It comes with: pip install "tampo[slurm]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library == "tampo":  # a fault of ours
            raise
        raise ImportError(
            f'{library} is not installed. It comes with: pip install "tampo[{name}]"', name=library
        ) from error

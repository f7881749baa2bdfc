"""What tampo has to know of the inside of TRL's fused LM head, in one place.

TRL 1.16 never holds the logits: its fused head projects the hidden states tile by tile and folds each tile into the
log-probabilities. `FusedHead` changes the temperature that it captured when the trainer was built. `tapped_logits`
lends each tile to somebody else before TRL folds it, so that the K virtual log-likelihoods cost no further product
with the LM head, and see the very logits of the loss: same precision, same gathering of a head that ZeRO-3 has split.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CellType
from typing import Any, cast

import torch
import trl
from torch import Tensor, nn

from tampo.likelihood import RunningSums, spread

try:
    from trl.kernels import chunked_logprob
except ImportError:  # before TRL 1.15
    chunked_logprob = cast(Any, None)


class FusedHead:
    """The settings that TRL's `add_fused_lm_head` captured for one model, among them the loss's temperature.

    TRL offers no way to change the temperature of a fused head. Its cell in the closure of the model's forward is
    the one place that all log-probabilities read, and writing there keeps whatever accelerate wrapped around the
    forward meanwhile (building the head anew would drop it).

    Args:
        model: A model that `add_fused_lm_head` was called on.

    Raises:
        RuntimeError: There is no such closure, as in a version of TRL that tampo does not know.
    """

    def __init__(self, model: nn.Module) -> None:
        forward = inspect.unwrap(cast(Any, model).forward, stop=lambda f: "temperature" in _free_variables(f))
        cells = _free_variables(forward)
        if "temperature" not in cells:
            raise RuntimeError(_unknown_version("keep the temperature of its fused LM head"))
        self._temperature = cells["temperature"]

    @property
    def temperature(self) -> float:
        return self._temperature.cell_contents

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature.cell_contents = value


class FusedHeads:
    """The fused heads of the models that a trainer scores with: sets their temperature and records likelihoods.

    Args:
        models: The policy and, if there is one, the reference model.

    Raises:
        RuntimeError: This version of TRL keeps the temperature, or folds tiles, in a way that tampo does not know.
    """

    cost = "no further pass and no further product with the LM head"

    def __init__(self, models: Sequence[nn.Module]) -> None:
        check_tiles()
        self._heads = [FusedHead(model) for model in models]

    @property
    def temperature(self) -> float:
        return self._heads[0].temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        for head in self._heads:
            head.temperature = value

    def score(
        self,
        score: Callable[[], tuple[Tensor | None, ...]],
        input_ids: Tensor,
        attention_mask: Tensor,
        completion_length: int,
        temperatures: Sequence[float] | None,
    ) -> tuple[Tensor | None, ...]:
        """What `score` returns, and log-probabilities of the completions at the K `temperatures`.

        Args:
            score: Has TRL score the rows with one of the models.
            input_ids: Prompts and completions of the rows, shape (B, L).
            attention_mask: Of the same shape.
            completion_length: Completions are the last C columns.
            temperatures: The K virtual temperatures; None to record nothing.

        Returns:
            The values of `score`, the first of them the log-probabilities at the current temperature, (B, C), and the
            recorded log-probabilities: shape (B, C, K), float32, zero where a completion has no token; or None.
        """
        if temperatures is None:
            return *score(), None
        recorder = LogitRecorder(attention_mask, completion_length, temperatures)
        with tapped_logits(recorder):
            scored = score()
        return *scored, recorder.log_probs()


# A tile of logits (n, v), the tokens of its rows (n,), the tile's first place in the vocabulary, and how the logits
# follow from the product: their scale, and the soft-cap or None.
TileReader = Callable[[Tensor, Tensor, int, float, float | None], None]

# TRL's function (CPU) and kernel (GPU) that fold a tile, and the arguments that are read here by their place.
_FOLDS = {
    "_forward_tile": {0: "tile", 2: "targets", 10: "vocab_start"},
    "_forward_kernel": {0: "mm_ptr", 2: "targets_ptr", 10: "vocab_start"},
}
_SETTINGS = {"logit_scale", "softcap", "HAS_SOFTCAP"}


@contextmanager
def tapped_logits(read: TileReader) -> Iterator[None]:
    """Within the context, `read` is shown every tile of logits that a fused head computes, before TRL folds it.

    The tile is TRL's own buffer: it is overwritten by the next one, and must not be changed.

    Raises:
        RuntimeError: TRL folds tiles in another way, as in a version that tampo does not know.
    """
    check_tiles()
    originals = {name: getattr(chunked_logprob, name) for name in _FOLDS}

    def reading(fold: Callable[..., Any]) -> Callable[..., Any]:
        def read_and_fold(tile: Tensor, stride: int, tokens: Tensor, *rest: Any, **settings: Any) -> Any:
            start = rest[7]
            softcap = settings["softcap"] if settings["HAS_SOFTCAP"] else None
            read(tile, tokens, start, settings["logit_scale"], softcap)
            return fold(tile, stride, tokens, *rest, **settings)

        return read_and_fold

    class ReadingKernel:
        """Launched as kernel[grid](...), like the Triton kernel it stands for."""

        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            return reading(originals["_forward_kernel"][grid])

    chunked_logprob._forward_tile = reading(originals["_forward_tile"])
    chunked_logprob._forward_kernel = ReadingKernel()
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(chunked_logprob, name, original)


def check_tiles() -> None:
    """Raise a RuntimeError unless TRL folds tiles with the functions and arguments that `tapped_logits` expects."""
    for function, expected in _FOLDS.items():
        fold = getattr(chunked_logprob, function, None)
        arguments = list(inspect.signature(getattr(fold, "fn", fold)).parameters) if fold is not None else []
        found = dict(enumerate(arguments))
        if not _SETTINGS.issubset(arguments) or any(found.get(i) != name for i, name in expected.items()):
            raise RuntimeError(_unknown_version("fold the tiles of its fused LM head"))


class LogitRecorder:
    """Log-probabilities of completions at K temperatures, from the tiles of logits that pass through a fused head.

    Use it as the reader of `tapped_logits` around the scoring of one batch.

    Args:
        attention_mask: Of prompts and completions, shape (B, L).
        completion_length: Completions are the last C columns.
        temperatures: The K virtual temperatures.
    """

    def __init__(self, attention_mask: Tensor, completion_length: int, temperatures: Sequence[float]) -> None:
        self._keep = attention_mask[:, -completion_length:].bool()  # (B, C)
        self._temperatures = temperatures
        # TRL scores completions alone where it has Triton, and every token but the first of each row elsewhere.
        self._in_rows = attention_mask.new_zeros(len(attention_mask), attention_mask.size(1) - 1, dtype=torch.bool)
        self._in_rows[:, -completion_length:] = self._keep
        self._in_rows = self._in_rows.flatten()  # (B (L - 1),)
        self._seen = 0  # rows of earlier chunks of tokens
        self._rows: Tensor | None = None  # which rows of the present chunk are completions; None for all
        self._chunks: list[RunningSums] = []

    def __call__(self, tile: Tensor, tokens: Tensor, start: int, logit_scale: float, softcap: float | None) -> None:
        if start == 0:  # the next chunk of tokens begins
            self._rows = None
            if not chunked_logprob._use_triton(tile.device):
                chunk = self._in_rows[self._seen : self._seen + len(tile)]
                self._rows = chunk.nonzero()[:, 0].to(tile.device)
                self._seen += len(tile)
            self._chunks.append(RunningSums(self._select(tokens), self._temperatures))
        self._chunks[-1].add(self._select(tile), start, logit_scale, softcap)

    def _select(self, rows: Tensor) -> Tensor:
        return rows if self._rows is None else rows.index_select(0, self._rows)

    def log_probs(self) -> Tensor:
        """Shape (B, C, K), float32, zero where a completion has no token."""
        if not self._chunks:  # no completion has a token
            return self._keep.new_zeros(*self._keep.shape, len(self._temperatures), dtype=torch.float32)
        return spread(torch.cat([chunk.log_probs() for chunk in self._chunks]), self._keep)


def _unknown_version(what: str) -> str:
    return (
        f"TRL {trl.__version__} does not {what} as tampo expects. Install the version of TRL that tampo pins (1.16.0)."
    )


def _free_variables(function: Any) -> dict[str, CellType]:
    code = getattr(function, "__code__", None)
    return dict(zip(code.co_freevars, function.__closure__ or (), strict=True)) if code else {}

"""Every private name of TRL and transformers that the trainer reads; `tests/contracts/test_trl.py` has a test for each.

The methods that `TAMPOTrainer` overrides are in `tampo.trainer.trainer`.

TRL's fused LM head (1.15 and later) never holds the logits: it multiplies hidden states and weights tile by tile, and
adds each tile to running sums. `FusedHeads` changes the temperature that the heads captured when the trainer was built.
`tapped_logits` shows each tile to a reader first. So the K virtual log-likelihoods need no second product with the LM
head, and they use the logits of the loss: same precision, same gathering of a head that ZeRO-3 has split.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CellType
from typing import Any, NamedTuple, cast

import torch
import trl
from accelerate.utils import DynamoBackend
from torch import Tensor, nn
from trl import GRPOConfig, GRPOTrainer

from tampo.likelihood import StreamingLogProbs, scatter_to_mask

try:
    from trl.kernels import chunked_logprob
except ImportError:  # before TRL 1.15
    chunked_logprob = cast(Any, None)

try:
    from trl.generation import vllm_generation
except ImportError:  # a TRL that builds vLLM elsewhere
    vllm_generation = cast(Any, None)

DICT_FIELDS: list[str] = GRPOConfig._VALID_DICT_FIELDS
"""Fields of the config that may be a JSON text."""

OTHER_HEADS = {
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "output_multiplier": (None, 1),
    "lm_head_multiplier": (None, 1),
    "logits_scaling": (None, 1),
}
"""Names, in the configs of models, of what an LM head does beside its product, and the values without effect."""


def micro_batches(trainer: GRPOTrainer) -> int:
    """Micro-batches that the trainer has processed since the start of `train`, or since a resumed generation batch."""
    return trainer._step


def rollouts_in_use(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    """Rows of the latest generation batch, in `steps_per_generation` parts, of this process."""
    return cast(Any, trainer._buffered_inputs)


def set_rollouts_in_use(trainer: GRPOTrainer, position: int, rollouts: list[dict[str, Any]] | None) -> None:
    """Continue at a generation batch's micro-batch number `position`; 0 and None to sample a new one."""
    trainer._step, trainer._buffered_inputs = position, cast(Any, rollouts)


def completion_table(trainer: GRPOTrainer) -> dict[str, Any]:
    """The columns of TRL's table of completions as lists, and of its parts "rewards" and "extra"."""

    def lists(columns: Mapping[str, Any]) -> dict[str, Any]:
        return {n: lists(part) if isinstance(part, Mapping) else list(part) for n, part in columns.items()}

    return lists(cast(Any, trainer._logs))


def restore_completion_table(trainer: GRPOTrainer, table: Mapping[str, Any]) -> None:
    """Fill TRL's empty table of completions from `completion_table`."""
    for name, column in table.items():
        parts = column.items() if isinstance(column, dict) else [(None, column)]
        for part, values in parts:
            target = cast(Any, trainer._logs[name])
            (target if part is None else target[part]).extend(values)


def training_metrics(trainer: GRPOTrainer) -> MutableMapping[str, list[float]]:
    """Metrics of the next row of the training log; TRL logs the mean of each list."""
    return trainer._metrics["train"]


def sampled_prompts(trainer: GRPOTrainer) -> Sequence[str]:
    """Prompts in TRL's table of completions."""
    return cast(Any, trainer._logs["prompt"])


def extra_columns(trainer: GRPOTrainer) -> MutableMapping[str, Any]:
    """Further columns of TRL's table of completions: deques as long as a generation batch."""
    return cast(Any, trainer._logs["extra"])


def reward_names(trainer: GRPOTrainer) -> Sequence[str]:
    """Names of the reward functions: columns of TRL's table of completions."""
    return trainer.reward_func_names


def metrics_of_rewards(trainer: GRPOTrainer) -> Mapping[str, Sequence[float]]:
    """What the reward functions have just logged by `log_metric` on this process."""
    return trainer._pending_metrics


def columns_of_rewards(trainer: GRPOTrainer) -> Mapping[str, Sequence[Any]]:
    """What the reward functions have just logged by `log_extra` on this process."""
    return trainer._pending_extra_logs


def checkpoint_folder(trainer: GRPOTrainer, trial: Any) -> Path:
    """The folder that holds the checkpoints."""
    return Path(trainer._get_output_dir(trial=trial))


def tokenize_prompts(trainer: GRPOTrainer, prompts: list[Any]) -> list[list[int]]:
    """Token ids of each prompt, a text or a chat."""
    return trainer._tokenize_prompts(prompts)[0]


def set_sampling_temperature(trainer: GRPOTrainer, temperature: float) -> None:
    """Set the temperature of the next rollouts, for every engine."""
    if trainer.use_vllm:
        trainer.vllm_generation.temperature = temperature
    else:
        trainer.generation_config.temperature = temperature
        trainer.generation_kwargs["temperature"] = temperature


def server_client(trainer: GRPOTrainer) -> Any:
    """The main process's client of a vLLM server."""
    return trainer.vllm_generation.vllm_client


def check_not_compiled(trainer: GRPOTrainer) -> None:
    """Raise a ValueError where the policy is compiled, or a launcher's dynamo_backend has accelerate compile it."""
    plugin = trainer.accelerator.state.dynamo_plugin
    model: Any = trainer.model
    compiled = hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None
    if compiled or plugin.backend != DynamoBackend.NO:
        how = "the model was compiled" if compiled else f"accelerate has dynamo_backend {plugin.backend.value}"
        raise ValueError(
            f"TAMPOTrainer cannot train compiled code, and {how}: it keeps the temperature that it was compiled with. "
            "Pass a model that is not compiled, and start without dynamo_backend (ACCELERATE_DYNAMO_BACKEND)."
        )


@contextmanager
def vllm_built_in(dtype: Callable[[], torch.dtype]) -> Iterator[None]:
    """Within the context, a colocated vLLM that TRL builds gets the precision that `dtype` returns then.

    TRL passes none: vLLM would take the checkpoint's, and 16 bits for one in float32.
    """
    engine = getattr(vllm_generation, "LLM", None)
    if engine is None:  # vLLM is not installed, or TRL builds it elsewhere: `vllm_dtype` is checked afterwards
        yield
        return

    def build(*args: Any, **kwargs: Any) -> Any:
        return engine(*args, **({"dtype": str(dtype()).removeprefix("torch.")} | kwargs))

    cast(Any, vllm_generation).LLM = build
    try:
        yield
    finally:
        cast(Any, vllm_generation).LLM = engine


def vllm_dtype(trainer: GRPOTrainer) -> str | None:
    """The precision of a trainer's vLLM, such as "bfloat16"; None: it has no vLLM, or a server that does not say."""
    if not trainer.use_vllm:
        return None
    generation: Any = trainer.vllm_generation
    if trainer.vllm_mode == "server":
        try:
            found = generation.vllm_client.get_server_info()["model_config"]["dtype"]
        except (AttributeError, KeyError, TypeError):  # another process talks to the server, or an older TRL
            return None
    else:
        found = getattr(getattr(generation.llm.llm_engine, "model_config", None), "dtype", None)
    return None if found is None else str(found).removeprefix("torch.")


class Rows(NamedTuple):
    """Rows of prompts, padded on the left, and completions, padded on the right."""

    input_ids: Tensor  # (B, P + C)
    attention_mask: Tensor  # (B, P + C)
    completion_length: int  # C


class Heads(ABC):
    """The LM heads of policy and reference model: sets their temperature and records likelihoods."""

    cost: str
    temperature: float

    @abstractmethod
    def log_probs(
        self,
        compute: Callable[[], tuple[Tensor | None, ...]],
        rows: Rows,
        temperatures: Sequence[float] | None,
        entropies: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """The result of `compute`, and log-probabilities of the completions at the K `temperatures`.

        `compute` calls TRL's log-prob computation for `rows` with one of the models. Without temperatures, nothing is
        recorded. With `entropies`, those at the K temperatures, in nats, are recorded behind the log-probabilities.

        Returns:
            The values of `compute`, the first of them log-probabilities at the current temperature, (B, C), and the
            recorded values: shape (B, C, K), with entropies (B, C, 2 K), float32, zero where a completion has no token;
            or None.
        """


class FusedHeads(Heads):
    """TRL's fused heads.

    TRL has no setter: all log-probabilities read the temperature from one cell per model, in its forward's closure.
    Changing that cell keeps what accelerate wrapped around the forward since; a new head would drop it.

    Raises a RuntimeError where this version of TRL has other heads.
    """

    cost = "no further pass and no further product with the LM head"

    def __init__(self, models: Sequence[nn.Module]) -> None:
        check_tiles()
        self.cells = [_temperature_cell(model) for model in models]

    @property
    def temperature(self) -> float:  # type: ignore[override]  # an attribute in Heads
        return self.cells[0].cell_contents

    @temperature.setter
    def temperature(self, value: float) -> None:
        for cell in self.cells:
            cell.cell_contents = value

    def log_probs(
        self,
        compute: Callable[[], tuple[Tensor | None, ...]],
        rows: Rows,
        temperatures: Sequence[float] | None,
        entropies: bool = False,
    ) -> tuple[Tensor | None, ...]:
        if temperatures is None:
            return *compute(), None
        recorder = LogitRecorder(rows.attention_mask, rows.completion_length, temperatures, entropies)
        with tapped_logits(recorder):
            computed = compute()
        return *computed, recorder.log_probs()


def _temperature_cell(model: Any) -> CellType:
    forward = inspect.unwrap(model.forward, stop=lambda function: "temperature" in _free_variables(function))
    cells = _free_variables(forward)
    if "temperature" not in cells:
        raise RuntimeError(_unknown_version("keep the temperature of its fused LM head"))
    return cells["temperature"]


def _free_variables(function: Any) -> dict[str, CellType]:
    code = getattr(function, "__code__", None)
    return dict(zip(code.co_freevars, function.__closure__ or (), strict=True)) if code else {}


# A tile of logits (n, v), the tokens of its rows (n,), the vocabulary index of its first column, and how the logits
# follow from the product: their scale, and the soft-cap or None.
TileReader = Callable[[Tensor, Tensor, int, float, float | None], None]

# TRL's function (CPU) and kernel (GPU) that add a tile to the sums, and their names for a tile and its tokens.
_TILE_FUNCTIONS = {"_forward_tile": ("tile", "targets"), "_forward_kernel": ("mm_ptr", "targets_ptr")}
_OTHER_ARGUMENTS = ("vocab_start", "logit_scale", "softcap", "HAS_SOFTCAP")


@contextmanager
def tapped_logits(read: TileReader) -> Iterator[None]:
    """Within the context, call `read` with every tile of logits that a fused head computes.

    The tile is TRL's buffer: the next tile overwrites it, and `read` must not change it.

    Raises:
        RuntimeError: This version of TRL computes tiles in another way.
    """
    check_tiles()
    originals = {name: getattr(chunked_logprob, name) for name in _TILE_FUNCTIONS}

    def reading(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        signature, names = _signature(originals[name]), _TILE_FUNCTIONS[name] + _OTHER_ARGUMENTS

        def read_and_call(*args: Any, **kwargs: Any) -> Any:
            values = signature.bind(*args, **kwargs).arguments
            tile, tokens, start, logit_scale, softcap, has_softcap = (values[name] for name in names)
            read(tile, tokens, start, logit_scale, softcap if has_softcap else None)
            return call(*args, **kwargs)

        return read_and_call

    class ReadingKernel:
        """Launched as kernel[grid](...), as a Triton kernel is."""

        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            return reading("_forward_kernel", originals["_forward_kernel"][grid])

    chunked_logprob._forward_tile = reading("_forward_tile", originals["_forward_tile"])
    chunked_logprob._forward_kernel = ReadingKernel()
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(chunked_logprob, name, original)


def check_tiles() -> None:
    """Raise a RuntimeError unless TRL has the functions and arguments that `tapped_logits` reads."""
    for name, arguments in _TILE_FUNCTIONS.items():
        function = getattr(chunked_logprob, name, None)
        if function is None or not {*arguments, *_OTHER_ARGUMENTS} <= _signature(function).parameters.keys():
            raise RuntimeError(_unknown_version("accumulate the tiles of its fused LM head"))


def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(getattr(function, "fn", function))  # a Triton kernel holds its function in `fn`


class LogitRecorder:
    """Log-probabilities of completions at K temperatures, from the tiles of logits of a fused head.

    Use it as the reader of `tapped_logits` around the log-prob computation of one batch.

    Args:
        attention_mask: Of prompts and completions, shape (B, L).
        completion_length: Completions are the last C columns.
        temperatures: The K virtual temperatures.
        entropies: Whether to record the entropies at these temperatures, too.
    """

    def __init__(
        self, attention_mask: Tensor, completion_length: int, temperatures: Sequence[float], entropies: bool = False
    ) -> None:
        self._keep = attention_mask[:, -completion_length:].bool()  # (B, C)
        self._temperatures = temperatures
        self._entropies = entropies
        # TRL computes completions alone where it has Triton, elsewhere every token but the first of each row.
        self._is_completion = attention_mask.new_zeros(
            len(attention_mask), attention_mask.size(1) - 1, dtype=torch.bool
        )
        self._is_completion[:, -completion_length:] = self._keep
        self._is_completion = self._is_completion.flatten()  # (B (L - 1),)
        self._tokens_seen = 0  # in earlier chunks
        self._selected: Tensor | None = None  # rows of the current chunk that are completions; None for all
        self._chunks: list[StreamingLogProbs] = []

    def __call__(self, tile: Tensor, tokens: Tensor, start: int, logit_scale: float, softcap: float | None) -> None:
        if start == 0:  # the next chunk of tokens
            self._selected = None
            if not chunked_logprob._use_triton(tile.device):
                chunk = self._is_completion[self._tokens_seen : self._tokens_seen + len(tile)]
                self._selected = chunk.nonzero()[:, 0].to(tile.device)
                self._tokens_seen += len(tile)
            chosen = self._select(tokens)
            self._chunks.append(StreamingLogProbs(chosen, self._temperatures, entropies=self._entropies))
        self._chunks[-1].accumulate(self._select(tile), start, logit_scale, softcap)

    def _select(self, values: Tensor) -> Tensor:
        return values if self._selected is None else values.index_select(0, self._selected)

    def log_probs(self) -> Tensor:
        """Shape (B, C, K), float32, zero where a completion has no token; with entropies (B, C, 2 K), these last."""
        if not self._chunks:  # no completion has a token
            values = len(self._temperatures) * (2 if self._entropies else 1)
            return self._keep.new_zeros(*self._keep.shape, values, dtype=torch.float32)
        return scatter_to_mask(torch.cat([chunk.values() for chunk in self._chunks]), self._keep)


def _unknown_version(what: str) -> str:
    return (
        f"TRL {trl.__version__} does not {what} as tampo expects. Install the version of TRL that tampo pins (1.16.0)."
    )

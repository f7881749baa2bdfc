"""Log-probs computed in groups of similar length equal those of the whole rectangle, values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tampo import TAMPOConfig, TAMPOTrainer
from tampo.trainer.length_grouping import compute_by_length
from tests.trainer.helpers import make_trainer, rectangle

pytestmark = pytest.mark.contract


LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12)


@given(LENGTHS.filter(lambda rows: any(c for _, c in rows)), st.integers(1, 13))
def test_every_value_returns_to_its_row_and_column(lengths, rows):
    """A value of each token and of the row's sum: nothing is lost, moved or cut."""
    ids, mask, length = rectangle(lengths)

    def compute(ids, mask, length):
        tokens = ids * mask
        values = tokens[:, -length:] * 100 + tokens.sum(dim=1, keepdim=True)
        return values, None, values[..., None] * torch.tensor([1, 2])

    keep = mask[:, -length:].bool()
    whole, found = compute(ids, mask, length), compute_by_length(compute, ids, mask, length, rows)
    assert torch.equal(found[0][keep], whole[0][keep])
    assert found[1] is None
    assert torch.equal(found[2][keep], whole[2][keep])
    assert found[2].shape == (*keep.shape, 2)


@given(LENGTHS.filter(lambda rows: any(c for _, c in rows)), st.integers(1, 13))
def test_groups_are_as_wide_as_their_longest_row(lengths, rows):
    ids, mask, length = rectangle(lengths)
    shapes = []

    def compute(ids, mask, length):
        shapes.append(ids.shape)
        assert mask[:, : ids.size(1) - length].any(dim=0).all(), "a column of prompts that is all padding"
        assert mask[:, -length:].any(dim=0).all() or length == 1, "a column of completions that is all padding"
        return (torch.zeros(len(ids), length),)

    compute_by_length(compute, ids, mask, length, rows)
    assert len(shapes) == -(-len(lengths) // rows), "the number of calls depends on the number of rows alone"
    assert sum(shape[0] for shape in shapes) == len(lengths)


def test_rows_without_a_token_and_masks_with_holes():
    """mask_truncated_completions empties rows; tool calls may leave holes."""
    ids, mask, length = rectangle([(3, 4), (2, 5), (1, 2)])
    mask[0] = 0
    mask[1, 4] = 0  # inside its completion
    whole = (ids * mask)[:, -length:]
    (found,) = compute_by_length(lambda i, m, c: ((i * m)[:, -c:],), ids, mask, length, 1)
    assert torch.equal(found, whole)


@pytest.mark.parametrize("changes", [{}, {"beta": 0.1, "steps_per_generation": 2}])
def test_training_is_the_same_up_to_rounding(tiny_model_path, prompts, tmp_path, changes):
    """Whole training runs: the same rollouts, losses and batches with and without groups of three rows."""

    class Watching(TAMPOTrainer):
        batches = ()

        def _collect_likelihoods(self, inputs):
            super()._collect_likelihoods(inputs)
            if self._collection.missing == 0:
                self.batches = (*self.batches, self.rollout_batch)

    def run(name, **more):
        trainer = make_trainer(tiny_model_path, prompts, tmp_path / name, Watching, max_steps=3, **changes, **more)
        trainer.train()
        return trainer

    whole, sorted_ = run("whole"), run("sorted", scoring_batch_size=3)
    for one, other in zip(whole.batches, sorted_.batches, strict=True):
        torch.testing.assert_close(
            torch.tensor(one.log_likelihoods), torch.tensor(other.log_likelihoods), rtol=0, atol=1e-3
        )
    losses = [[row["grad_norm"] for row in t.state.log_history if "loss" in row] for t in (whole, sorted_)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-5)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(sorted_.model.state_dict()[name], weight, rtol=0, atol=2e-3)


def test_bad_size_is_named(tmp_path):
    with pytest.raises(ValueError, match="scoring_batch_size must be .* at least 1, or None, got 0"):
        TAMPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, scoring_batch_size=0)

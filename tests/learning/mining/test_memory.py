"""The cross-batch memory against a list that forgets its first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resight.learning.mining.memory import CrossBatchMemory


def step(number, n):
    x = torch.arange(n * 3.0).reshape(n, 3) + 100 * number
    return x, torch.arange(n) + 100 * number


def rows(contents):
    x, labels = contents
    return sorted(zip(labels.tolist(), x.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 14), min_size=1, max_size=8), st.integers(0, 5))
def test_it_holds_the_last_rows(size, batches, warm):
    memory, kept = CrossBatchMemory(size, 3, warm=warm), []
    assert memory.contents() is None
    for number, n in enumerate(batches):
        x, labels = step(number, n)
        memory.enqueue(x, labels)
        kept += list(zip(labels.tolist(), x.tolist(), strict=True))
        if number + 1 < warm:
            assert memory.contents() is None
        else:
            assert rows(memory.contents()) == sorted(kept[-size:])


def test_a_checkpoint_keeps_it():
    memory, resumed = CrossBatchMemory(4, 3, warm=2), CrossBatchMemory(4, 3, warm=2)
    for number in range(3):
        memory.enqueue(*step(number, 3))
    resumed.load_state_dict(memory.state_dict())
    for each in (memory, resumed):
        each.enqueue(*step(3, 2))
    assert all(torch.equal(a, b) for a, b in zip(memory.contents(), resumed.contents(), strict=True))


def test_what_it_gives_does_not_change_and_carries_no_graph():
    memory = CrossBatchMemory(2, 3)
    x = torch.ones(2, 3, requires_grad=True)
    memory.enqueue(x * 2, torch.tensor([1, 2]))
    given_x, _ = memory.contents()
    memory.enqueue(*step(5, 2))
    assert not given_x.requires_grad
    assert torch.equal(given_x, torch.full((2, 3), 2.0))


def test_half_precision_is_kept_in_full():
    memory = CrossBatchMemory(2, 3)
    memory.enqueue(torch.ones(1, 3, dtype=torch.bfloat16), torch.tensor([7]))
    assert memory.contents()[0].dtype == torch.float32


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        CrossBatchMemory(0, 3)

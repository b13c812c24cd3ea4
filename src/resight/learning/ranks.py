"""Several processes that train one module together: what each takes of the work, and how they agree.

Where there is one process only, all of this does nothing.
"""

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor, nn


def ranks() -> tuple[int, int]:
    """This process's place among those that train together, and how many they are: (0, 1) for one alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def barrier() -> None:
    """Return when all processes are here."""
    if ranks()[1] > 1:
        torch.distributed.barrier()


def share_rows(
    parts: Sequence[Tensor], places: Sequence[int], count: int, device: torch.device
) -> tuple[Tensor, list[slice]]:
    """B×D float rows of ``count`` parts, in order, of which this process has some: n_i×D each, at ``places``.

    Returns the rows, which all processes get the same, to the bit, and where in them this process's parts are.
    """
    sizes = torch.zeros(count, dtype=torch.int64, device=device)
    sizes[list(places)] = torch.tensor([len(part) for part in parts], dtype=torch.int64, device=device)
    dimensions = torch.tensor(parts[0].shape[1] if parts else 0, device=device)
    if ranks()[1] > 1:
        torch.distributed.all_reduce(sizes)
        torch.distributed.all_reduce(dimensions, torch.distributed.ReduceOp.MAX)
    ends = torch.cumsum(sizes, 0).tolist()
    own = [slice(ends[place] - len(part), ends[place]) for place, part in zip(places, parts, strict=True)]
    dtype = parts[0].dtype if parts else torch.float32
    rows = torch.zeros(ends[-1], int(dimensions), dtype=dtype, device=device)
    for where, part in zip(own, parts, strict=True):
        rows[where] = part
    if ranks()[1] > 1:
        torch.distributed.all_reduce(rows)  # others' rows are zeros here
    return rows, own


def average_gradients(module: nn.Module) -> None:
    """The mean of the processes' gradients in each, as DistributedDataParallel has it; none counts as zeros."""
    world = ranks()[1]
    if world == 1:
        return
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world


def same_everywhere(module: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers."""
    if ranks()[1] > 1:
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process."""
    if ranks()[1] == 1:
        return flag
    raised = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return bool(raised)

"""Run under a launcher by test_two_processes.py: each process prints what it searched and what all have found."""

import torch.distributed

from irstd_ldm.training.detectors import _shared


def search(item: int) -> list[int]:
    print(f"searched {item}\n", end="", flush=True)
    return [item]


print(f"{_shared(list(range(7)), search, 'search')}\n", end="", flush=True)
torch.distributed.destroy_process_group()

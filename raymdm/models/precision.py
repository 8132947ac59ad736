"""The arithmetic of a forward pass."""

import torch


def precision(device: torch.device) -> torch.autocast:
    """bf16 autocast on a GPU, the parameters' own type on a CPU; the same for training, calibration and generation."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")

"""Head on the masked positions alone against full-vocabulary logits: time and peak memory of a training step.

LLaDA's vocabulary (126,464), hidden size 256, 2 layers, 4 sequences of 512 tokens, all eligible, t uniform. Each way
runs in a process of its own; memory is the peak resident size above that of the model, gradients and optimiser state.
`python benchmarks/masked_head.py [--steps N]`
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from raymdm import keys
from raymdm.diffusion.masking import draw_masks
from raymdm.diffusion.objective import noise, sequence_losses
from raymdm.models.denoiser import Denoiser

VOCABULARY, BATCH, LENGTH = 126_464, 4, 512


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _loss(way: str, model: LlamaForCausalLM, ids: Tensor, t: Tensor, u: Tensor) -> Tensor:
    eligible = torch.ones_like(ids, dtype=torch.bool)
    masks = draw_masks("bernoulli", "independent", u[None], t[None], eligible)
    batch = noise(ids, masks, VOCABULARY - 1)
    if way == "masked head":
        logits = Denoiser(model, "mdm")(batch.input_ids, None, batch.targets)
        token = F.cross_entropy(logits.float(), batch.labels, reduction="none")
        return sequence_losses(token, batch, masks).mean()
    logits = model(input_ids=batch.input_ids).logits
    token = F.cross_entropy(logits.float().transpose(1, 2), ids, reduction="none")
    return (token * masks.weight[0, 0].float()).sum(1).mean()


def measure(way: str, steps: int) -> dict[str, float]:
    """Median seconds of a step and peak memory above the resting state, MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=2, num_attention_heads=4
    )
    config.is_causal = False
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, VOCABULARY - 1, (BATCH, LENGTH))
    for parameter in model.parameters():  # the resting state: gradients and optimiser state are there
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    rest, seconds, losses = _peak_mib(), [], []
    for step in range(steps):
        u = torch.from_numpy(keys.uniforms(0, "mask", step, np.arange(BATCH), LENGTH))
        t = torch.from_numpy(keys.uniforms(0, "rate", step, np.arange(BATCH), 1)[:, 0])
        started = time.perf_counter()
        loss = _loss(way, model, ids, t, u)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    return {"seconds": statistics.median(seconds), "MiB": _peak_mib() - rest, "loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--way", choices=["masked head", "full logits"])
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.steps)))
        return
    found = {}
    for way in ("full logits", "masked head"):
        command = [sys.executable, __file__, "--way", way, "--steps", str(arguments.steps)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
        found[way] = json.loads(done.stdout.splitlines()[-1])
    table = Table("way", "step, s", "peak above rest, MiB", "last loss, nats/token")
    for way, row in found.items():
        table.add_row(way, f"{row['seconds']:.2f}", f"{row['MiB']:.0f}", f"{row['loss']:.4f}")
    full, ours = found["full logits"], found["masked head"]
    table.add_row("ratio", f"{ours['seconds'] / full['seconds']:.2f}", f"{ours['MiB'] / full['MiB']:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()

"""Output layer and cross-entropy, both passes: all logits, those of the masked tokens, a chunk at a time, fused.

LLaDA's vocabulary (126,464); half of the tokens are masked, each with a weight of its own. Memory is the peak above
the resting state (hidden states, head, its gradient): on a CPU each way runs in a process of its own. Without options
the shape is one for a CPU; `--device cuda` takes hidden size 4,096 and 16,384 tokens, in bf16, and tries the kernels
that are installed. `python benchmarks/loss_head.py [--device cuda] [--hidden H] [--tokens N] [--frozen] [--limits K]`
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from raymdm.errors import UserError
from raymdm.models.loss_head import LIMIT, chunked_losses, fused_kernel, token_losses

VOCABULARY = 126_464
SHAPES = {"cpu": (128, 2048), "cuda": (4096, 16_384)}
"""Hidden size and tokens."""


def _losses(way: str, hidden: Tensor, head: nn.Linear, labels: Tensor, masked: Tensor) -> Tensor:
    """Of the masked tokens; hidden: (N, H), labels and masked: (N,)."""
    if way == "all logits":
        return F.cross_entropy(head(hidden).float(), labels, reduction="none")[masked]
    if way == "masked tokens":
        return F.cross_entropy(head(hidden[masked]).float(), labels[masked], reduction="none")
    if way.startswith("chunked"):
        return chunked_losses(hidden[masked], head, labels[masked], 2 ** int(way.split("^")[1]))
    return token_losses(hidden[masked], head, labels[masked], way)  # type: ignore[arg-type]


class _Clock:
    """Seconds (on a CPU the processor's own) and peak memory of the work between `start` and `stop`."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def start(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.rest, self.started = self._peak(), self._now()

    def stop(self) -> tuple[float, float]:
        if self.cuda:
            torch.cuda.synchronize()
        return self._now() - self.started, self._peak() - self.rest

    def _now(self) -> float:
        return time.perf_counter() if self.cuda else time.process_time()

    def _peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of a forward and backward pass, MiB of its peak, and the last loss."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, dtype = arguments.device, torch.bfloat16 if arguments.device == "cuda" else torch.float32
    head = nn.Linear(arguments.hidden, VOCABULARY, bias=False, device=device, dtype=dtype)
    head.requires_grad_(not arguments.frozen)
    hidden = torch.randn(arguments.tokens, arguments.hidden, device=device, dtype=dtype).requires_grad_()
    labels = torch.randint(VOCABULARY, (arguments.tokens,), device=device)
    masked = torch.arange(arguments.tokens, device=device) % 2 == 0
    weight = torch.rand(int(masked.sum()), device=device)
    for leaf in (hidden, head.weight):
        leaf.grad = torch.zeros_like(leaf)
    clock = _Clock(device)
    seconds, peaks = [], []
    for _ in range(arguments.repeats):
        clock.start()
        loss = (weight * _losses(way, hidden, head, labels, masked)).mean()
        loss.backward()
        took, peak = clock.stop()
        seconds.append(took)
        peaks.append(peak)
    return {"seconds": statistics.median(seconds), "MiB": max(peaks), "loss": loss.item()}


def ways(arguments: argparse.Namespace) -> list[str]:
    """What is compared on this device."""
    found = ["all logits", "masked tokens", *(f"chunked, 2^{power}" for power in arguments.limits)]
    for kind in ("cut_cross_entropy", "liger") if arguments.device == "cuda" else ():
        try:
            fused_kernel(kind, nn.Linear(2, 2, bias=False), torch.device("cuda"))
            found.append(kind)
        except UserError as error:
            Console().print(f"left out: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=SHAPES, default="cpu")
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--frozen", action="store_true", help="the head is not trained, as with LoRA")
    parser.add_argument("--limits", type=int, nargs="+", default=[LIMIT.bit_length() - 1], help="powers of 2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.hidden = arguments.hidden or SHAPES[arguments.device][0]
    arguments.tokens = arguments.tokens or SHAPES[arguments.device][1]
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments)))
        return
    table = Table("way", "seconds", "over all logits", "peak above rest, MiB", "over all logits", "loss")
    first: dict[str, Any] = {}
    for way in ways(arguments):
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this very file
        row = json.loads(done.stdout.splitlines()[-1])
        first = first or row
        table.add_row(
            way, f"{row['seconds']:.3f}", f"{row['seconds'] / first['seconds']:.2f}", f"{row['MiB']:.0f}",
            f"{row['MiB'] / first['MiB']:.2f}", f"{row['loss']:.4f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()

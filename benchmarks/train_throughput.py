"""Tokens a second, share of the device's speed and peak memory of training; raymdm's step over bare torch.

Random weights in the shape of a real model: `8b` is LLaDA-8B with LoRA of rank 32 in rows of 4,096 tokens, `0.5b` is
Qwen2.5-0.5B fine-tuned as a whole. The bare step gets its noised batches ready made and does forward, backward and
optimiser step, no more; steps alternate. The speed is counted in useful operations: two a weight and token forward, two
for the gradient by the activations and two for that by the weights where they are trained, the output layer for the
masked tokens alone, attention among all tokens, nothing for what checkpointing computes again. It is compared to a
large matrix product on the same device, and, as model FLOP utilisation (MFU), to the peak that the maker states:
`--peak-tflops`, known for some GPUs. `--loss-head` takes several to set side by side: `chunked`, a fused kernel, or
`full`, which computes the logits of all positions, as plain training does, and is measured with the bare step alone.
`python benchmarks/train_throughput.py [--device cuda] [--shape 8b] [--loss-head chunked full liger]`
"""

import argparse
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from raymdm.config.inputs import AdapterConfig
from raymdm.config.load import load_recipe
from raymdm.config.schema import METHODS, Recipe
from raymdm.data import loading
from raymdm.diffusion.masking import smallest_rate
from raymdm.diffusion.objective import noise, sequence_losses
from raymdm.diffusion.samplers import Density
from raymdm.models.adapters import attach
from raymdm.models.denoiser import Denoiser
from raymdm.models.precision import precision
from raymdm.storage import Storage
from raymdm.training import parallel
from raymdm.training.draws import draw_rates, draw_step_masks
from raymdm.training.layers import prepare_layers
from raymdm.training.loop import Job, Run, Worker, train_step
from raymdm.training.optimizer import make_optimizer
from raymdm.training.step import StepInputs
from raymdm.training.writer import Writer


class Shape(NamedTuple):
    """Of a model, its rows and its batch."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    length: int
    batch: int
    micro: int
    lora: bool = False
    tied: bool = False
    recompute: bool = False
    """Activation checkpointing."""


SHAPES = {
    "tiny": Shape(128, 384, 4, 4, 4, 2_000, 256, 8, 4),
    "small": Shape(256, 768, 6, 8, 8, 32_000, 512, 4, 2),
    "0.5b": Shape(896, 4864, 24, 14, 2, 151_936, 1024, 32, 8, tied=True),
    "8b": Shape(4096, 12_288, 32, 32, 32, 126_464, 4096, 8, 2, lora=True, recompute=True),
}
METHOD, ROWS, MASK = METHODS["standard"], 64, 1
HEADS = ("chunked", "full", "liger", "cut_cross_entropy")
PEAKS = {"H100 NVL": 835.0, "H200 NVL": 835.0, "H100 PCIe": 756.0, "H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 tensor-core TFLOP/s by NVIDIA's data sheets, by a part of the device's name; the first that fits."""


def make_model(shape: Shape, device: torch.device) -> LlamaForCausalLM:
    """Random weights on the device; frozen ones in bf16."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.length, tie_word_embeddings=shape.tied, attn_implementation="sdpa",
    )  # fmt: skip
    config.is_causal = False
    torch.set_default_dtype(torch.bfloat16 if shape.lora else torch.float32)
    with device:
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    if shape.lora:
        attach(model, AdapterConfig(kind="lora", r=32), "random")
    return model


def make_split(shape: Shape) -> loading.Split:
    """Rows of one length, of which the first quarter is the prompt."""
    draw, none = np.random.default_rng(0), [np.array([], dtype=np.int32)] * ROWS
    ids = [draw.integers(2, shape.vocabulary, shape.length).astype(np.int32) for _ in range(ROWS)]
    prompts = np.full(ROWS, shape.length // 4)
    return loading.Split(np.arange(ROWS), ids, prompts, [""] * ROWS, [""] * ROWS, none, none)


def make_run(shape: Shape, device: torch.device, loss_head: str, scratch: Path) -> Run:
    """A run as `build` makes it, without data and model on storage."""
    recipe: Recipe = load_recipe(
        Path(__file__).parents[1] / "jobs" / "recipes" / "quickstart.yaml",
        [f"train.global_batch_size={shape.batch}", f"train.micro_batch_size={shape.micro}",
         f"train.loss_head={loss_head}", f"train.gpus_per_worker={int(device.type == 'cuda')}",
         f"train.activation_checkpointing={str(shape.recompute).lower()}"],
    )  # fmt: skip
    worker, settings = Worker(lambda metrics: None, Storage(str(scratch / "run")), device=device), recipe.train
    model = make_model(shape, device)
    prepare_layers(model, settings, device)
    denoiser = Denoiser(model, "mdm").train()
    inputs = StepInputs(
        METHOD, Density.uniform(smallest_rate(METHOD.mask)), 42, shape.batch, MASK, 0, settings.loss_head
    )
    split = make_split(shape)
    return Run(
        Job(recipe, "standard", 42, scratch), worker, denoiser, parallel.shared(denoiser, settings, worker),
        make_optimizer(denoiser.parameters(), settings), inputs, split, split, 1000, 1000,
        Writer(worker.checkpoints, 1, scratch, set()),
    )  # fmt: skip


def ready(run: Run, shape: Shape, step: int) -> list[Any]:
    """Noised micro-batches of a step on the device."""
    indices = loading.batch_indices(ROWS, shape.batch, step, run.job.recipe.data.seed)
    t, _ = draw_rates(METHOD, run.inputs.density, 42, step, shape.batch)
    found = []
    for start in range(0, shape.batch, shape.micro):
        slots = np.arange(start, start + shape.micro)
        batch = run.train.batch(indices[slots], 0)
        masks = draw_step_masks(METHOD, 42, step, slots, t[:, slots], batch)
        parts = noise(batch.input_ids, masks, MASK), batch.attention_mask, masks
        noised, attention, masks = (_to(part, run.worker.device) for part in parts)
        found.append((noised, attention, masks))
    return found


def _to(part: Any, device: torch.device) -> Any:
    return part.to(device) if isinstance(part, torch.Tensor) else type(part)(*(inner.to(device) for inner in part))


def bare_step(run: Run, batches: list[Any], full: bool) -> None:
    """Forward, backward and optimiser step; full: with the logits of all positions."""
    for noised, attention, masks in batches:
        with precision(run.worker.device):
            if full:
                token = all_logits(run.denoiser, noised, attention)
            else:
                token = run.denoiser(noised.input_ids, attention, noised.targets, noised.labels, run.inputs.loss_head)
            losses = sequence_losses(token, noised, masks)
        (losses.sum() / run.inputs.batch_size).backward()
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)


def all_logits(denoiser: Denoiser, noised: Any, attention: torch.Tensor) -> torch.Tensor:
    """Cross-entropies (M,) of the targets, chosen from the logits of all positions, in float32."""
    logits = denoiser.model(input_ids=noised.input_ids, attention_mask=attention, use_cache=False).logits
    return functional.cross_entropy(logits.float()[noised.targets], noised.labels, reduction="none")


def operations(run: Run, shape: Shape, masked: float) -> float:
    """Useful floating-point operations of a step; masked: the share of tokens that the output layer sees."""
    layers = run.denoiser.model.get_decoder().layers
    head = shape.hidden * shape.vocabulary
    weights = [parameter for parameter in layers.parameters() if parameter.ndim > 1]
    each = sum((6 if parameter.requires_grad else 4) * parameter.numel() for parameter in weights)
    attention = 12 * shape.layers * shape.length * shape.hidden
    return shape.batch * shape.length * (each + masked * (4 if shape.lora else 6) * head + attention)


def seconds(device: torch.device, action: Callable[[], object]) -> float:
    """Of an action, the device's work included; on a CPU the processor's time, whatever else it has to do."""
    if device.type == "cpu":
        started = time.process_time()
        action()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_speed(device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    one = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / min(seconds(device, lambda: one @ one) for _ in range(8))


class Measured(NamedTuple):
    """A way's median step."""

    seconds: float
    peak: float
    """GiB."""
    useful: float
    """Operations of the step."""


def measure(shape: Shape, device: torch.device, head: str, steps: int) -> dict[str, Measured]:
    """Ways -> their steps with a loss head, in alternation; the first two steps do not count."""
    times: dict[str, list[float]] = {}
    peak: dict[str, float] = {}
    masked = 0
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(shape, device, "chunked" if head == "full" else head, Path(folder))
        for step in range(steps + 2):
            batches = ready(run, shape, step)
            masked += sum(int(noised.targets.sum()) for noised, *_ in batches)
            actions: dict[str, Callable[[], object]] = {"bare torch": partial(bare_step, run, batches, head == "full")}
            if head != "full":
                actions["raymdm"] = partial(train_step, run)
            for name, action in actions.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times.setdefault(name, []).append(seconds(device, action))
                peak[name] = max(peak.get(name, 0.0), _peak_gib(device))
        useful = operations(run, shape, masked / (shape.batch * shape.length) / (steps + 2))
        run.writer.close()
    return {name: Measured(statistics.median(values[2:]), peak[name], useful) for name, values in times.items()}


def stated_peak(device: torch.device, given: float | None) -> float | None:
    """TFLOP/s that the device's maker states, or as given; None where it is not known."""
    if given is not None or device.type == "cpu":
        return given
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--loss-head", choices=HEADS, nargs="+", default=["chunked"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peak-tflops", type=float, help="for the MFU; of A100, H100 and H200 it is known")
    arguments = parser.parse_args()
    device, shape = torch.device(arguments.device), SHAPES[arguments.shape]
    if device.type == "cpu":
        torch.set_num_threads(1)
        if len(arguments.loss_head) > 1:
            print("peak memory is that of the process so far: name one --loss-head a run", file=sys.stderr)
    found = {}
    for head in arguments.loss_head:
        found[head] = measure(shape, device, head, arguments.steps)
        gc.collect()  # the model before must be gone
        if device.type == "cuda":
            torch.cuda.empty_cache()
    show(found, shape, peak_speed(device), stated_peak(device, arguments.peak_tflops))


def show(found: dict[str, dict[str, Measured]], shape: Shape, fastest: float, stated: float | None) -> None:
    """Print a line a loss head and way; fastest: operations a second of a matrix product; stated: TFLOP/s."""
    table = Table("loss head", "way", "step, s", "over bare", "tokens/s", "of a matrix product", "MFU", "peak, GiB")
    for head, ways in found.items():
        for name, step in ways.items():
            mfu = "-" if stated is None else f"{step.useful / step.seconds / stated / 1e12:.1%}"
            table.add_row(
                head, name, f"{step.seconds:.3f}", f"{step.seconds / ways['bare torch'].seconds:.3f}",
                f"{shape.batch * shape.length / step.seconds:,.0f}", f"{step.useful / step.seconds / fastest:.1%}", mfu,
                f"{step.peak:.2f}",
            )  # fmt: skip
    Console().print(table)
    known = "not stated: give --peak-tflops" if stated is None else f"{stated:g} TFLOP/s"
    Console().print(f"matrix product: {fastest / 1e12:.3g} TFLOP/s; peak for the MFU: {known}")


def _peak_gib(device: torch.device) -> float:
    """Of the latest step; on a CPU, of the whole process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()

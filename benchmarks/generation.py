"""Text from a masked diffusion model: raymdm's sampler against LLaDA's published one, and what its options save.

Speed: a random model of 4 layers, hidden size 256 and 32,000 tokens, 16 prompts of 16 to 48 tokens, new tokens in four
blocks, one a step. The published sampler is tests/generation/slow_sampler.py; equal texts are asserted. A text that
ends half-way is one whose middle token is taken for a stop. The threshold is the median probability of the first step.
Quality: a model of 2 layers trained for some minutes to sort 12 digits, which then writes 16 tokens in blocks of 4.
Times are those of one thread's CPU, so that other work on the machine does not count.
`python benchmarks/generation.py [--length 64] [--minutes 3]`
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from raymdm.config.schema import Recipe
from raymdm.data import loading
from raymdm.data.prepare import prepare
from raymdm.evaluation.generate import generate_and_score
from raymdm.generation.unmask import generate_mdm
from raymdm.storage import Storage
from raymdm.training.loop import Job, Worker, build, train_step

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "generation"))
from slow_sampler import predictions, slow_sampler

VOCABULARY, MASK, BATCH = 32_000, 31_999, 16
OPTIONS: dict[str, dict[str, Any]] = {
    "equal shares": {},
    "threshold 0.9": {"confidence_threshold": 0.9},
    "prefix cache": {"prefix_cache": True},
    "both": {"confidence_threshold": 0.9, "prefix_cache": True},
}


def random_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model.eval()


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return function(), time.process_time() - started


def speed(length: int) -> Table:
    """Every way to generate `length` tokens for the same prompts."""
    sizes = {"mask_id": MASK, "pad_id": 0, "generation_length": length, "steps": length, "block_length": length // 4}
    model, rng = random_model(), np.random.default_rng(0)
    prompts = [rng.integers(1, MASK, rng.integers(16, 49)) for _ in range(BATCH)]
    table = Table("way", "CPU, s", "tokens/s", "of the published", "forward passes a row")
    published, base = timed(lambda: slow_sampler(model, prompts, banned=[MASK], **sizes))

    def add(name: str, seconds: float, passes: float) -> None:
        speed = f"{BATCH * length / seconds:.1f}"
        table.add_row(name, f"{seconds:.1f}", speed, f"{seconds / base:.2f}", f"{passes:.1f}")

    def ours(name: str, **options: Any) -> Tensor:
        found, seconds = timed(lambda: generate_mdm(model, prompts, **sizes, **options))
        add(name, seconds, found.forward_passes.float().mean().item())
        return found.tokens

    add("published", base, length)
    assert torch.equal(ours("raymdm"), published)
    stops = {int(token) for token in published[:, length // 2]}
    short = ours("raymdm, texts that end half-way", stop_ids=stops)
    for row, text in zip(short.tolist(), published.tolist(), strict=True):
        end = next(i for i, token in enumerate(text) if token in stops)
        assert row[: end + 1] == text[: end + 1]
    threshold = first_confidence(model, prompts[0], length)
    ours(f"raymdm, threshold {threshold:.2g}", confidence_threshold=threshold)
    ours("raymdm, prefix cache", prefix_cache=True)
    ours("raymdm, both", confidence_threshold=threshold, prefix_cache=True)
    return table


@torch.no_grad()
def first_confidence(model: LlamaForCausalLM, prompt: np.ndarray, length: int) -> float:
    """Median probability of the most probable tokens of the first block."""
    ids = torch.tensor([[*prompt.tolist(), *[MASK] * length]])
    confidence, _ = predictions(model, ids, torch.ones_like(ids), [MASK], shift=False)
    return float(confidence[0, len(prompt) :][: length // 4].median())


def quality(minutes: float) -> Table:
    """Accuracy of a trained model, and how many of its answers stay the same."""
    recipe = Recipe.model_validate(
        {
            "name": "generation",
            "data": {"task": "sorting", "num_train": 20000, "num_test": 200, "sorting": {"digits": 12}},
            "model": {"kind": "tiny", "hidden_size": 128, "intermediate_size": 384, "tokenizer": {"kind": "chars"}},
            "train": {"lr": 1e-3, "max_steps": 100_000, "global_batch_size": 64, "patience": None},
            "evaluate": {"generation_length": 16, "steps": 16, "block_length": 4},
        }
    )
    table = Table("way", "CPU, s", "forward passes a row", "score", "answers as without options")
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare(recipe.data, recipe.model, Path(scratch) / "data")
        job = Job(recipe, "standard", 0, data)
        run = build(job, Worker(lambda metrics: None, Storage(f"{scratch}/run")), Path(scratch) / "scratch")
        while time.process_time() < 60 * minutes:
            train_step(run)
        print(f"trained for {run.state.step} steps")
        split = loading.load_split(data, "test")
        where = run.denoiser.model.eval(), loading.tokenizer(data), "mdm", split, np.arange(len(split)), "sorting"
        exact: list[str] = []
        for name, options in OPTIONS.items():
            settings = recipe.evaluate.model_copy(update=options)
            found, seconds = timed(partial(generate_and_score, *where, settings, max_new_tokens=0))
            exact = exact or found["output"]
            same = np.mean([a == b for a, b in zip(found["output"], exact, strict=True)])
            table.add_row(name, f"{seconds:.1f}", f"{np.mean(found['forward_passes']):.1f}",
                          f"{np.mean(found['score']):.1%}", f"{same:.1%}")  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=64, help="New tokens where speed is measured.")
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU time before which the training ends.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    console.print(speed(arguments.length))
    console.print(quality(arguments.minutes))


if __name__ == "__main__":
    main()

"""Memory of loading a checkpoint in many files: anonymous memory and all resident pages, peak above the start.

A LLaDA of random bfloat16 numbers (1024 wide, 16 layers, 32,000 tokens: 541 MiB) in 8 files, each way in a process of
its own. Pages of a file that is mapped are resident too, but the kernel drops them when memory runs short: what a
machine must have is the anonymous peak. `python benchmarks/load_memory.py [--layers N]`
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from raymdm.config.schema import ModelConfig
from raymdm.models import llada, pretrained

WIDTH, FEED_FORWARD, HEADS, VOCABULARY, FILES = 1024, 3072, 8, 32_000, 8


def write(folder: Path, layers: int) -> None:
    """A checkpoint by LLaDA's names, its files of about one size but for the embeddings."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=FEED_FORWARD, num_hidden_layers=layers,
        num_attention_heads=HEADS, is_causal=False, dtype="bfloat16",
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(llada.llada_fields(config, "benchmark")))
    sizes = {"wte": (VOCABULARY, WIDTH), "transformer.ff_out": (VOCABULARY, WIDTH), "ff_out": (WIDTH, FEED_FORWARD),
             "ff_proj": (FEED_FORWARD, WIDTH), "up_proj": (FEED_FORWARD, WIDTH), "norm": (WIDTH,),
             "ln_f": (WIDTH,)}  # fmt: skip
    names = list(llada.llama_names(layers, tied=False))
    index = {}
    for number in range(FILES):
        file = f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        part = names[number * len(names) // FILES : (number + 1) * len(names) // FILES]
        shapes = [next((s for key, s in sizes.items() if f"{key}.weight" in name), (WIDTH, WIDTH)) for name in part]
        save_file(
            {name: torch.randn(shape).bfloat16() for name, shape in zip(part, shapes, strict=True)},
            folder / file, metadata={"format": "pt"},
        )  # fmt: skip
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def measure(folder: str, dtype: str) -> dict[str, float]:
    """MiB and seconds of loading, in this process."""
    settings = ModelConfig.model_validate({"kind": "pretrained", "path": folder, "dtype": dtype})
    import transformers.models.llama.modeling_llama  # noqa: F401  # not counted

    start, samples, ended = _resident(), [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            samples.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    model = pretrained.read(settings, folder)
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    peaks = [max(sample[i] for sample in samples) - start[i] for i in (0, 1)]
    held = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    return {"model": held, "anonymous": peaks[0], "resident": peaks[1], "seconds": seconds}


def _resident() -> tuple[float, float]:
    """Anonymous memory and all resident pages of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return tuple(int(status[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(*arguments.only)))
        return
    table = Table("parameters", "model (MiB)", "anonymous peak", "resident peak", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.layers)
        for dtype in ("bfloat16", "float32"):
            command = [sys.executable, __file__, "--only", folder, dtype]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 # this program
            found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
            table.add_row(dtype, *(f"{found[name]:.0f}" for name in ("model", "anonymous", "resident")),
                          f"{found['seconds']:.1f}")  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()

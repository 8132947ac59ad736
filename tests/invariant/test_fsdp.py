"""Workers that hold a part of the model each do what one worker does, and leave the checkpoints that it leaves.

Seven sequences a step in micro-batches of three: of two workers one has one micro-batch and the other two, and of four
the first has one sequence. 5 validation sequences are as uneven.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interrupted import (
    assert_same_run,
    density,
    events_of,
    last,
    poison,
    records_of,
    run_once,
    run_stopped,
    state,
    weights,
)
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from raymdm.config.schema import METHODS, Recipe
from raymdm.storage import Storage
from raymdm.training import run, step
from raymdm.training.loop import Job, Worker, train_step

MakeRecipe = Callable[..., Recipe]
Jobs = dict[str, Job]
MOMENTS = ["exp_avg", "exp_avg_sq"]
METHODS_TRAINED = ["standard", "p_pots_mirror", "arm", "ema"]
CHANGES = [("ddp", 1, 3), ("fsdp", 2, 3), ("ddp", 2, 2), ("fsdp", 4, 2), ("fsdp", 1, 2), ("ddp", 1, None)]
"""Strategy, workers, and the attempt's step, from 1, in which the run is stopped."""


@contextmanager
def _together(rank: int, workers: int, folder: Path, name: str) -> Iterator[dict[str, int]]:
    """A group of the first workers."""
    dist.init_process_group("gloo", init_method=f"file://{folder / name}", rank=rank, world_size=workers)
    yield {"rank": rank, "world_size": workers}
    dist.destroy_process_group()


def _worker(rank: int, jobs: Jobs, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank < 2:
        with _together(rank, 2, folder, "store") as two:
            _whole_runs(jobs, folder, two)
            _held(jobs["fsdp-standard"], folder, two)
            for name in ("fsdp-standard", "fsdp-8bit"):
                run_stopped(jobs[name], folder / f"{name}-stopped", [2, 3, 1, 3], **two)
            _broken_loss(jobs["fsdp-standard"], folder, two)
    for number, (strategy, workers, stop) in enumerate(CHANGES):
        if rank < workers:
            with _together(rank, workers, folder, f"store-{number}") as group:
                run_once(jobs[f"{strategy}-standard"], folder / "changing", stop, **group)
                run_once(jobs[f"{strategy}-8bit"], folder / "changing-8bit", stop, **group)


def _whole_runs(jobs: Jobs, folder: Path, two: dict[str, int]) -> None:
    """The sharded jobs; the second worker must not load a model for them."""
    rank, load = two["rank"], run.load_model
    if rank:
        run.load_model = None
    for name in jobs:
        if name.startswith("fsdp"):
            reports = run_once(jobs[name], folder / name, **two)
            (folder / f"{name}-{rank}.json").write_text(json.dumps(records_of(reports)))
    run.load_model = load


def _held(job: Job, folder: Path, two: dict[str, int]) -> None:
    """Numbers that a worker holds of the weights and of the moments, after a step."""
    scratch = folder / f"scratch-{two['rank']}"
    built = run.build(job, Worker(lambda metrics: None, Storage(str(folder / "held")), **two), scratch)
    train_step(built)
    built.writer.close()
    parameters = list(built.denoiser.parameters())
    moments = [[built.optimizer.state[parameter][name] for parameter in parameters] for name in MOMENTS]
    sizes = [sum(tensor.to_local().numel() for tensor in tensors) for tensors in (parameters, *moments)]
    (folder / f"held-{two['rank']}.json").write_text(json.dumps(sizes))


def _broken_loss(job: Job, folder: Path, two: dict[str, int]) -> None:
    """The second worker's last slot of 7 is NaN in the step of key 6."""
    original, step._losses = step._losses, poison(6, [6], float("nan"))
    events = events_of(run_once(job, folder / "nan", **two))
    (folder / f"nan-{two['rank']}.json").write_text(json.dumps(events))
    step._losses = original


def _jobs(data: Path, make_recipe: MakeRecipe, folder: Path) -> Jobs:
    """By strategy and what is trained."""
    vocabulary = len(json.loads((data / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"])
    shape = {"vocab_size": vocabulary + 9, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "llama")
    Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=1, tie_word_embeddings=True)).save_pretrained(
        folder / "tied"
    )
    pretrained = {"model__kind": "pretrained", "model__tokenizer__kind": "chars"}
    changes = {name: {} for name in METHODS_TRAINED} | {
        "8bit": {"train__optimizer": "adamw_8bit", "model__hidden_size": 64},
        "recomputed": {"train__activation_checkpointing": True},
        "offloaded": {"train__cpu_offload": True},
        "tied": {**pretrained, "model__path": str(folder / "tied")},
        "lora": {**pretrained, "model__path": str(folder / "llama"), "model__adapter": {"r": 4}},
        "lora-bf16": {
            **pretrained, "model__path": str(folder / "llama"), "model__adapter": {"r": 4}, "model__dtype": "bfloat16"
        },
    }  # fmt: skip
    jobs = {}
    for strategy in ("ddp", "fsdp"):
        for name, change in changes.items():
            if strategy == "ddp" and name in ("recomputed", "offloaded"):
                continue
            if name in ("standard", "8bit"):  # which are stopped
                change["train__checkpoint_every"] = 1
            recipe = make_recipe(
                **{"train__parallel": strategy, "train__max_steps": 8, "train__global_batch_size": 7,
                   "train__micro_batch_size": 3, "train__max_grad_norm": 0.1, "train__max_validation_examples": 5,
                   "model__num_layers": 2, **change}
            )  # fmt: skip
            method = name if name in METHODS_TRAINED else "standard"
            jobs[f"{strategy}-{name}"] = Job(recipe, method, 42, data, density(folder, METHODS[method]))
    return jobs


@pytest.fixture(scope="module")
def runs(tiny_data: Path, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one worker (ddp), two and more (fsdp) left; see `_worker`. Evaluations at 4 and 8."""
    folder = tmp_path_factory.mktemp("fsdp")
    jobs = _jobs(tiny_data, make_recipe, folder)
    for name in jobs:
        if name.startswith("ddp"):
            reports = run_once(jobs[name], folder / name)
            (folder / f"{name}-0.json").write_text(json.dumps(records_of(reports)))
    mp.spawn(_worker, (jobs, folder), nprocs=4)
    return folder


def _assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance * 0.01)


@pytest.mark.parametrize("name", [*METHODS_TRAINED, "tied"])
def test_two_shards_end_where_one_worker_does(runs: Path, name: str) -> None:
    _assert_close(weights(runs / f"fsdp-{name}"), weights(runs / f"ddp-{name}"), 1e-3)


@pytest.mark.parametrize("name", [*METHODS_TRAINED, "tied", "lora"])
def test_losses_norms_and_validation_agree(runs: Path, name: str) -> None:
    one, first, second = (
        json.loads((runs / f"{run}.json").read_text()) for run in (f"ddp-{name}-0", f"fsdp-{name}-0", f"fsdp-{name}-1")
    )
    assert first == second
    assert any("val/nll" in record for record in one)
    for alone, together in zip(one, first, strict=True):
        assert together == pytest.approx(alone, rel=2e-3, abs=1e-5)


def test_steps_are_clipped(runs: Path) -> None:
    """Otherwise the above would say nothing of clipping."""
    records = json.loads((runs / "fsdp-standard-0.json").read_text())
    assert min(record["train/grad_norm"] for record in records if "train/grad_norm" in record) > 0.1


def test_updates_of_a_sharded_model_agree(runs: Path) -> None:
    one, two = (
        load_file(last(runs / f"{name}-lora").path / "model/adapter_model.safetensors") for name in ("ddp", "fsdp")
    )
    assert any(tensor.any() for name, tensor in one.items() if "lora_B" in name)
    _assert_close(two, one, 1e-3)


def test_float32_updates_of_bfloat16_weights_are_sharded_together(runs: Path) -> None:
    one, two = (state(runs / f"{name}-lora-bf16").summary() for name in ("ddp", "fsdp"))
    assert two["val_nll"] == pytest.approx(one["val_nll"], rel=1e-3)


@pytest.mark.parametrize("name", ["standard", "tied", "lora", "8bit"])
def test_moments_lie_in_a_checkpoint_as_one_worker_writes_them(runs: Path, name: str) -> None:
    one, two = (
        torch.load(last(runs / f"{run}-{name}").path / "optimizer.pt", weights_only=True) for run in ("ddp", "fsdp")
    )
    assert one["param_groups"] == two["param_groups"]
    assert one["state"].keys() == two["state"].keys()
    for index, moments in one["state"].items():
        found = {key: (value.shape, value.dtype) for key, value in two["state"][index].items()}
        assert found == {key: (value.shape, value.dtype) for key, value in moments.items()}
        if name != "8bit":
            _assert_close(two["state"][index], moments, 1e-2)


@pytest.mark.parametrize("name", ["fsdp-standard", "fsdp-8bit"])
def test_stops_change_nothing(runs: Path, name: str) -> None:
    assert_same_run(runs / f"{name}-stopped", runs / name)


def test_strategy_and_workers_may_change_at_every_checkpoint(runs: Path) -> None:
    _assert_close(weights(runs / "changing"), weights(runs / "ddp-standard"), 1e-3)
    found, expected = (state(runs / name).summary() for name in ("changing", "ddp-standard"))
    for name in ("val_nll", "loss_variance", "backprop_variance", "grad_norm", "grad_norm_std"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name


def test_moments_in_8_bits_may_change_their_workers(runs: Path) -> None:
    found, expected = (state(runs / name).summary() for name in ("changing-8bit", "ddp-8bit"))
    assert found["val_nll"] == pytest.approx(expected["val_nll"], rel=1e-3)


@pytest.mark.parametrize("name", ["recomputed", "offloaded"])
def test_where_weights_and_activations_lie_changes_nothing(runs: Path, name: str) -> None:
    assert_same_run(runs / f"fsdp-{name}", runs / "fsdp-standard")


def test_a_worker_holds_half_of_weights_and_moments(runs: Path) -> None:
    """But for rows that cannot be halved: fewer than a tenth of all."""
    first, second = (json.loads((runs / f"held-{rank}.json").read_text()) for rank in range(2))
    total = sum(tensor.numel() for tensor in weights(runs / "fsdp-standard").values())
    assert [one + other for one, other in zip(first, second, strict=True)] == [total] * 3
    assert all(0.45 * total < size < 0.55 * total for size in (*first, *second))


def test_a_loss_that_one_worker_has_is_skipped_by_all(runs: Path) -> None:
    first, second = (json.loads((runs / f"nan-{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert [(event["step"], event["event"], event["slots"]) for event in first] == [(7, "skipped_step", [6])]
    assert all(torch.isfinite(tensor).all() for tensor in weights(runs / "nan").values())

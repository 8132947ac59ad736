"""What sharded workers share, with a single one; with several see tests/invariant/test_fsdp.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from interrupted import assert_same_run, run_once, run_stopped, weights
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from raymdm.config.schema import Recipe
from raymdm.config.training import TrainConfig
from raymdm.errors import UserError
from raymdm.models import loss_head
from raymdm.storage import Storage
from raymdm.training import parallel
from raymdm.training.loop import Job, Worker, build

MakeRecipe = Callable[..., Recipe]
SHARDED = TrainConfig(parallel="fsdp")


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(lambda metrics: None, Storage(str(tmp_path / "run")))


@pytest.fixture
def alone(worker: Worker) -> Iterator[Worker]:
    """A worker in a process group of its own."""
    with parallel.group(SHARDED, worker):
        yield worker


def test_a_single_worker_shards_in_a_group_of_its_own(worker: Worker) -> None:
    with parallel.group(SHARDED, worker):
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()


def test_a_group_that_is_there_stays(alone: Worker) -> None:
    with parallel.group(SHARDED, alone):
        pass
    assert dist.is_initialized()


def test_who_does_not_shard_needs_no_group(worker: Worker) -> None:
    with parallel.group(TrainConfig(), worker):
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("batch", "micro", "workers", "expected"),
    [(8, None, 2, 1), (7, None, 2, 1), (7, 3, 2, 2), (6, 3, 2, 1), (7, 3, 4, 1), (9, 1, 4, 3), (32, 4, 1, 8)],
)
def test_all_workers_do_the_passes_of_the_busiest(batch: int, micro: int | None, workers: int, expected: int) -> None:
    settings = TrainConfig(parallel="fsdp", global_batch_size=batch, micro_batch_size=micro)
    assert parallel.passes(settings, workers) == expected


def test_workers_with_whole_models_do_the_passes_they_need() -> None:
    assert parallel.passes(TrainConfig(), 4) is None


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 6, 8])
def test_parts_of_all_workers_are_the_whole(rows: int) -> None:
    whole = torch.arange(rows * 3.0).view(rows, 3)
    assert torch.equal(torch.cat([parallel.part(whole, rank, 4) for rank in range(4)]), whole)


def test_a_part_does_not_keep_the_whole_in_memory() -> None:
    assert parallel.part(torch.zeros(8, 3), 1, 4).untyped_storage().nbytes() == 2 * 3 * 4


def test_a_sharded_tensor_is_made_whole_again(alone: Worker) -> None:
    layer = nn.Linear(3, 5)
    expected = layer.weight.detach().clone()
    fully_shard(layer)
    codes = parallel.as_sharded(torch.arange(10, dtype=torch.uint8).view(5, 2), layer.weight)
    assert isinstance(codes, DTensor)
    assert torch.equal(parallel.whole(layer.weight.detach()), expected)
    assert torch.equal(parallel.whole(codes), torch.arange(10, dtype=torch.uint8).view(5, 2))


@pytest.mark.parametrize("largest", [0.1, 1e6])
def test_sharded_gradients_are_clipped_as_others(alone: Worker, largest: float) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(4, 3), nn.Linear(4, 3)
    layers[1].load_state_dict(layers[0].state_dict())
    fully_shard(layers[1])
    for layer in layers:
        layer(torch.ones(2, 4)).square().sum().backward()
    norm = nn.utils.clip_grad_norm_(layers[0].parameters(), largest)
    torch.testing.assert_close(parallel.clip_gradients(layers[1].parameters(), largest, alone), norm)
    for one, other in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad.full_tensor(), one.grad)


@pytest.mark.parametrize("limit", [2**26, 64])
def test_a_sharded_model_in_bfloat16_computes_as_autocast_does(
    tiny_data: Path, make_recipe: MakeRecipe, alone: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """What GPUs do, on a CPU: products in bfloat16, sums over layers in float32. With `limit` logits at a time."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    monkeypatch.setattr(parallel, "mixed_precision", lambda device: policy)
    monkeypatch.setattr(loss_head, "LIMIT", limit)
    ids = torch.arange(12).view(2, 6)
    targets, streams, found = ids > 2, [], {}
    for name in ("ddp", "fsdp"):
        run = build(Job(make_recipe(train__parallel=name), "standard", 42, tiny_data), alone, tmp_path / name)
        run.denoiser.model.get_decoder().norm.register_forward_pre_hook(lambda _, args: streams.append(args[0].dtype))
        with torch.autocast("cpu", torch.bfloat16):
            losses = run.model(ids, None, targets, ids[targets])
        losses.sum().backward()
        found[name] = losses, [parallel.whole(parameter.grad) for parameter in run.denoiser.parameters()]
    assert streams == [torch.float32, torch.float32]
    torch.testing.assert_close(found["fsdp"][0], found["ddp"][0], rtol=0.02, atol=0.02)
    for one, other in zip(found["fsdp"][1], found["ddp"][1], strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_a_head_that_cannot_run_here_is_refused_at_the_start(
    tiny_data: Path, make_recipe: MakeRecipe, worker: Worker, tmp_path: Path
) -> None:
    recipe = make_recipe(train__loss_head="liger", train__gpus_per_worker=1)
    with pytest.raises(UserError, match="liger needs a GPU"):
        build(Job(recipe, "standard", 42, tiny_data), worker, tmp_path)


def test_names_of_weights_stay(tiny_data: Path, make_recipe: MakeRecipe, alone: Worker, tmp_path: Path) -> None:
    names = [
        list(
            build(Job(make_recipe(train__parallel=name), "standard", 42, tiny_data), alone, tmp_path).model.state_dict()
        )
        for name in ("ddp", "fsdp")
    ]
    assert names[0] == names[1]


def test_one_sharded_worker_does_what_another_does(tiny_data: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name in ("ddp", "fsdp"):
        job = Job(make_recipe(train__parallel=name, train__checkpoint_every=3), "standard", 42, tiny_data)
        run_once(job, tmp_path / name)
    found, expected = (weights(tmp_path / name) for name in ("fsdp", "ddp"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    run_stopped(job, tmp_path / "stopped", [5, 5])
    assert_same_run(tmp_path / "stopped", tmp_path / "fsdp")

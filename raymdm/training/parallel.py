"""How workers share a run: each holds the whole model (DDP), or a part of weights, gradients and moments (FSDP2).

Numbers stay those of one worker but for rounding, and checkpoints those of a whole model: a run may change from one
to the other, and its number of workers, at every checkpoint.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from raymdm.config.training import TrainConfig
from raymdm.models.denoiser import Denoiser
from raymdm.training.layers import layers

if TYPE_CHECKING:
    from raymdm.training.run import Worker


@contextmanager
def group(settings: TrainConfig, worker: "Worker") -> Iterator[None]:
    """A process group for a single worker that shards: the same arithmetic as with several. Others have theirs."""
    if settings.parallel != "fsdp" or dist.is_initialized():
        yield
        return
    assert worker.world_size == 1
    backend = "nccl" if worker.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        dist.destroy_process_group()


def shared(denoiser: Denoiser, settings: TrainConfig, worker: "Worker") -> nn.Module:
    """The model as the run's workers train it, on their devices.

    With `fsdp`, rank 0's weights count: elsewhere the parameters and buffers may lie on the meta device. All workers
    call it together.
    """
    if worker.device.index is not None:
        torch.cuda.set_device(worker.device)
    if settings.parallel == "fsdp":
        _shard(denoiser, settings, worker)
        return denoiser
    denoiser.to(worker.device)
    if worker.world_size == 1:
        return denoiser
    devices = [worker.device] if worker.device.type == "cuda" else None
    return DistributedDataParallel(denoiser, devices, gradient_as_bucket_view=True)


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float, worker: "Worker") -> Tensor:
    """Scale gradients down to the global norm `largest`; returns their norm before, () on the worker's device.

    Sharded gradients need all workers together. Their sums of squares go through the workers' own device, so that
    gradients that lie in host memory need no second process group.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return nn.utils.clip_grad_norm_(parameters, largest)
    gradients = [cast(DTensor, parameter.grad).to_local() for parameter in parameters]
    squares = torch.stack([gradient.norm(dtype=torch.float32).square() for gradient in gradients]).sum()
    squares = squares.to(worker.device)
    dist.all_reduce(squares)
    norm = squares.sqrt()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0).to(gradients[0].device)
    torch._foreach_mul_(gradients, scale)
    return norm


def passes(settings: TrainConfig, world_size: int) -> int | None:
    """Micro-batches that each worker does a step: a sharded worker cannot go forward alone. None: those it needs."""
    if settings.parallel != "fsdp":
        return None
    share = -(-settings.global_batch_size // world_size)
    return -(-share // (settings.micro_batch_size or share))


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on the workers' device; all workers call it together. Another as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    device = torch.device(tensor.device_mesh.device_type)  # an offloaded part would be exchanged between CPUs
    return _wrapped(tensor.to_local().to(device), tensor).full_tensor()


def part(tensor: Tensor, rank: int, world_size: int) -> Tensor:
    """A copy of the rows of a whole tensor that a sharded worker holds; of a scalar the scalar."""
    if not tensor.ndim:
        return tensor.clone()
    rows = tensor.chunk(world_size)
    return (rows[rank] if rank < len(rows) else tensor[:0]).clone()


def as_sharded(local: Tensor, parameter: Tensor) -> Tensor:
    """This worker's rows as a tensor that is sharded as the parameter is, if that is; a scalar as it is."""
    if not isinstance(parameter, DTensor) or not local.ndim:
        return local
    return _wrapped(local, parameter).to(parameter.device)  # of an offloaded parameter in host memory, as it is


def _wrapped(local: Tensor, like: DTensor) -> DTensor:
    """Rows (r, ...) as part of a tensor (R, ...), where `like` has R rows."""
    shape = torch.Size([like.shape[0], *local.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)


def _shard(denoiser: Denoiser, settings: TrainConfig, worker: "Worker") -> None:
    """Shard the layers one by one, then the rest: a worker has one layer's whole weights on its device at a time.

    The head and the embeddings are the outermost module's own: who calls the Denoiser finds both whole.
    """
    _assert_alike(denoiser, worker)
    mesh = init_device_mesh(worker.device.type, (worker.world_size,))
    policy = mixed_precision(worker.device)
    if policy.param_dtype and denoiser.model.dtype == torch.float32:
        embeddings = cast(nn.Module, denoiser.model.get_input_embeddings())
        embeddings.register_forward_hook(lambda module, args, output: output.float())
    offload = CPUOffloadPolicy(pin_memory=worker.device.type == "cuda") if settings.cpu_offload else OffloadPolicy()
    for module in (*layers(denoiser.model), denoiser):
        _place(module, worker)
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=offload)


def mixed_precision(device: torch.device) -> MixedPrecisionPolicy:
    """What autocast does to whole models: weights round to bfloat16 for the products, sums over layers do not."""
    if device.type != "cuda":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _assert_alike(denoiser: Denoiser, worker: "Worker") -> None:
    """All workers must exchange the same tensors in the same order: a model without weights is built as one with."""
    held = [
        (name, value.shape, value.dtype) for name, value in (*denoiser.named_parameters(), *denoiser.named_buffers())
    ]
    digest = hashlib.sha256(str(held).encode()).digest()
    found = worker.gather(torch.tensor(list(digest), dtype=torch.float64))
    assert (found == found[0]).all(), "workers have different parameters"


def _place(module: nn.Module, worker: "Worker") -> None:
    """Rank 0's parameters and buffers on every worker's device, those of modules that are sharded already aside."""
    placed: dict[int, Any] = {}  # tied parameters stay one
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is None or isinstance(parameter, DTensor):
                continue
            if id(parameter) not in placed:
                value = nn.Parameter(_sent(parameter.detach(), worker), requires_grad=parameter.requires_grad)
                placed[id(parameter)] = parameter, value  # the old one too: its id must stay its own
            inner._parameters[name] = placed[id(parameter)][1]
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                inner._buffers[name] = _sent(buffer, worker)


def _sent(value: Tensor, worker: "Worker") -> Tensor:
    """Rank 0's value on this worker's device."""
    if worker.rank:
        value = torch.empty_like(value, device=worker.device)
    value = value.to(worker.device).contiguous()
    dist.broadcast(value, 0)
    return value

"""One run's training, by Ray Train's workers or in the process that asks for it.

Ray's controller process imports what this module imports and what the loop's configuration is made of. It needs none
of the training code, so that is imported by the workers alone, and the configuration is text.
"""

import gc
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymdm.config.schema import Recipe
from raymdm.errors import UserError
from raymdm.orchestrate.forward import Forward
from raymdm.orchestrate.places import release
from raymdm.orchestrate.preemption import notice, told
from raymdm.storage import Storage, StorageError, fetched

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from raymdm.training.run import Left

Heard = Callable[[dict[str, Any]], None]
"""Takes a run's reports."""
ELASTIC_START_S = "10"
"""Seconds that a worker group of a range waits for its places before its size is chosen anew."""

RELEASE_S = 5.0
"""Seconds between two looks for places that a lost process of the run has left reserved."""
PATIENCE_S = 2 * 3600
"""Seconds that workers wait for one of them that writes, or fetches, a checkpoint."""


def train_here(
    recipe: Recipe, method: str, seed: int, data: str, density: str, checkpoints: str, heard: Heard, stop: str = ""
) -> "Left":
    """Train one run in this process; its imports serve the next run too. Raises UserError, StorageError.

    data, density ("" for a method without), checkpoints: folders on storage. A run goes on from its checkpoints.
    stop: the key that stops the sweep, as `preemption.told` has it. Returns why the run left before its end.
    """
    import torch

    from raymdm.training.loop import Worker, train

    torch.set_num_threads(max(1, int(recipe.train.cpus_per_worker)))
    device = torch.device("cuda" if recipe.train.gpus_per_worker else "cpu")
    gc.collect()  # the model of a run before that failed
    try:
        return train(
            _job(recipe, method, seed, data, density),
            Worker(report=heard, checkpoints=Storage(checkpoints), device=device, notice=notice(stop)),
        )
    finally:
        gc.collect()  # layers that are sharded or computed again refer to themselves
        if recipe.train.gpus_per_worker:
            torch.cuda.empty_cache()  # for the scoring that follows, and for the next run


def worker_loop(config: dict[str, str | int]) -> "Left":
    """What every Ray Train worker runs: the training loop, with Ray behind its reports and its data parallelism.

    config: recipe (JSON), method, seed, and folders on storage: data, density ("" for a method without), checkpoints;
    stop, driver: what `preemption.notice` looks at. Returns why the workers left before the end: for Ray Train, which
    would count a failure, they have ended either way.
    """
    import torch
    from ray.train.torch import get_device

    from raymdm.training.loop import Worker, train

    recipe = Recipe.model_validate_json(str(config["recipe"]))
    torch.set_num_threads(max(1, int(recipe.train.cpus_per_worker)))
    context = ray.train.get_context()
    worker = Worker(
        report=ray.train.report,
        checkpoints=Storage(str(config["checkpoints"])),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=get_device(),
        notice=notice(str(config["stop"]), str(config["driver"])),
    )
    which = str(config["method"]), int(config["seed"]), str(config["data"]), str(config["density"])
    try:
        # a copy that this node alone cannot make must end all workers
        job: Any = worker.alike("read", str(config["data"]), lambda: _job(recipe, *which))
        return train(job, worker)
    except UserError as error:
        # all workers come here: told rather than raised, so that no failure policy tries what would fail again
        ray.train.report({"problem": str(error), "storage": isinstance(error, StorageError)})
        return ""


def _job(recipe: Recipe, method: str, seed: int, data: str, density: str) -> Any:
    from raymdm.training.loop import Job

    return Job(recipe, method, seed, fetched(data), _density(density))


def _density(folder: str) -> Path | None:
    if not folder:
        return None
    return fetched(folder) / "density.json"


def run_training(
    recipe: Recipe,
    method: str,
    seed: int,
    data: str,
    density: str,
    checkpoints: str,
    storage: str,
    heard: Heard,
    stop: str = "",
) -> "Left":
    """Train one run to its end on Ray Train's workers; folders, `stop` and the result as `train_here` has them.

    Workers whose node goes away leave, and others take their place while this process can stay. storage: where Ray
    Train itself may write, for all nodes. Raises UserError for what would go wrong again, StorageError, and Ray's
    TrainingFailedError when workers failed more than `train.max_failures` times since the last notice.
    """
    # beside this process: the loss of another node must not end the reports
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    config: dict[str, str | int] = {
        "recipe": recipe.model_dump_json(), "method": method, "seed": seed, "data": data, "density": density,
        "checkpoints": checkpoints, "stop": stop, "driver": node,
    }  # fmt: skip
    try:
        while True:
            left = _fit(recipe, config, storage, queue, heard)
            if left != "node" or (left := told(stop)):
                return left
    finally:
        queue.shutdown()


def _fit(recipe: Recipe, config: dict[str, str | int], storage: str, queue: Queue, heard: Heard) -> "Left":
    """Train with one trainer, until the end or until its workers leave. config: of `worker_loop`."""
    # a name of its own: runs resume from their own checkpoints, and Ray Train keeps none
    name = f"{config['method']}-s{config['seed']}-{uuid.uuid4().hex[:8]}"
    trainer = _trainer(recipe, config, name, storage, queue)
    problem: dict[str, Any] = {}
    try:
        with ThreadPoolExecutor(1) as thread:
            fitting = thread.submit(trainer.fit)
            for metrics in _reports(queue, fitting.done):
                if "problem" in metrics:
                    problem = metrics
                else:
                    heard(metrics)
            left: Left = fitting.result().return_value
    finally:
        Storage(storage).delete(name)
    if problem:
        raise (StorageError if problem["storage"] else UserError)(problem["problem"])
    return left


def _trainer(recipe: Recipe, config: dict[str, str | int], name: str, storage: str, queue: Queue) -> "TorchTrainer":
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = recipe.train
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        resources["GPU"] = settings.gpus_per_worker
    fewest, most = settings.workers
    if fewest < most:
        # Ray Train hears of a lost node up to 20 s late, and would wait that long for workers on nodes that have gone
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = ELASTIC_START_S
    return TorchTrainer(
        worker_loop,
        train_loop_config=config,
        torch_config=TorchConfig(backend=_backend(recipe), timeout_s=PATIENCE_S),
        scaling_config=ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy=settings.placement_strategy,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            callbacks=[Forward(queue)],
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _backend(recipe: Recipe) -> str:
    """How the workers of a run talk to each other; parts of a model that lie in host memory need gloo on GPUs too."""
    settings = recipe.train
    if not settings.gpus_per_worker:
        return "gloo"
    return "cpu:gloo,cuda:nccl" if settings.parallel == "fsdp" else "nccl"


def _reports(queue: Queue, ended: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Everything that is put into the queue until training has ended and the queue is empty."""
    due = 0.0
    while True:
        if time.monotonic() > due:  # again and again: Ray may hear late of what was lost
            release()
            due = time.monotonic() + RELEASE_S
        last = ended()
        try:
            while True:
                yield queue.get(timeout=0.05)
        except Empty:
            if last:
                return
        time.sleep(0.1)

"""One run on Ray Train: the workers' loop and the trainer around it.

Ray's controller process imports what this module imports and what the loop's configuration is made of. It needs none
of the training code, so that is imported by the workers alone, and the configuration is text.
"""

import tempfile
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback

from raymdm.config.schema import Recipe
from raymdm.errors import UserError


def worker_loop(config: dict[str, str | int]) -> None:
    """What every Ray Train worker runs: the training loop, with Ray behind its reports and its data parallelism.

    config: recipe (JSON), method, seed, and paths: data, density ("" for a method without), and problem, the file
    that a UserError is written to.
    """
    import torch
    from ray.train.torch import get_device, prepare_model

    from raymdm.training.loop import Job, Worker, train

    recipe = Recipe.model_validate_json(str(config["recipe"]))
    density = Path(str(config["density"])) if config["density"] else None
    torch.set_num_threads(max(1, int(recipe.train.cpus_per_worker)))
    context, last = ray.train.get_context(), ray.train.get_checkpoint()
    job = Job(recipe, str(config["method"]), int(config["seed"]), Path(str(config["data"])), density)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(
            report=_report,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=get_device(),
            wrap=prepare_model,
            resume=Path(last.to_directory(folder)) if last else None,
        )
        try:
            train(job, worker)
        except UserError as error:
            # it would come again: left for the driver rather than raised, so that no failure policy tries it again
            if worker.rank == 0:
                Path(str(config["problem"])).write_text(str(error))


def _report(metrics: dict[str, Any], folder: Path | None) -> None:
    ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder) if folder else None)


def run_training(
    recipe: Recipe,
    method: str,
    seed: int,
    data: Path,
    density: Path | None,
    name: str,
    storage: Path,
    callbacks: list[UserCallback],
) -> Checkpoint:
    """Train one run to its end; returns its last checkpoint, which holds the best model in `best/`.

    `name` under `storage` is the resume key: a run of that name goes on from its last checkpoint. Raises UserError for
    what would go wrong again, and Ray's TrainingFailedError when workers failed more than `train.max_failures` times.
    """
    from ray.train.torch import TorchConfig, TorchTrainer

    problem = storage.absolute() / f"{name}.problem"
    problem.parent.mkdir(parents=True, exist_ok=True)
    problem.unlink(missing_ok=True)
    settings = recipe.train
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        resources["GPU"] = settings.gpus_per_worker
    result = TorchTrainer(
        worker_loop,
        train_loop_config={
            "recipe": recipe.model_dump_json(),
            "method": method,
            "seed": seed,
            "data": str(data),
            "density": str(density or ""),
            "problem": str(problem),
        },
        torch_config=TorchConfig(backend="nccl" if settings.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.num_workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.absolute()),
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    ).fit()
    if problem.exists():
        raise UserError(problem.read_text())
    assert result.checkpoint is not None
    return result.checkpoint

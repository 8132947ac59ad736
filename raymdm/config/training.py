"""How a run trains: the `train` section of a recipe. Sources of defaults as in schema.py."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, NonNegativeInt, PositiveFloat, PositiveInt, Tag, model_validator

from raymdm.config.inputs import Section


class WorkerRange(Section):
    min: PositiveInt
    """Fewest workers that a run goes on with."""
    max: PositiveInt
    """Workers that a run takes when the cluster has them."""

    @model_validator(mode="after")
    def _in_order(self) -> "WorkerRange":
        if self.min > self.max:
            raise ValueError(f"`min` ({self.min}) must not exceed `max` ({self.max})")
        return self


def _kind(value: Any) -> str:
    return "elastic" if isinstance(value, Mapping | WorkerRange) else "fixed"


NumWorkers = Annotated[
    Annotated[PositiveInt, Tag("fixed")] | Annotated[WorkerRange, Tag("elastic")], Discriminator(_kind)
]


class TrainConfig(Section):
    num_workers: NumWorkers = 1
    """Workers of one run, data parallel. `{min, max}`: as many as the cluster holds; a run that loses some goes on with
    fewer, with the same global batch and the same noise."""
    cpus_per_worker: PositiveFloat = 0.98
    """CPUs a worker reserves; just under one leaves room for the process that drives it."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs a worker reserves; 0 trains on CPU. Workers of one run cannot share a GPU."""
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """How Ray lays the workers of one run over nodes: on few or on many, STRICT: or not at all."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share a run: each holds the whole model (`ddp`), or a part of weights, gradients and moments
    (`fsdp`, FSDP2); the numbers are the same but for rounding."""
    cpu_offload: bool = False
    """With `fsdp`: what a worker does not use at the moment lies in host memory."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each layer (torch.compile)."""
    loss_head: Literal["chunked", "cut_cross_entropy", "liger"] = "chunked"
    """How the output layer and the cross-entropy of the masked tokens are computed: in plain torch, a part of the
    tokens at a time, or by a fused kernel (GPU; pip install raymdm[gpu])."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """`adamw_8bit`: the moments in 8 bits a number, block by block."""
    group_by_length: bool = True
    """A worker's micro-batches hold sequences of similar length, which saves padding; the gradient is the same."""
    order_seed: Literal["data", "run"] = "data"
    """What orders the training rows: `data.seed`, the same for all runs, or each run's own seed. Seeds of an ARM
    without dropout differ by nothing else."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["linear", "constant"] = "linear"
    """Decay to 0 over the run, or none (paper: linear)."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps of linear warm-up (paper: 0)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    epochs: PositiveFloat = 5.0
    """Passes over the training rows (paper: 5); `max_steps` overrules."""
    max_steps: PositiveInt | None = None
    """Optimiser steps; null: from `epochs`."""
    budget: Literal["steps", "rows"] = "steps"
    """What all methods get the same number of: optimiser steps, or model rows, which is compute. With `rows` a method
    of two views takes half of the steps, also of warm-up and between evaluations and refits."""
    global_batch_size: PositiveInt = 32
    """Sequences an optimiser step, over all workers (paper: 32)."""
    micro_batch_size: PositiveInt | None = None
    """Sequences a worker's forward pass; null: its whole share. Gradients do not depend on it."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations, each followed by a checkpoint; null: once an epoch."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints beside those of evaluations; null: none."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints of an unfinished run that are kept: should the newest be broken, the one before serves."""
    max_skipped_steps: NonNegativeInt = 3
    """Steps of a run with a NaN or infinite loss or gradient that are skipped and written down; one more fails it."""
    validation_draws: PositiveInt = 2
    """Fixed (t, mask) draws a validation sequence."""
    max_validation_examples: PositiveInt | None = None
    """Use only the first rows of the validation split; null uses all."""
    patience: PositiveInt | None = 3
    """Evaluations without a better validation NLL before a run stops (paper: 3); null never stops."""
    refit_every: PositiveInt | None = None
    """Steps between refits of a calibrated density to the current weights, each measured as `calibrate` says on the
    run's own workers; null: never. Methods without a calibrated density have nothing to refit."""
    log_every: PositiveInt = 10
    """Steps a line of logged metrics covers."""
    max_failures: NonNegativeInt = 2
    """Restarts of a run's workers after a crash, each from the last checkpoint."""

    def share(self, views: int, rows: int) -> "TrainConfig":
        """The settings of a method of so many views a sequence on so many training rows, with steps in figures."""
        divisor, batch = views if self.budget == "rows" else 1, self.global_batch_size
        changes = {
            "max_steps": max(1, (self.max_steps or math.ceil(self.epochs * rows / batch)) // divisor),
            "eval_every": max(1, (self.eval_every or math.ceil(rows / batch)) // divisor),
            "warmup_steps": self.warmup_steps // divisor,
            "refit_every": self.refit_every and max(1, self.refit_every // divisor),
        }
        return self.model_copy(update=changes)

    @property
    def workers(self) -> tuple[int, int]:
        """Fewest and most workers of a run."""
        n = self.num_workers
        return (n, n) if isinstance(n, int) else (n.min, n.max)

    @model_validator(mode="after")
    def _gpus_unshared(self) -> "TrainConfig":
        if self.workers[1] > 1 and self.gpus_per_worker % 1:
            raise ValueError("`gpus_per_worker` must be whole with several workers: they cannot share a GPU (NCCL)")
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> "TrainConfig":
        if self.cpu_offload and self.parallel != "fsdp":
            raise ValueError("`cpu_offload` needs `parallel: fsdp`")
        if self.refit_every and self.parallel == "fsdp":
            raise ValueError(
                "`refit_every` cannot go with `parallel: fsdp`: workers that hold parts of the model cannot measure "
                "sequences of their own. Leave it out, or use `parallel: ddp`"
            )
        if self.loss_head != "chunked" and not self.gpus_per_worker:
            raise ValueError(f"`loss_head: {self.loss_head}` runs on GPUs alone: set `gpus_per_worker`, or use chunked")
        return self

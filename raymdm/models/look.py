"""A pretrained model's folder before anything is trained: all that can be known without the weights' numbers."""

from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from torch import nn

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models import adapters
from raymdm.models.folder import check_weights
from raymdm.models.load import skeleton
from raymdm.storage import Storage

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def look(model: ModelConfig, tokenizer: Sized | None, family: Literal["mdm", "arm"]) -> str | None:
    """What a line can say of a model in a folder of this machine, built without numbers; None for one elsewhere.

    tokenizer: what it will be loaded with; None where that is not known yet, and tokens without embeddings with it.

    Raises UserError where `load_model` would: files of weights that are missing or cut short, an architecture that is
    not supported, an adapter's layers that the model has not, a bidirectional model as an `arm`; StorageError.
    """
    folder, place = _folder(model), f"model.path {model.path!r}"
    if folder is None:
        return None
    built = skeleton(_bare(model, folder), range(0) if tokenizer is None else tokenizer, family)
    if family == "arm" and getattr(built.config, "is_causal", True) is False:
        raise UserError(
            f"{place}: a bidirectional model by its config.json, from which next-token training would read the answer. "
            "Give the method 'arm' a causal model: arm_model.path"
        )
    files, size = check_weights(folder, place)
    return f"weights of {folder}: {files} file{'s' * (files > 1)}, {_bytes(size)}; {_parameters(built)}"


def _folder(model: ModelConfig) -> Path | None:
    """Where a model lies; None on storage or a hub."""
    path = cast(str, model.path)
    if "://" in path:
        return Storage(path).path if path.startswith("file://") else None
    is_folder = Path(path).is_absolute() or path.startswith(".")  # or it may be a name on a hub
    return Path(path) if is_folder or Path(path).is_dir() else None


def _bare(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model as any machine can build it: attention of a GPU, and 4-bit layers, are where they are needed."""
    adapter = model.adapter.model_copy(update={"kind": "lora"}) if model.adapter else None
    return model.model_copy(update={"path": str(folder), "attn_implementation": "eager", "adapter": adapter})


def _parameters(built: "PreTrainedModel") -> str:
    total = sum(parameter.numel() for parameter in cast(nn.Module, built).parameters())
    trained = sum(parameter.numel() for parameter in adapters.trainable(built).values())
    shown = f"{type(built).__name__} of {total:,} parameters"
    return shown if trained == total else f"{shown}, {trained:,} of them trained"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"

"""Pretrained models through transformers: from a folder or a hub, without code that comes with them."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models import adapters
from raymdm.models.families import inspected
from raymdm.models.files import in_words, read_json, weight_map
from raymdm.storage import refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = ("F32", "BF16", "F16", "F64")


def read(
    model: ModelConfig, path: str, field: str = "model.path", device: torch.device | None = None
) -> "PreTrainedModel":
    """A checkpoint as it is, neither made bidirectional nor checked; `field` names its path in messages.

    Tensors are read one by one, from one file after the other, into a model that has none before; with a device they
    go straight there.

    Raises:
        UserError: it is missing, broken, or of an architecture that is not supported.
        StorageError: weights (`field`) are there and storage does not let them be read.
    """
    with _told(path, field):
        checkpoint = inspected(path, _place(path, field), model.trust_remote_code)
        _check_types(Path(path), _place(path, field))
        loaded, info = _auto(model).from_pretrained(
            path,
            config=checkpoint.config,
            key_mapping=checkpoint.names,
            attn_implementation=model.attn_implementation,
            dtype=getattr(torch, model.dtype),
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            device_map=device,
            ignore_mismatched_sizes=True,  # which are refused by name below
            output_loading_info=True,
        )
    _check_complete(info, loaded, _place(path, field))
    if checkpoint.names:
        loaded._weight_conversions = None  # or the names of the files would be given back when it is saved
    from transformers import GenerationConfig

    # Sampling settings of the repository: never used here, and contradictory ones could not be saved again.
    loaded.generation_config = GenerationConfig.from_model_config(loaded.config)
    return cast("PreTrainedModel", loaded)


def empty(model: ModelConfig, path: str, field: str) -> "PreTrainedModel":
    """A checkpoint's model with numbers that nobody has read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with _told(path, field):
        config = inspected(path, _place(path, field), model.trust_remote_code).config
        config = config or AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
        return cast(
            "PreTrainedModel",
            AutoModelForCausalLM.from_config(
                config,
                attn_implementation=model.attn_implementation,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=model.trust_remote_code,
            ),
        )


def _auto(model: ModelConfig) -> Any:
    """The class that makes the model."""
    if model.kind == "tiny":  # spares the import of the table of all architectures
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _place(path: str, field: str) -> str:
    return f"{field} {path!r}"


@contextmanager
def _told(path: str, field: str) -> Iterator[None]:
    """Turn what transformers, safetensors and the operating system say of a checkpoint into one message."""
    is_folder = field == "weights" or Path(path).is_absolute() or path.startswith(".")  # or a name on a hub
    if is_folder and not Path(path).is_dir():
        raise UserError(f"{_place(path, field)}: no such folder. Give a folder with config.json and model.safetensors")
    if adapters.is_adapter_folder(Path(path)):
        raise UserError(
            f"{_place(path, field)}: an adapter's updates, not a model. Give the model that they are of, or what "
            "`raymdm convert` makes of both"
        )
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of many types, for what they stumble over in a broken file
        if field == "weights":
            _raise_refusal(error, path)
        absent = "" if is_folder or Path(path).is_dir() else "no such folder here, and from the hub it "
        raise UserError(
            f"{_place(path, field)}: {absent}cannot be loaded as a causal language model from safetensors: "
            f"{in_words(error)}. Give a folder or name of a model with its config.json and all its weights"
        ) from error


def _check_types(folder: Path, place: str) -> None:
    """Raise UserError for a folder's weights in whole numbers: transformers would take them for values as they are."""
    if not folder.is_dir() or read_json(folder / "config.json", place).get("quantization_config"):
        return
    names = weight_map(folder, place)
    for file in sorted({*names.values()} if names is not None else {"model.safetensors"}):
        if not (folder / file).is_file():
            continue  # which transformers tells
        with safe_open(folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                kind = tensors.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in _TYPES:
                    raise UserError(
                        f"{place}: {name} is of type {kind}, expected one of {', '.join(_TYPES)}. Use a copy of the "
                        "model that is not quantised"
                    )


def _check_complete(info: dict[str, Any], loaded: "PreTrainedModel", place: str) -> None:
    """Raise UserError for tensors that transformers would draw at random, or leave out."""
    if info["missing_keys"]:
        raise UserError(f"{place}: weights are missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    if info["mismatched_keys"]:
        name, found, expected = min(info["mismatched_keys"])
        raise UserError(
            f"{place}: {len(info['mismatched_keys'])} tensors have another shape than config.json says, such as "
            f"{name}: {tuple(found)} (expected {tuple(expected)}). Use the config.json that the weights came with"
        )
    if info["unexpected_keys"]:  # without those that transformers knows to be of no use
        raise UserError(
            f"{place}: {type(loaded.config).__name__} has no place for the tensors "
            f"{', '.join(sorted(info['unexpected_keys'])[:5])}. It is another model than its config.json says"
        )


def _raise_refusal(error: Exception, path: str) -> None:
    """Raise StorageError if the operating system refused to read what is there: that says nothing of the weights."""
    refusal = refused.refusal(error)
    if refusal is None and isinstance(error, FileNotFoundError) and (Path(path) / "model.safetensors").exists():
        refusal = OSError(errno.EIO, "")  # safetensors takes any refusal to open a file for its absence
    if refusal is not None and refusal.errno != errno.ENOENT:
        with refused.told("read", path):
            raise refusal from error

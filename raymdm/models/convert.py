"""Models between LLaDA's layout and transformers': other names and another config.json around the same numbers.

A model goes through one tensor after the other; in memory is one file's worth.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import safetensors.torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models import adapters, llada
from raymdm.models.families import inspected
from raymdm.models.load import load_model
from raymdm.storage import refused

if TYPE_CHECKING:
    from transformers import LlamaConfig

_INDEX = "model.safetensors.index.json"
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_COPIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja")


def convert(source: Path, target: Path, to: Literal["llama", "llada"], shard_size: str = "5GB") -> None:
    """Write a model in another layout, bit for bit the same numbers, and its tokenizer's files.

    To `llama`: a LLaDA or iLLaDA checkpoint becomes one that `AutoModelForCausalLM` loads without code of its own. Its
    config.json says `is_causal: false`, by which transformers leaves out the causal mask; a program that does not read
    that must be told to attend to both sides. To `llada`: the way back, also for a model trained here; who loads it
    elsewhere lets transformers run LLaDA's own code. An adapter's folder is merged with its base model, which stays
    what it is with `llama`, be it another architecture.

    Args:
        source: a folder that is not changed.
        target: a folder that is not there yet.
        to: the layout to write.
        shard_size: the largest file, such as "5GB"; a model of several gets an index.

    Raises:
        UserError: the source is in that layout already, or is a model that the layout cannot hold, or is broken, or
            the target is there.
        StorageError: storage refuses to be read or written.
    """
    if target.exists():
        raise UserError(f"{target}: is there already. Name a new folder, or remove it")
    with refused.told("write", str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with refused.told("write", str(target)):
            done = partial / "done"
            if not adapters.is_adapter_folder(source):
                _convert(source, done, to, shard_size, str(source))
            elif to == "llama":
                _merge(source, done, shard_size)
            else:
                _merge(source, partial / "merged", shard_size)
                _convert(partial / "merged", done, to, shard_size, str(source))
            for pattern in _COPIED:
                for file in source.glob(pattern):
                    shutil.copy(file, done)
            done.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _convert(source: Path, target: Path, to: str, shard_size: str, place: str) -> None:
    config, kind = _llama(source, place)
    if kind == to:
        raise UserError(f"{place}: is in the layout of {to} already")
    names = llada.llama_names(config.num_hidden_layers, config.tie_word_embeddings)
    if kind == "illada" and to == "llama":  # whose tensors have Llama's names
        names = {name: name for name in names.values()}
    elif to == "llada":
        names = {llama: name for name, llama in names.items()}
    target.mkdir()
    if to == "llama":
        config.architectures = ["LlamaForCausalLM"]
        config.save_pretrained(target)
    else:
        fields = llada.llada_fields(config, place)
        (target / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    _write(_files(source, place), names, target, shard_size, place)


def _llama(source: Path, place: str) -> tuple["LlamaConfig", str]:
    """The source as a Llama, which both layouts hold, and the model type that it says it is."""
    from transformers import LlamaConfig

    fields = _json(source / "config.json", place)
    kind = str(fields.get("model_type"))
    config = inspected(str(source), place, trust_remote_code=False).config
    if kind == "llama":
        config = LlamaConfig.from_dict(fields)
    if not isinstance(config, LlamaConfig):
        raise UserError(
            f"{place}: a {kind} model has one layout, which is transformers' own or next to it; only LLaDA, iLLaDA and "
            "Llama are converted. Use it as it is"
        )
    return config, kind


def _files(source: Path, place: str) -> dict[str, Path]:
    """Where each tensor lies."""
    if (source / _INDEX).exists():
        places: dict[str, str] = _json(source / _INDEX, place)["weight_map"]
        return {name: source / file for name, file in places.items()}
    file = source / "model.safetensors"
    with _opened(file, place) as tensors:
        return dict.fromkeys(tensors.keys(), file)


def _write(files: dict[str, Path], names: dict[str, str], target: Path, shard_size: str, place: str) -> None:
    """Write the tensors of `files` under their new `names`, in as many files as their sizes ask for."""
    if wrong := sorted(files.keys() ^ names.keys()):
        raise UserError(
            f"{place}: {len(wrong)} tensors are missing, or are not of the model in config.json, such as {wrong[0]}"
        )
    sizes = _sizes(files, place)
    try:
        split = split_state_dict_into_shards_factory(
            {names[name]: size for name, size in sizes.items()},
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=shard_size,
        )
    except ValueError as error:
        raise UserError(f"--shard-size {shard_size!r}: {error}. Give a number with its unit, such as 5GB") from error
    old = {new: name for name, new in names.items()}
    for file, members in split.filename_to_tensors.items():
        with ExitStack() as stack:
            opened = {path: stack.enter_context(_opened(path, place)) for path in {files[old[new]] for new in members}}
            tensors = {new: opened[files[old[new]]].get_tensor(old[new]) for new in members}
        try:
            safetensors.torch.save_file(tensors, target / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise refused.refusal(error) or error from error
    if split.is_sharded:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": split.tensor_to_filename}
        (target / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _sizes(files: dict[str, Path], place: str) -> dict[str, int]:
    """Bytes of each tensor, in the files' order; none is read."""
    sizes = {}
    for file in dict.fromkeys(files.values()):
        with _opened(file, place) as tensors:
            for name in (name for name, where in files.items() if where == file):
                part = tensors.get_slice(name)
                if part.get_dtype() not in _BYTES:
                    raise UserError(
                        f"{place}: {name} is of type {part.get_dtype()}; quantised models keep their layout"
                    )
                sizes[name] = math.prod(part.get_shape()) * _BYTES[part.get_dtype()]
    return sizes


@contextmanager
def _opened(file: Path, place: str) -> Iterator[Any]:
    try:
        with refused.told("read", str(file)), safe_open(file, framework="pt") as tensors:
            yield tensors
    except FileNotFoundError:
        raise UserError(f"{place}: {file.name} is missing. Give a folder with all of a model's files") from None
    except SafetensorError as error:
        raise UserError(f"{place}: {file.name} is broken: {error}") from error


def _json(file: Path, place: str) -> dict[str, Any]:
    try:
        with refused.told("read", str(file)):
            return cast(dict[str, Any], json.loads(file.read_text()))
    except FileNotFoundError:
        raise UserError(f"{place}: {file.name} is missing. Give a folder with all of a model's files") from None
    except ValueError as error:
        raise UserError(f"{place}: {file.name} is broken: {error}") from error


def _merge(source: Path, target: Path, shard_size: str) -> None:
    """Write the model that an adapter's folder and its base model are together, as `load_model` puts them together."""
    trained = _json(source / "config.json", str(source))
    causal = trained.get("is_causal", True)
    settings = {
        "kind": "pretrained",
        "path": adapters.base_model(source),
        "dtype": trained["dtype"],
        "right_shift_logits": trained.get("right_shift_logits"),
        "adapter": {},  # the folder says which
    }
    loaded = load_model(
        ModelConfig.model_validate(settings), range(trained["vocab_size"]), "arm" if causal else "mdm", source
    )
    adapters.merge(loaded)
    if (mask := trained.get("mask_token_id")) is not None:
        loaded.config.mask_token_id = mask
    loaded.save_pretrained(target, max_shard_size=shard_size)

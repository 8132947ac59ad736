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
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
from huggingface_hub import StateDictSplit, split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models import adapters, llada
from raymdm.models.families import inspected
from raymdm.models.files import INDEX, read_json, understood, weight_map
from raymdm.models.folder import require_source
from raymdm.models.load import load_model
from raymdm.storage import refused

if TYPE_CHECKING:
    from transformers import LlamaConfig

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_COPIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.jinja")


def convert(
    source: Path,
    target: Path,
    to: Literal["llama", "llada"],
    shard_size: str = "5GB",
    base: str | None = None,
    tokenizer: Path | None = None,
) -> list[str]:
    """Write a model in another layout, bit for bit the same numbers, and its tokenizer's files; returns notes.

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
        base: folder, name or address of an adapter's base model; None: the one that it names.
        tokenizer: a folder with the tokenizer's files; None: `source`.

    Raises:
        UserError: the source is in that layout already, or is a model that the layout cannot hold, or is broken, or
            the target is there.
        StorageError: storage refuses to be read or written.
    """
    files = _checked(source, target, shard_size, base, tokenizer)
    with refused.told("write", str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        done = partial / "done"
        if not adapters.is_adapter_folder(source):
            _convert(source, done, to, shard_size, str(source))
        elif to == "llama":
            _merge(source, done, shard_size, base)
        else:
            _merge(source, partial / "merged", shard_size, base)
            _convert(partial / "merged", done, to, shard_size, str(source))
        with refused.told("write", str(target)):
            for file in files:
                shutil.copy(file, done)
            done.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [] if files else [f"{source} has no tokenizer, nor has {target} now: name its folder by --tokenizer"]


def _checked(source: Path, target: Path, shard_size: str, base: str | None, tokenizer: Path | None) -> list[Path]:
    """The tokenizer's files, once it is clear that there is something to do."""
    if target.exists():
        raise UserError(f"{target}: is there already. Name a new folder, or remove it")
    require_source(source)
    with refused.told("read", str(source)):
        if base and not adapters.is_adapter_folder(source):
            raise UserError(f"--base {base}: {source} holds a whole model, not an adapter's updates. Leave it out")
        folder = tokenizer or source
        files = [file for pattern in _COPIED for file in sorted(folder.glob(pattern))]
        files = [file for file in files if file.is_file() and file.suffix != ".py"]
    if tokenizer and not files:
        raise UserError(f"--tokenizer {tokenizer}: no folder with a tokenizer's files. Give one with tokenizer.json")
    try:
        _split({}, shard_size)
        if float(shard_size.strip()[:-2]) <= 0:
            raise ValueError("it is not above 0")
    except (ValueError, OverflowError) as error:
        raise UserError(f"--shard-size {shard_size!r}: {error}. Give a number with its unit, such as 5GB") from error
    return files


def _convert(source: Path, target: Path, to: str, shard_size: str, place: str) -> None:
    config, kind = _llama(source, place)
    if kind == to:
        raise UserError(f"{place}: is in the layout of {to} already")
    names = llada.llama_names(config.num_hidden_layers, config.tie_word_embeddings)
    if kind == "illada" and to == "llama":  # whose tensors have Llama's names
        names = {name: name for name in names.values()}
    elif to == "llada":
        names = {llama: name for name, llama in names.items()}
    fields = llada.llada_fields(config, place) if to == "llada" else None
    shapes = _shapes(config, place)
    files = _files(source, place)
    sizes = _sizes(files, {name: shapes[names[name] if to == "llama" else name] for name in names}, place)
    with refused.told("write", str(target)):
        target.mkdir()
        if fields is None:
            config.architectures = ["LlamaForCausalLM"]
            config.save_pretrained(target)
        else:
            (target / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        _write(files, names, sizes, target, shard_size, place)


def _llama(source: Path, place: str) -> tuple["LlamaConfig", str]:
    """The source as a Llama, which both layouts hold, and the model type that it says it is."""
    from transformers import LlamaConfig

    fields = read_json(source / "config.json", place)
    kind = str(fields.get("model_type"))
    config = inspected(str(source), place, trust_remote_code=False).config
    if kind == "llama":
        with understood(place, "config.json"):
            config = LlamaConfig.from_dict(fields)
    if not isinstance(config, LlamaConfig):
        raise UserError(
            f"{place}: a {kind} model has one layout, which is transformers' own or next to it; only LLaDA, iLLaDA and "
            "Llama are converted. Use it as it is"
        )
    return config, kind


def _shapes(config: "LlamaConfig", place: str) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a Llama, by its name."""
    from transformers import LlamaForCausalLM

    with understood(place, "config.json"), torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).named_parameters()}


def _files(source: Path, place: str) -> dict[str, Path]:
    """Where each tensor lies."""
    if (places := weight_map(source, place)) is not None:
        return {name: source / file for name, file in places.items()}
    file = source / "model.safetensors"
    with _opened(file, place) as tensors:
        return dict.fromkeys(tensors.keys(), file)


def _write(
    files: dict[str, Path], names: dict[str, str], sizes: dict[str, int], target: Path, shard_size: str, place: str
) -> None:
    """Write the tensors of `files` under their new `names`, in as many files as their sizes ask for."""
    split = _split({names[name]: size for name, size in sizes.items()}, shard_size)
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
        (target / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _split(sizes: dict[str, int], shard_size: str) -> StateDictSplit:
    """Which tensor goes into which file. Raises ValueError for a `shard_size` that is none."""
    return split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )


def _sizes(files: dict[str, Path], shapes: dict[str, tuple[int, ...]], place: str) -> dict[str, int]:
    """Bytes of each tensor, in the files' order; none is read. Raises UserError for others than `shapes` names."""
    if wrong := sorted(files.keys() ^ shapes.keys()):
        raise UserError(
            f"{place}: {len(wrong)} tensors are missing, or are not of the model in config.json, such as {wrong[0]}"
        )
    sizes = {}
    for file in dict.fromkeys(files.values()):
        with _opened(file, place) as tensors:
            for name in (name for name, where in files.items() if where == file):
                part = tensors.get_slice(name)
                kind, shape = part.get_dtype(), tuple(part.get_shape())
                if kind not in _BYTES:
                    raise UserError(f"{place}: {name} is of type {kind}; quantised models keep their layout")
                if shape != shapes[name]:
                    raise UserError(
                        f"{place}: {name} has shape {shape}, but by config.json {shapes[name]}. Use the config.json "
                        "that the weights came with"
                    )
                sizes[name] = math.prod(shape) * _BYTES[kind]
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


def _merge(source: Path, target: Path, shard_size: str, base: str | None) -> None:
    """Write the model that an adapter's folder and its base model are together, as `load_model` puts them together."""
    place = str(source)
    trained = read_json(source / "config.json", place)
    dtype, rows = trained.get("dtype") or trained.get("torch_dtype"), trained.get("vocab_size")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"{place}: dtype in config.json is {dtype!r}, expected float32 or bfloat16. Set one of them")
    if type(rows) is not int or rows < 1:
        raise UserError(
            f"{place}: vocab_size in config.json is {rows!r}, expected the number of tokens that the adapter was "
            "trained with. Set it"
        )
    adapters.check(source)
    path = base or adapters.base_model(source)
    if not path:
        raise UserError(f"{place}: base_model_name_or_path in adapter_config.json is missing. Name the model by --base")
    settings = {"kind": "pretrained", "path": path, "dtype": dtype, "adapter": {}}  # the folder says which adapter
    family: Literal["mdm", "arm"] = "mdm" if trained.get("is_causal") is False else "arm"
    try:
        loaded = load_model(ModelConfig.model_validate(settings), range(rows), family, source)
    except refused.StorageError:
        raise
    except UserError as error:
        said = f"--base {base}" if base else f"{path} (base_model_name_or_path in adapter_config.json; or name --base)"
        raise UserError(f"{place}: cannot be merged with its base model {said}: {error}") from error
    adapters.merge(loaded)
    with refused.told("write", str(target)):
        loaded.save_pretrained(target, max_shard_size=shard_size)

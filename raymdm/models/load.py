"""Any transformers causal LM as it is (ARM) or with bidirectional attention (MDM), and a tiny one from scratch.

transformers' model code takes seconds to import, so it is imported inside the functions that need it.
"""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models import adapters, pretrained
from raymdm.models.checks import (
    GPU_ONLY,
    assert_bidirectional,
    assert_causal,
    check_head,
    check_interface,
    check_mask,
    vocabulary_size,
)
from raymdm.storage import fetched, refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Family = Literal["mdm", "arm"]

_MAX_POSITIONS = 32768


def load_model(
    model: ModelConfig,
    tokenizer: Sized,
    family: Family,
    weights: Path | None = None,
    device: torch.device | None = None,
) -> "PreTrainedModel":
    """The model in evaluation mode, checked to be causal (`arm`) or bidirectional (`mdm`).

    On the CPU without a device, except that attention which only runs on a GPU is checked, and left, there. A tiny
    model's initial weights and an adapter's first updates depend on `model.init_seed` alone; the CPU's random state
    stays as it is. An added embedding row is the mean of those before it.

    An `mdm`'s config says `right_shift_logits`: whether the hidden state before a token predicts it. Dream's does; so
    can an autoregressive model that is adapted, by `model.right_shift_logits: true`, to begin from what it can. A model
    that attends through a window keeps it, and looks through it to both sides.

    Args:
        model: what to load. Checkpoints of LLaDA, iLLaDA and Dream need none of the code that they ship.
        tokenizer: its length is a tiny model's vocabulary; a pretrained model with fewer embeddings gets more, an `arm`
            none for a mask token that comes last: it never meets it.
        family: attention to the past (`arm`, the model as it is) or to the whole sequence (`mdm`).
        weights: a folder that `save_model` wrote, loaded in place of the initial or pretrained weights, or on top of
            them if `model.adapter` is set.
        device: where the model goes, and is checked. A whole pretrained model goes there tensor by tensor, so that host
            memory never holds it.

    Raises:
        UserError: the path does not exist or holds no safetensors, the weights do not fit the tokenizer, or the
            architecture is unknown or cannot do what the family needs.
        StorageError: `weights` are there and storage does not let them be read.
    """
    if model.attn_implementation in GPU_ONLY and not torch.cuda.is_available():
        raise UserError(
            f"model.attn_implementation: {model.attn_implementation} needs a GPU and there is none here; use sdpa"
        )
    _check_adapter(model, weights)
    if device is None and model.attn_implementation in GPU_ONLY:
        device = torch.device("cuda")
    with _own_random_state(model.init_seed):
        loaded = _load(model, tokenizer, family, weights, device)
        _adapt(loaded, model, tokenizer, family, weights)
    loaded.eval()
    if device is not None:
        cast(nn.Module, loaded).to(device)
    check_interface(loaded)
    _become(loaded, model, tokenizer, family, weights)
    if weights is None:  # a run's start has asked; weights that a run drove to saturation can no longer answer
        (assert_bidirectional if family == "mdm" else assert_causal)(loaded)
    check_head(loaded)
    return loaded


def skeleton(model: ModelConfig, tokenizer: Sized, family: Family, weights: Path | None = None) -> "PreTrainedModel":
    """What `load_model` gives, on the meta device: the same parameters and settings without the numbers.

    Nothing is checked that needs numbers. Raises UserError and StorageError as `load_model` does otherwise.
    """
    _check_adapter(model, weights)
    with torch.device("meta"), _own_random_state(model.init_seed):
        if model.kind == "tiny" and weights is None:
            built = _tiny(model, len(tokenizer))
        else:
            path, field = _source(model, weights)
            built = pretrained.empty(model, path, field)
            _check_size(built, tokenizer, family, path, field)
        _adapt(built, model, tokenizer, family, weights)
    built.eval()
    _become(built, model, tokenizer, family, weights)
    return built


def save_model(model: "PreTrainedModel", folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write `model.safetensors` and `config.json`; `load_model(..., weights=folder)` gives the very same logits.

    Of a model with an adapter its updates alone are written, as `raymdm.models.adapters.save` says.

    weights: a copy of the model's state dict, or of an adapter's `trainable_state`, to write in its place; it is
        emptied.
    """
    if adapters.is_attached(model):
        adapters.save(model, folder, weights)
    else:
        model.save_pretrained(folder, state_dict=weights, max_shard_size="100TB")  # one file, whatever its size


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    # torch.manual_seed would also seed the GPUs, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _check_adapter(model: ModelConfig, weights: Path | None) -> None:
    """Raise UserError if weights are updates of a model and the recipe asks for none, or the other way round."""
    if weights is None:
        return
    with refused.told("read", str(weights)):
        if not weights.is_dir():
            return  # which `pretrained.read` tells
        updates = adapters.is_adapter_folder(weights)
    if updates and not model.adapter:
        raise UserError(f"weights {str(weights)!r}: they are an adapter's updates. Set model.adapter as in their run")
    if model.adapter and not updates:
        raise UserError(
            f"weights {str(weights)!r}: model.adapter is set, but they are a whole model. Remove model.adapter"
        )
    if updates:
        adapters.check(weights)


def _source(model: ModelConfig, weights: Path | None) -> tuple[str, str]:
    """Where a model's files lie, and the field that says so; an adapter's base is the recipe's model."""
    if weights is not None and not model.adapter:
        return str(weights), "weights"
    path = cast(str, model.path)
    return (str(_folder(path)) if "://" in path else path), "model.path"


def _load(
    model: ModelConfig, tokenizer: Sized, family: Family, weights: Path | None, device: torch.device | None
) -> "PreTrainedModel":
    if model.kind == "tiny" and weights is None:
        return _tiny(model, len(tokenizer))
    path, field = _source(model, weights)
    # an adapter's first updates are drawn on the CPU, where their seed counts
    loaded = pretrained.read(model, path, field, None if model.adapter else device)
    _check_size(loaded, tokenizer, family, path, field)
    return loaded


def _check_size(loaded: "PreTrainedModel", tokenizer: Sized, family: Family, path: str, field: str) -> None:
    """Raise UserError if trained weights are of the other family or have fewer tokens than the tokenizer."""
    if field != "weights":
        return
    _check_family(family, [loaded.config], Path(path))
    if vocabulary_size(loaded) < _needed(tokenizer, family):
        raise UserError(
            f"weights {path!r}: the model has {vocabulary_size(loaded)} tokens, the tokenizer {len(tokenizer)}. Use "
            "the prepared data that this model was trained on"
        )


def _adapt(
    model: "PreTrainedModel", settings: ModelConfig, tokenizer: Sized, family: Family, weights: Path | None
) -> None:
    """Add embeddings for tokens without, and an adapter where the recipe has one."""
    new = _fit(model, tokenizer, family)
    if not settings.adapter:
        return
    if weights is None:
        adapters.attach(model, settings.adapter, cast(str, settings.path), new)
        return
    _check_family(family, [_trained(model, settings, weights)], weights)
    known, rows = adapters.trained_config(weights).get("vocab_size"), vocabulary_size(model)
    if known not in (None, rows):
        raise UserError(
            f"weights {str(weights)!r}: they were trained with {known!r} tokens (vocab_size in config.json), but "
            f"model.path {settings.path!r} and the tokenizer make {rows}. Use the model and the prepared data of their "
            "run"
        )
    adapters.load(model, weights)


def _needed(tokenizer: Sized, family: Family) -> int:
    """Embeddings that a model of the tokenizer has at least: an `arm` never meets a mask token that comes last."""
    size = len(tokenizer)
    return size - (family == "arm" and getattr(tokenizer, "mask_token_id", None) == size - 1)


def _fit(model: "PreTrainedModel", tokenizer: Sized, family: Family) -> list[int]:
    """Add embeddings for tokens without; returns the ids that the model was not trained with."""
    rows, needed = vocabulary_size(model), _needed(tokenizer, family)
    if rows < needed:
        _add_rows(model, rows, needed)
    new = set(range(rows, needed))
    mask = getattr(tokenizer, "mask_token_id", None)
    if family == "arm":
        new.discard(cast(int, mask))  # which it never meets
    elif mask is not None and mask != getattr(model.config, "mask_token_id", None):
        new.add(mask)
    return sorted(new)


def _add_rows(model: "PreTrainedModel", rows: int, needed: int) -> None:
    """More embeddings and outputs, each the mean of those that are there: a token that nobody has met yet.

    transformers would draw them around that mean, so close that little but rounding differs, and for it compute the
    covariance of all embeddings, which takes minutes on a CPU.
    """
    model.resize_token_embeddings(needed, mean_resizing=False)
    head = cast(nn.Linear, model.get_output_embeddings())
    parts = {id(part): part for part in (model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None))}
    with torch.no_grad():
        for part in parts.values():  # tied weights are one
            if part is not None:
                part[rows:] = cast(Tensor, part[:rows]).mean(0, dtype=torch.float32).to(part.dtype)


def _become(
    loaded: "PreTrainedModel", model: ModelConfig, tokenizer: Sized, family: Family, weights: Path | None
) -> None:
    """Make an `mdm` of what is loaded; its config says how, for those who use it and for who loads it again."""
    config, trained = loaded.config, _trained(loaded, model, weights)
    if weights is not None:
        _check_family(family, [config, trained] if family == "arm" else [trained], weights)
    if family == "arm":
        return
    config.is_causal = False  # read where transformers builds masks, and handed on to most models' attention
    for module in cast(nn.Module, loaded).modules():
        # Some attention modules (StableLM's) hand nothing on: without a mask, sdpa and FlashAttention ask the module.
        if hasattr(module, "is_causal"):
            cast(Any, module).is_causal = False
    known = trained or config
    shifted = bool(getattr(known, "right_shift_logits", False))
    if weights is not None and trained and model.right_shift_logits not in (None, shifted):
        raise UserError(
            f"model.right_shift_logits: {model.right_shift_logits}, but weights {str(weights)!r} were trained with "
            f"{shifted}. Use the recipe of their run"
        )
    config.right_shift_logits = shifted if model.right_shift_logits is None else model.right_shift_logits
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is not None:
        check_mask(known, mask, model.tokenizer.mask_token)
    elif (mask := getattr(known, "mask_token_id", None)) is None:
        return
    config.mask_token_id = mask


def _trained(loaded: "PreTrainedModel", model: ModelConfig, weights: Path | None) -> Any:
    """The configuration of `weights`, or of the model without; None for updates that come without a config.json."""
    if weights is None or not model.adapter:
        return loaded.config
    return SimpleNamespace(**fields) if (fields := adapters.trained_config(weights)) else None


def _check_family(family: Family, configs: list[Any], weights: Path) -> None:
    """Raise UserError for trained weights of the other family."""
    for config in filter(None, configs):
        if (getattr(config, "is_causal", True) is False) == (family == "arm"):
            trained, other = ("a bidirectional", "mdm") if family == "arm" else ("a causal", "arm")
            raise UserError(
                f"weights {str(weights)!r}: {trained} model (is_causal in config.json), which an {family} is not. Name "
                f"a method of family {other}, or weights of an {family}"
            )


def _folder(address: str) -> Path:
    """A model on storage, as a folder of this node."""
    try:
        return fetched(address)
    except FileNotFoundError:
        raise UserError(f"model.path {address!r}: there is nothing. Give a folder with a model's files") from None


def _tiny(model: ModelConfig, vocabulary: int) -> "PreTrainedModel":
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        max_position_embeddings=_MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,  # the defaults, 1 and 2, would be ordinary tokens of a small vocabulary
        eos_token_id=None,
        dtype=model.dtype,
    )
    network = LlamaForCausalLM(config)
    network.set_attn_implementation(model.attn_implementation)
    # Drawn in float32, then rounded: one initialisation for every dtype. Parameters alone, as from_pretrained has it:
    # rotary frequencies in bf16 would be another model.
    for parameter in network.parameters():
        parameter.data = parameter.data.to(config.dtype)
    return network

"""Any transformers causal LM as it is (ARM) or with bidirectional attention (MDM), and a tiny one from scratch.

transformers' model code takes seconds to import, so it is imported inside the functions that need it.
"""

import errno
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.models.checks import assert_bidirectional, assert_causal, check_head, check_interface, vocabulary_size
from raymdm.storage import fetched, refused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GPU_ONLY = ("flex_attention", "flash_attention_2")
_MAX_POSITIONS = 32768


def load_model(
    model: ModelConfig, tokenizer: Sized, family: Literal["mdm", "arm"], weights: Path | None = None
) -> "PreTrainedModel":
    """The model in evaluation mode, checked to be causal (`arm`) or bidirectional (`mdm`).

    On the CPU, except that attention which only runs on a GPU is checked, and left, there. A tiny model's initial
    weights and added embedding rows depend on `model.init_seed` alone; the global random state stays as it is.

    Args:
        model: what to load.
        tokenizer: its length is a tiny model's vocabulary; a pretrained model with fewer embeddings gets more.
        family: attention to the past (`arm`, the model as it is) or to the whole sequence (`mdm`).
        weights: a folder that `save_model` wrote, loaded in place of the initial or pretrained weights.

    Raises:
        UserError: the path does not exist or holds no safetensors, the weights do not fit the tokenizer, or the
            architecture cannot do what the family needs.
        StorageError: `weights` are there and storage does not let them be read.
    """
    if model.attn_implementation in _GPU_ONLY and not torch.cuda.is_available():
        raise UserError(
            f"model.attn_implementation: {model.attn_implementation} needs a GPU and there is none here; use sdpa"
        )
    with _own_random_state(model.init_seed):
        loaded = _load(model, len(tokenizer), weights)
    loaded.eval()
    if model.attn_implementation in _GPU_ONLY:
        cast(nn.Module, loaded).to("cuda")
    check_interface(loaded)
    if family == "mdm":
        _make_bidirectional(loaded)
    if weights is None:  # a run's start has asked; weights that a run drove to saturation can no longer answer
        (assert_bidirectional if family == "mdm" else assert_causal)(loaded)
    check_head(loaded)
    return loaded


def save_model(model: "PreTrainedModel", folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write `model.safetensors` and `config.json`; `load_model(..., weights=folder)` gives the very same logits.

    weights: a copy of the model's state dict to write in its place; it is emptied.
    """
    model.save_pretrained(folder, state_dict=weights, max_shard_size="100TB")  # one file, whatever its size


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    # torch.manual_seed would also seed the GPUs, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _load(model: ModelConfig, vocabulary: int, weights: Path | None) -> "PreTrainedModel":
    if weights is not None:
        loaded = _from_pretrained(model, str(weights), "weights")
        if vocabulary_size(loaded) < vocabulary:
            raise UserError(
                f"weights {str(weights)!r}: the model has {vocabulary_size(loaded)} tokens, the "
                f"tokenizer {vocabulary}. Use the prepared data that this model was trained on"
            )
        return loaded
    if model.kind == "tiny":
        return _tiny(model, vocabulary)
    path = cast(str, model.path)
    loaded = _from_pretrained(model, str(_folder(path)) if "://" in path else path, "model.path")
    if vocabulary_size(loaded) < vocabulary:
        loaded.resize_token_embeddings(vocabulary)
    return loaded


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


def _loader(model: ModelConfig) -> Any:
    if model.kind == "tiny":  # spares the import of the table of all architectures
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _from_pretrained(model: ModelConfig, path: str, field: str) -> "PreTrainedModel":
    is_folder = field == "weights" or Path(path).is_absolute() or path.startswith(".")  # or a name on a hub
    if is_folder and not Path(path).is_dir():
        raise UserError(f"{field} {path!r}: no such folder. Give a folder with config.json and model.safetensors")
    try:
        loaded, info = _loader(model).from_pretrained(
            path,
            attn_implementation=model.attn_implementation,
            dtype=getattr(torch, model.dtype),
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        if field == "weights":
            _raise_refusal(error, path)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{field} {path!r}: cannot be loaded as a causal language model from safetensors: {reason}"
        ) from error
    if info["missing_keys"]:
        # transformers would initialise these at random and go on.
        raise UserError(f"{field} {path!r}: weights are missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    from transformers import GenerationConfig

    # Sampling settings of the repository: never used here, and contradictory ones could not be saved again.
    loaded.generation_config = GenerationConfig.from_model_config(loaded.config)
    return loaded


def _raise_refusal(error: Exception, path: str) -> None:
    """Raise StorageError if the operating system refused to read what is there: that says nothing of the weights."""
    refusal = refused.refusal(error)
    if refusal is None and isinstance(error, FileNotFoundError) and (Path(path) / "model.safetensors").exists():
        refusal = OSError(errno.EIO, "")  # safetensors takes any refusal to open a file for its absence
    if refusal is not None and refusal.errno != errno.ENOENT:
        with refused.told("read", path):
            raise refusal from error


def _make_bidirectional(model: "PreTrainedModel") -> None:
    model.config.is_causal = False  # read where transformers builds masks, and handed on to most models' attention
    for module in model.modules():
        # Some attention modules (StableLM's) hand nothing on: without a mask, sdpa and FlashAttention ask the module.
        if hasattr(module, "is_causal"):
            cast(Any, module).is_causal = False

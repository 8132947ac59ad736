"""Which of transformers' architectures a checkpoint is, where its config.json names one that transformers lacks.

Masked diffusion checkpoints ship code of their own for architectures that transformers has, but for the causal mask.
That code is never run: LLaDA and iLLaDA are Llamas, Dream is a Qwen2. `is_causal: false` in their config makes
transformers leave the mask out.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raymdm.errors import UserError
from raymdm.models import llada
from raymdm.models.files import as_object, read_json, understood

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OURS = ("LLaDAModelLM", "ILLaDAForCausalLM", "DreamModel")
"""Architectures beside transformers' own."""


class Checkpoint(NamedTuple):
    """How transformers is to load a checkpoint; the defaults: by itself."""

    config: "PreTrainedConfig | None" = None
    """In place of config.json."""
    names: dict[str, str] | None = None
    """transformers' name for each pattern (regular expression) of a tensor's name in the files."""


def inspected(path: str, place: str, trust_remote_code: bool) -> Checkpoint:
    """What a folder's, or hub repository's, config.json says of its weights; runs none of its code.

    `place` names the checkpoint in messages. Raises OSError without a config.json, UserError for an architecture that
    is not supported, and for one that only code in the repository describes unless `trust_remote_code`.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    fields = _fields(path, place)
    kind = fields.get("model_type")
    with understood(place, "config.json"):
        if kind == "llada":
            config = llada.llama_config(fields, place)
            names = llada.llama_names(config.num_hidden_layers, config.tie_word_embeddings)
            return Checkpoint(config, {re.escape(old): new for old, new in names.items()})
        if kind == "illada":
            return Checkpoint(_illada(fields, place))
        if kind == "Dream":
            return Checkpoint(_dream(fields, place))
    if kind is None or kind in CONFIG_MAPPING or (trust_remote_code and fields.get("auto_map")):
        return Checkpoint()
    raise UserError(
        f"{place}: model_type {kind!r} is not known to transformers, nor one of {', '.join(OURS)}. Choose another "
        "model"
        + (
            ", or read the code that the repository ships and set model.trust_remote_code: true"
            if fields.get("auto_map")
            else ""
        )
    )


def _fields(path: str, place: str) -> dict[str, Any]:
    """config.json, with what every architecture's must be."""
    from transformers import PreTrainedConfig

    file = Path(path) / "config.json"
    if file.is_file():
        fields = read_json(file, place)
    else:  # of a hub, or what transformers itself can tell
        with understood(place, "config.json"):
            fields = as_object(PreTrainedConfig.get_config_dict(path)[0], place, "config.json")
    wrong = []
    if not isinstance(fields.get("model_type"), str | None):
        wrong.append(f"model_type: {fields['model_type']!r} (expected a text)")
    built = fields.get("architectures")
    if built is not None and not (isinstance(built, list) and all(isinstance(name, str) for name in built)):
        wrong.append(f"architectures: {built!r} (expected a list of names)")
    mask = fields.get("mask_token_id")
    if mask is not None and (type(mask) is not int or mask < 0):
        wrong.append(f"mask_token_id: {mask!r} (expected a token's id)")
    if wrong:
        raise UserError(f"{place}: config.json is wrong: {'; '.join(wrong)}. Use the one that the checkpoint came with")
    return fields


def _illada(fields: dict[str, Any], place: str) -> "PreTrainedConfig":
    """iLLaDA: a Llama by its tensors' names too, with tied embeddings; only the config.json needs other words."""
    from transformers import LlamaConfig

    _check(fields, place, "ILLaDAForCausalLM", {"layer_norm_eps": None, "hidden_act": "silu"})
    if dropouts := [name for name, value in fields.items() if name.endswith("_pdrop") and value]:
        raise UserError(f"{place}: config.json asks for {', '.join(dropouts)}, which is not supported. Set it to 0")
    return LlamaConfig.from_dict({"mask_token_id": 5, **_without_code(fields), "is_causal": False})


def _dream(fields: dict[str, Any], place: str) -> "PreTrainedConfig":
    """Dream: a Qwen2 that goes on predicting a token from the position before it, now without the causal mask."""
    from transformers import Qwen2Config

    _check(fields, place, "DreamModel", {"hidden_act": "silu"})
    return Qwen2Config.from_dict({**_without_code(fields), "is_causal": False, "right_shift_logits": True})


def _check(fields: dict[str, Any], place: str, architecture: str, expected: dict[str, Any]) -> None:
    if (built := fields.get("architectures") or [architecture]) != [architecture]:
        raise UserError(
            f"{place}: config.json says model_type {fields['model_type']}, but architecture {', '.join(built)} is not "
            f"{architecture}, which alone is known here"
        )
    other = [f"{name}: {fields[name]!r}" for name, value in expected.items() if fields.get(name, value) != value]
    if other:
        raise UserError(f"{place}: config.json describes a {architecture} that is not supported: {'; '.join(other)}")


def _without_code(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ("model_type", "architectures", "auto_map")}

"""LLaDA's checkpoints are Llamas under other names: which fields and tensors correspond, and what is refused.

LLaDA (GSAI-ML/LLaDA-8B-Base and -Instruct, LLaDA 1.5) ships code of its own, in OLMo's style. Its `llama` block is
transformers' Llama without the causal mask: RMSNorm in float32 times a weight in the model's type, rotary embeddings
that pair dimension i with i + d/2 (as `rotate_half` does), SwiGLU with `ff_proj` as the gate that silu takes and
`up_proj` as the factor, no biases. One difference is left: LLaDA rotates queries and keys in float32
(`rope_full_precision`), Llama in the type of its hidden states. With float32 parameters nothing differs.
"""

from typing import TYPE_CHECKING, Any

from raymdm.errors import UserError

if TYPE_CHECKING:
    from transformers import LlamaConfig

SOURCE = "source_config"
"""Field of a Llama's config.json that keeps the LLaDA config.json it came from."""

_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}

# What a Llama computes. The first value is what LLaDA-8B's config.json says; None stands for a field that is absent,
# where LLaDA's own default is the same. Without None the field must be there: its default is another architecture.
_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "rope": (True,),
    "include_bias": (False,),
    "attention_dropout": (0.0,),
    "embedding_dropout": (0.0,),
    "residual_dropout": (0.0,),
    "block_group_size": (1, None),
    "alibi": (False, None),
    "attention_layer_norm": (False, None),
    "bias_for_layer_norm": (False, None),
    "clip_qkv": (None,),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False, None),
    "layer_norm_with_affine": (True, None),
    "multi_query_attention": (None, False),
    "rope_full_precision": (True, None),
    "scale_logits": (False, None),
}
_WHOLE = ("d_model", "n_layers", "n_heads", "max_sequence_length", "n_kv_heads", "mlp_hidden_size", "mlp_ratio",
          "embedding_size", "vocab_size")  # fmt: skip
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
_TYPES = ("float32", "bfloat16", "float16", "float64")
_NUMBERS = ("d_model", "n_layers", "n_heads", "max_sequence_length", "rope_theta", "rms_norm_eps", "weight_tying")

# The rest of LLaDA-8B's config.json, for a Llama that never was a LLaDA checkpoint. The code is its authors'.
_DEFAULTS: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "alibi_bias_max": 8.0,
    "attention_layer_norm_with_affine": True,
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "mlp_ratio": 4,
    "precision": "amp_bf16",
    "use_cache": False,
}
_AUTO_MAP = {
    "AutoConfig": "GSAI-ML/LLaDA-8B-Base--configuration_llada.LLaDAConfig",
    "AutoModel": "GSAI-ML/LLaDA-8B-Base--modeling_llada.LLaDAModelLM",
    "AutoModelForCausalLM": "GSAI-ML/LLaDA-8B-Base--modeling_llada.LLaDAModelLM",
}


def llama_names(layers: int, tied: bool) -> dict[str, str]:
    """Llama's name of every tensor of a LLaDA checkpoint; `tied`: the output layer is the embedding."""
    names = {"model.transformer.wte": "model.embed_tokens", "model.transformer.ln_f": "model.norm"}
    if not tied:
        names["model.transformer.ff_out"] = "lm_head"
    for layer in range(layers):
        for llada, llama in _LAYER.items():
            names[f"model.transformer.blocks.{layer}.{llada}"] = f"model.layers.{layer}.{llama}"
    return {f"{llada}.weight": f"{llama}.weight" for llada, llama in names.items()}


def llama_config(fields: dict[str, Any], place: str) -> "LlamaConfig":
    """The Llama that a LLaDA config.json describes; the file's fields are kept in `source_config`.

    Args:
        fields: what config.json says.
        place: names the checkpoint in messages.

    Raises:
        UserError: another model's config.json that calls itself llada (LLaDA-MoE), a field that is missing, or one
            that asks for what a Llama does not compute.
    """
    from transformers import LlamaConfig

    _check(fields, place)
    heads = fields["n_heads"]
    return LlamaConfig(
        vocab_size=fields.get("embedding_size") or fields["vocab_size"],
        hidden_size=fields["d_model"],
        intermediate_size=fields.get("mlp_hidden_size") or fields.get("mlp_ratio", 4) * fields["d_model"],
        num_hidden_layers=fields["n_layers"],
        num_attention_heads=heads,
        num_key_value_heads=fields.get("n_kv_heads") or heads,
        max_position_embeddings=fields["max_sequence_length"],
        rms_norm_eps=fields["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": float(fields["rope_theta"])},
        tie_word_embeddings=fields["weight_tying"],
        bos_token_id=fields.get("bos_token_id"),
        eos_token_id=fields.get("eos_token_id"),
        pad_token_id=fields.get("pad_token_id"),
        mask_token_id=fields.get("mask_token_id"),
        dtype=fields.get("dtype") or fields.get("torch_dtype"),
        is_causal=False,
        **{SOURCE: fields},
    )


def llada_fields(config: "LlamaConfig", place: str) -> dict[str, Any]:
    """The LLaDA config.json of a Llama: the one it came from where it kept that, LLaDA-8B's other fields where not.

    The sizes, token ids and type are the Llama's own. Raises UserError for what LLaDA's code does not compute.
    """
    _check_llama(config, place)
    implemented = {name: values[0] for name, values in _IMPLEMENTED.items() if values != (None,)}
    return {
        **(getattr(config, SOURCE, None) or {**_DEFAULTS, **implemented, "vocab_size": config.vocab_size}),
        "auto_map": _AUTO_MAP,  # with a repository's name: the code lies there, not beside the weights
        "d_model": config.hidden_size,
        "embedding_size": config.vocab_size,
        "mlp_hidden_size": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "max_sequence_length": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_parameters["rope_theta"],
        "weight_tying": config.tie_word_embeddings,
        **({"torch_dtype": str(config.dtype).removeprefix("torch.")} if config.dtype else {}),
        **{name: value for name in _TOKENS if (value := getattr(config, name, None)) is not None},
    }


def _check(fields: dict[str, Any], place: str) -> None:
    built = fields.get("architectures") or ["LLaDAModelLM"]
    if built != ["LLaDAModelLM"] or "d_model" not in fields:
        raise UserError(
            f"{place}: config.json says model_type llada, but architecture {', '.join(built)} is not the LLaDAModelLM "
            "of LLaDA-8B and LLaDA 1.5, which alone is known here. Use one of those"
        )
    missing = [name for name in _NUMBERS if fields.get(name) is None]
    if not fields.get("embedding_size") and not fields.get("vocab_size"):
        missing.append("vocab_size")
    if missing:
        raise UserError(f"{place}: config.json lacks {', '.join(missing)}. Use the one that the checkpoint came with")
    if wrong := _wrong(fields):
        raise UserError(f"{place}: config.json is wrong: {'; '.join(wrong)}. Use the one that the checkpoint came with")
    other = [
        f"{name}: {fields.get(name)!r} (expected {values[0]!r})"
        for name, values in _IMPLEMENTED.items()
        if fields.get(name) not in values
    ]
    if other:
        raise UserError(f"{place}: config.json describes a LLaDA that is not supported: {'; '.join(other)}")


def _wrong(fields: dict[str, Any]) -> list[str]:
    """Fields that are no sizes, tokens or types, with what was expected."""
    expected = [
        (name, type(value := fields.get(name)) is int and value > 0, "a whole number above 0") for name in _WHOLE
    ]
    expected += [(name, type(value := fields.get(name)) is int and value >= 0, "a token's id") for name in _TOKENS]
    for name in ("rope_theta", "rms_norm_eps"):
        expected.append((name, type(value := fields[name]) in (int, float) and value > 0, "a number above 0"))
    expected.append(("weight_tying", type(fields["weight_tying"]) is bool, "true or false"))
    expected += [(name, fields.get(name) in _TYPES, f"one of {', '.join(_TYPES)}") for name in ("dtype", "torch_dtype")]
    wrong = [(name, what) for name, right, what in expected if not right and fields.get(name) is not None]
    if not wrong:
        heads = fields["n_heads"]
        if fields["d_model"] % (2 * heads):
            wrong.append(("n_heads", f"a number by which half of d_model {fields['d_model']} can be divided"))
        if heads % (fields.get("n_kv_heads") or heads):
            wrong.append(("n_kv_heads", f"a divisor of n_heads {heads}"))
    return [f"{name}: {fields[name]!r} (expected {what})" for name, what in wrong]


def _check_llama(config: "LlamaConfig", place: str) -> None:
    expected = {
        "is_causal": False,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "right_shift_logits": False,
    }
    other = [
        f"{name}: {found!r} (expected {value!r})"
        for name, value in expected.items()
        if (found := getattr(config, name, name == "is_causal" or value)) != value
    ]
    if config.rope_parameters.get("rope_type") != "default":
        other.append(f"rope_type: {config.rope_parameters.get('rope_type')!r} (expected 'default')")
    if other:
        raise UserError(f"{place}: LLaDA's code cannot compute this model: {'; '.join(other)}. Leave it a Llama")

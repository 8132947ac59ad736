"""LLaDA's network as its authors describe it, written anew: nothing of transformers, nothing of raymdm.

Shape legend: R rows, L tokens a row, D width, N heads, K heads of keys and values, H = D / N width of a head.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0, "attention_layer_norm": False, "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM",
                 "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama", "d_model": 32,
    "embedding_dropout": 0.0, "embedding_size": 40, "eos_token_id": 3, "flash_attention": False,
    "include_bias": False, "include_qkv_bias": False, "init_cutoff_factor": None, "init_device": "meta",
    "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": False, "layer_norm_type": "rms",
    "layer_norm_with_affine": True, "mask_token_id": 7, "max_sequence_length": 64, "mlp_hidden_size": 48,
    "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": None, "n_heads": 4, "n_kv_heads": 4,
    "n_layers": 2, "pad_token_id": 3, "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05,
    "rope": True, "rope_full_precision": True, "rope_theta": 500000.0, "scale_logits": False,
    "transformers_version": "4.46.3", "use_cache": False, "vocab_size": 40, "weight_tying": False,
}  # fmt: skip
"""LLaDA-8B's config.json with small sizes."""


def random_weights(config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A checkpoint's tensors by LLaDA's names."""
    d, f, n = config["d_model"], config["mlp_hidden_size"], config["embedding_size"]
    kv = d // config["n_heads"] * config["n_kv_heads"]
    layer = {"q_proj": (d, d), "k_proj": (kv, d), "v_proj": (kv, d), "attn_out": (d, d), "ff_proj": (f, d),
             "up_proj": (f, d), "ff_out": (d, f), "attn_norm": (d,), "ff_norm": (d,)}  # fmt: skip
    shapes = {"wte": (n, d), "ln_f": (d,)} | ({} if config["weight_tying"] else {"ff_out": (n, d)})
    shapes |= {f"blocks.{i}.{name}": shape for i in range(config["n_layers"]) for name, shape in layer.items()}
    draw = torch.Generator().manual_seed(seed)
    return {
        f"model.transformer.{name}.weight": (
            torch.randn(shape, generator=draw) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.2) + (len(shape) == 1)
        ).to(dtype)
        for name, shape in shapes.items()
    }


def write_llada(folder: Path, files: int = 1, dtype: torch.dtype = torch.float32, **fields: Any) -> dict[str, Any]:
    """A checkpoint in so many files, with an index if they are several; returns its config."""
    config = {**CONFIG, **fields}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = list(random_weights(config, dtype=dtype).items())
    each = math.ceil(len(tensors) / files)
    names = (
        ["model.safetensors"] if files == 1 else [f"model-{i + 1:05}-of-{files:05}.safetensors" for i in range(files)]
    )
    index = {}
    for i, name in enumerate(names):
        part = dict(tensors[i * each : (i + 1) * each])
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    if files > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return config


def reference_logits(config: dict[str, Any], weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits (R, L, V): every position sees every other."""
    w = {name.removeprefix("model.transformer.").removesuffix(".weight"): value for name, value in weights.items()}
    x = w["wte"][ids]
    for i in range(config["n_layers"]):
        block = {
            name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")
        }
        x = x + _attention(config, block, _norm(config, x, block["attn_norm"])) @ block["attn_out"].T
        h = _norm(config, x, block["ff_norm"])
        gate = h @ block["ff_proj"].T
        x = x + ((gate * torch.sigmoid(gate)) * (h @ block["up_proj"].T)) @ block["ff_out"].T
    x = _norm(config, x, w["ln_f"])
    return x @ (w["wte"] if config["weight_tying"] else w["ff_out"]).T


def _norm(config: dict[str, Any], x: Tensor, weight: Tensor) -> Tensor:
    """Mean square 1, in float32; then the weight in the type of x."""
    wide = x.float()
    return weight * (wide / (wide.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()).to(x.dtype)


def _attention(config: dict[str, Any], block: dict[str, Tensor], x: Tensor) -> Tensor:
    heads, groups = config["n_heads"], config["n_kv_heads"]
    q, k, v = (
        (x @ block[name].T).unflatten(-1, (number, -1)).transpose(1, 2)  # (R, heads, L, H)
        for name, number in (("q_proj", heads), ("k_proj", groups), ("v_proj", groups))
    )
    q, k = (_rotated(part.float(), config["rope_theta"]).to(x.dtype) for part in (q, k))
    out = torch.empty_like(q)
    for head in range(heads):
        group = head // (heads // groups)
        scores = (q[:, head] @ k[:, group].transpose(1, 2)).float() / math.sqrt(q.shape[-1])
        out[:, head] = scores.softmax(-1).to(x.dtype) @ v[:, group]
    return out.transpose(1, 2).flatten(2)


def _rotated(x: Tensor, theta: float) -> Tensor:
    """Dimensions i and i + H/2 of position p turned, as a plane, by p theta^(-2i/H)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half).double() / half)
    plane = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([plane.real, plane.imag], dim=-1).to(x.dtype)

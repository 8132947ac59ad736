"""Low-rank updates of frozen weights (LoRA, Hu et al. 2021) by peft: W x + (alpha / r) B A x.

peft's layers are put into the model, which stays a PreTrainedModel, with its decoder and its output layer. They are
saved as peft saves them: with the base model, `PeftModel.from_pretrained` loads the folder. peft takes seconds to
import, so it is imported inside the functions that need it.
"""

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raymdm.config.inputs import AdapterConfig
from raymdm.errors import UserError
from raymdm.models.files import read_bytes, read_json, understood
from raymdm.models.quantised import dense_weight, dequantise, import_bitsandbytes, is_quantised, plain_linear, quantise

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_USED = {
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora",
    "trainable_token_indices", "inference_mode", "init_lora_weights",
}  # fmt: skip
"""Fields of peft's that are carried out here, when updates are loaded and when they are merged."""
_WITHOUT_EFFECT = {"auto_mapping", "peft_version", "megatron_core", "qalora_group_size", "runtime_config"}
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "pissa", "olora")
"""Values of `init_lora_weights` from which the frozen weights can be told again."""
_NAME = "default"
"""peft's name for the only adapter of a model."""
_SIZES = ("num_embeddings", "in_features", "out_features")
"""What peft's wrapper of embeddings does not hand on."""


def attach(model: "PreTrainedModel", config: AdapterConfig, base: str, new_tokens: Sequence[int] = ()) -> None:
    """Freeze the model and add trainable float32 updates to its linear layers, which at first change nothing.

    A is drawn from torch's generator of the CPU, B is 0. With `qlora` the frozen linear layers are put into 4 bits
    before.

    Args:
        model: with embeddings for all tokens.
        config: rank, scale, dropout and layers.
        base: name, folder or address of the model, by which others find it again; a relative folder is made absolute.
        new_tokens: ids that the model was not trained with, such as an added [MASK]: their embeddings are trained too,
            as the rest of the model knows nothing of them.

    Raises:
        UserError: `target_modules` names a layer that the model does not have, or bitsandbytes is not installed.
    """
    targets = _linear_layers(model, config.target_modules)
    _before_peft()
    if config.kind == "qlora":
        quantise(model)
    from peft import LoraConfig

    lora = LoraConfig(
        r=config.r,
        lora_alpha=cast(int, config.alpha),
        lora_dropout=config.dropout,
        target_modules=targets,
        trainable_token_indices=sorted(new_tokens) or None,
        base_model_name_or_path=str(Path(base).absolute()) if Path(base).is_dir() else base,
        task_type="CAUSAL_LM",
    )
    _inject(model, lora)


def is_attached(model: nn.Module) -> bool:
    """Whether a model has updates of frozen weights."""
    return hasattr(model, "peft_config")


def is_adapter_folder(folder: Path) -> bool:
    """Whether `save` wrote the folder, or peft. Raises OSError where that cannot be told."""
    return (folder / _CONFIG).is_file()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; of a model without updates all."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model with updates, by the names of its parameters: not copies, but detached."""
    return {name: parameter.detach() for name, parameter in trainable(model).items()}


def save(model: "PreTrainedModel", folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write adapter_model.safetensors, adapter_config.json and config.json, the base model's own, into a folder.

    weights: a copy of `trainable_state(model)` to write in its place, whole tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(_lora(model))
    config.inference_mode = True
    config.target_modules = sorted(cast(Any, config.target_modules))  # a set has no order: files would differ
    config.save_pretrained(str(folder))
    model.config.save_pretrained(folder)
    state = trainable_state(model) if weights is None else weights
    tensors = {_file_key(name): tensor.cpu().contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})


def check(folder: Path) -> dict[str, Any]:
    """The settings of an adapter folder, before its model is read.

    Raises UserError for those that are wrong, or that mean more than low-rank updates and rows of new tokens, and
    StorageError.
    """
    _before_peft()
    from peft import LoraConfig

    fields = read_json(folder / _CONFIG, _place(folder))
    if fields.get("peft_type") != "LORA":
        raise UserError(f"{_place(folder)}: {_CONFIG} does not describe a LoRA adapter, the only kind supported")
    neutral = LoraConfig().to_dict()
    more = [
        f"{name}: {value!r}"
        for name, value in fields.items()
        if name not in _USED | _WITHOUT_EFFECT and value and value != neutral.get(name)
    ]
    if (start := fields.get("init_lora_weights")) not in _STARTS:
        more.append(f"init_lora_weights: {start!r}")
    if more:
        raise UserError(
            f"{_place(folder)}: {_CONFIG} asks for {', '.join(more)}, which is not supported. Merge the adapter with "
            "its base model by peft's merge_and_unload, and use the merged model"
        )
    if type(fields.get("r")) is not int or fields["r"] < 1:
        raise UserError(f"{_place(folder)}: r in {_CONFIG} is {fields.get('r')!r}, expected a whole number above 0")
    return fields


def load(model: "PreTrainedModel", folder: Path) -> None:
    """Give a base model the trainable updates that `save` wrote; with `qlora` its layers are put into 4 bits before.

    Args:
        model: the base model as `attach` got it, with embeddings for all tokens.
        folder: of a LoRA adapter of peft's with no more than raymdm trains.

    Raises:
        UserError: a file is missing or broken, or the updates are not this model's.
        StorageError: the files are there and storage does not let them be read.
    """
    _before_peft()
    lora, quantised, state = _read(folder)
    _check_tokens(lora, cast(nn.Embedding, model.get_input_embeddings()).num_embeddings, folder)
    if quantised and not is_quantised(model.config):
        quantise(model)
    with understood(_place(folder), f"{_CONFIG} with a {type(model).__name__}"):
        try:
            _inject(model, lora)
        except ValueError as error:
            raise UserError(f"{_place(folder)}: these updates are not of {type(model).__name__}: {error}") from error
    expected = {_file_key(name): parameter for name, parameter in trainable(model).items()}
    wrong = sorted(
        {*expected.keys() ^ state.keys()}
        | {key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape}
    )
    if wrong:
        raise UserError(
            f"weights {str(folder)!r}: these updates are not of this {type(model).__name__}: {len(wrong)} tensors are "
            f"missing, too many or of another shape, such as {wrong[0]}. Use the model that was trained: model.path"
        )
    with torch.no_grad():
        for key, parameter in expected.items():
            parameter.copy_(state[key])


def base_model(folder: Path) -> str:
    """Name, folder or address of the model that an adapter folder's updates are of; "" if it does not say.

    Raises UserError and StorageError.
    """
    base = read_json(folder / _CONFIG, _place(folder)).get("base_model_name_or_path") or ""
    if not isinstance(base, str):
        raise UserError(f"{_place(folder)}: base_model_name_or_path in {_CONFIG} is {base!r}, expected a text")
    return base


def trained_config(folder: Path) -> dict[str, Any]:
    """The config.json of the model whose updates lie in a folder; nothing where another program wrote none."""
    return read_json(folder / "config.json", _place(folder)) if (folder / "config.json").exists() else {}


def merge(model: "PreTrainedModel") -> None:
    """Add the updates to the weights, in place: a plain model again, with all its parameters trainable.

    4-bit weights get their original type back; sums are rounded to it once.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import TrainableTokensWrapper

    whole = cast(nn.Module, model)
    for name, layer in list(whole.named_modules()):
        if isinstance(layer, LoraLayer):
            whole.set_submodule(name, _updated(layer))
        elif isinstance(layer, TrainableTokensWrapper):
            rows: Any = layer.token_adapter
            weight = rows.base_layer.weight.data
            weight[rows.token_indices[_NAME]] = rows.trainable_tokens_delta[_NAME].data.to(weight)
            whole.set_submodule(name, rows.base_layer)
    dequantise(model)
    del cast(Any, model).peft_config
    whole.requires_grad_(True)


def _updated(layer: Any) -> nn.Linear:
    """W + (alpha / r) B A of one of peft's layers."""
    weight = dense_weight(layer.get_base_layer())
    a, b = (part[_NAME].weight.detach() for part in (layer.lora_A, layer.lora_B))
    return plain_linear(layer.get_base_layer(), (weight + layer.scaling[_NAME] * (b @ a)).to(weight.dtype))


def _linear_layers(model: "PreTrainedModel", wanted: Sequence[str] | str) -> list[str]:
    """Full names of the linear layers that get updates. Raises UserError for a name that none has."""
    head = model.get_output_embeddings()
    names = [
        name
        for name, layer in cast(nn.Module, model).named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    ]
    if not names:
        raise UserError(f"model.adapter: {type(model).__name__} has no linear layers (torch.nn.Linear) to update")
    if wanted == "all-linear":
        return names
    unknown = [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in names)]
    if unknown:
        known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise UserError(
            f"model.adapter.target_modules: {type(model).__name__} has no linear layer {', '.join(unknown)} to "
            f"update. Its linear layers are {known}"
        )
    return [name for name in names if any(f".{name}".endswith(f".{target}") for target in wanted)]


def _before_peft() -> None:
    if importlib.util.find_spec("bitsandbytes"):  # peft imports it wherever it is
        import_bitsandbytes()


def _inject(model: "PreTrainedModel", lora: "LoraConfig") -> None:
    from peft import inject_adapter_in_model
    from peft.utils.other import TrainableTokensWrapper

    lora.inference_mode = False
    cast(Any, model).is_loaded_in_4bit = is_quantised(model.config)  # where peft looks
    inject_adapter_in_model(lora, cast(nn.Module, model), _NAME)
    for parameter in trainable(cast(nn.Module, model)).values():
        parameter.data = parameter.data.float()  # of a bfloat16 model: small steps would be rounded away
    for layer in cast(nn.Module, model).modules():
        if isinstance(layer, TrainableTokensWrapper):  # of embeddings, and of an output layer tied to them
            base = layer.token_adapter.base_layer
            vars(layer).update({size: getattr(base, size) for size in _SIZES if hasattr(base, size)})


def _lora(model: "PreTrainedModel") -> "LoraConfig":
    return cast(Any, model).peft_config[_NAME]


def _file_key(name: str) -> str:
    """A parameter's name in peft's files, which have a PeftModel around the model and no name of the adapter."""
    return "base_model.model." + name.replace(f".{_NAME}", "")


def _read(folder: Path) -> tuple["LoraConfig", bool, dict[str, Tensor]]:
    """The adapter's settings, whether its base was in 4 bits, and its tensors."""
    from peft import LoraConfig

    fields = check(folder)
    with understood(_place(folder), _CONFIG):
        lora = LoraConfig(**{name: fields[name] for name in fields.keys() & _USED})
    try:
        state = safetensors.torch.load(read_bytes(folder / _WEIGHTS, _place(folder)))
    except SafetensorError as error:
        raise UserError(f"{_place(folder)}: {_WEIGHTS} is broken: {error}") from error
    return lora, trained_config(folder).get("base_quantization") == "nf4", state


def _check_tokens(lora: "LoraConfig", rows: int, folder: Path) -> None:
    """Raise UserError for rows of tokens that the model does not have."""
    indices = lora.trainable_token_indices or []
    groups = list(indices.values()) if isinstance(indices, dict) else [indices]
    beyond = [token for group in groups for token in group if type(token) is not int or not 0 <= token < rows]
    if beyond:
        raise UserError(
            f"{_place(folder)}: token {beyond[0]!r} was trained (trainable_token_indices in {_CONFIG}), but the model "
            f"has {rows} tokens. Use the prepared data, or tokenizer, of the run that trained it"
        )


def _place(folder: Path) -> str:
    return f"weights {str(folder)!r}"

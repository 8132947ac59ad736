"""The tokenizer of a run: a pretrained one, or a small one learnt from the training split."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.storage import fetched

PAD, EOS, MASK = "[PAD]", "[EOS]", "[MASK]"
SPECIAL_TOKENS = [PAD, EOS, MASK]

# Masked diffusion checkpoints that have a mask token but may not declare it: LLaDA, Dream and LLaDA-MoE, iLLaDA.
_MASKS_IN_USE = ("<|mdm_mask|>", "<|mask|>", "<[MASK]>", MASK)
_FILES = ("tokenizer.*", "vocab*", "*.model", "*.tiktoken")
"""What a tokenizer's vocabulary is called in a folder."""
_MASK_IDS: dict[str | None, int] = {"illada": 5}
"""Mask token of a model type whose config.json does not say."""

# Ends of a document or of a turn, beside a tokenizer's own: LLaDA-Instruct and Llama 3 end turns with <|eot_id|>, Qwen
# and Dream with <|im_end|>, LLaDA-MoE with <|role_end|>.
_ENDS = ("<|eot_id|>", "<|im_end|>", "<|role_end|>", "<|endoftext|>", "<|end_of_text|>")


def load_tokenizer(model: ModelConfig, texts: Iterable[str] | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, with pad, end-of-sequence and mask tokens.

    `texts` are the training split's prompts and responses: `bpe` and `chars` learn from them, `pretrained` ignores
    them. The mask token is the recipe's `model.tokenizer.mask_token`, or else the tokenizer's own, or that of the
    model's config.json (`mask_token_id`), or one of a known name, or a new `[MASK]`. A tokenizer without a pad token
    pads with its end-of-sequence token, since the attention mask alone says what is padding. Code that a repository
    ships is run only with `model.trust_remote_code`.

    Raises:
        UserError: it can't be loaded or learnt, or it is not clear which token masks.
    """
    if model.tokenizer.kind == "pretrained":
        return _pretrained(model)
    assert texts is not None, f"tokenizer kind {model.tokenizer.kind!r} is learnt from texts"
    if model.tokenizer.kind == "bpe":
        check_learnt(model)
        return _wrap(_byte_level_bpe(texts, model.tokenizer.vocab_size))
    return _wrap(_characters(texts))


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids, ascending, at any of which a generated text ends.

    A response is trained to end with the tokenizer's end of sequence; a checkpoint that was tuned to chat may go on
    ending its turns with another special token, such as LLaDA-Instruct with `<|eot_id|>`.
    """
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted({cast(int, tokenizer.eos_token_id)} | {special[end] for end in _ENDS if end in special})


def check_learnt(model: ModelConfig) -> None:
    """Raise UserError for settings of a learnt tokenizer that no texts can fulfil."""
    if model.tokenizer.kind != "pretrained" and model.tokenizer.mask_token is not None:
        raise UserError(
            f"model.tokenizer.mask_token: `{model.tokenizer.kind}` has its own, {MASK}; only a pretrained tokenizer "
            "may have another. Remove it"
        )
    least = 256 + len(SPECIAL_TOKENS)
    if model.tokenizer.kind == "bpe" and model.tokenizer.vocab_size < least:
        raise UserError(
            f"model.tokenizer.vocab_size: {model.tokenizer.vocab_size} is too small for `bpe`, which holds 256 bytes "
            f"and {len(SPECIAL_TOKENS)} special tokens. Use {least} or more"
        )


def check_alphabet(tokenizer: PreTrainedTokenizerFast, text: str, place: str) -> None:
    """Raise UserError, naming the character and `place`, when a `chars` tokenizer lacks a character of the text."""
    unknown = sorted(set(text) - tokenizer.get_vocab().keys())
    if unknown:
        raise UserError(
            f"{place}: the character {unknown[0]!r} is not in the alphabet of the `chars` tokenizer, which is learnt "
            "from the training split. Add rows with it there, or set model.tokenizer.kind: bpe"
        )


def _pretrained(model: ModelConfig) -> PreTrainedTokenizerFast:
    path = model.tokenizer.path or model.path
    assert path is not None, "the recipe's schema asks for a path"
    field = "model.tokenizer.path" if model.tokenizer.path else "model.path"
    if "://" not in path and (Path(path).is_absolute() or path.startswith(".")) and not Path(path).is_dir():
        raise UserError(f"{field} {path!r}: no such folder. Give one with tokenizer.json, or the name of one on a hub")
    try:
        path = str(fetched(path)) if "://" in path else path
        if not model.trust_remote_code:
            _require_files(path, field)
        tokenizer = _read(path, field, model.trust_remote_code)
        config = {} if model.tokenizer.path else _config(path)
        named = config.get("mask_token_id")
        named = _MASK_IDS.get(config.get("model_type")) if named is None else named
    except (UserError, MemoryError):  # of an address, which may hold credentials
        raise
    except Exception as error:  # of many types, for what transformers and tokenizers stumble over in a broken file
        said = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        absent = "" if Path(path).is_dir() else "there is no such folder here, and from the hub "
        raise UserError(f"{field}: {absent}no tokenizer could be loaded from {path!r}: {said}") from error
    if named is not None and type(named) is not int:
        raise UserError(f"{path!r}: mask_token_id is {named!r} in config.json, expected a token's id. Correct it")
    if not tokenizer.is_fast:
        raise UserError(f"{field}: the tokenizer of {path!r} has no fast version (tokenizer.json). Convert it first")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{field}: the tokenizer of {path!r} has no end-of-sequence token, so an answer could not end. "
            "Set eos_token in its tokenizer_config.json, or use another tokenizer"
        )
    mask = _mask(tokenizer, model.tokenizer.mask_token, named, path)
    for name in ("eos_token", "pad_token"):
        if mask == getattr(tokenizer, name):
            raise UserError(
                f"{field}: the tokenizer of {path!r} would mask with {mask!r}, which is its {name}: what is masked "
                "could not be told from it. Set model.tokenizer.mask_token to the text of another special token"
            )
    if mask != tokenizer.mask_token:
        tokenizer.add_special_tokens({"mask_token": mask})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return cast(PreTrainedTokenizerFast, tokenizer)


def _require_files(path: str, field: str) -> None:
    """Raise UserError for a folder without a tokenizer, for which transformers would ask for other packages."""
    if not Path(path).is_dir():
        return  # a name on a hub
    config = Path(path) / "tokenizer_config.json"
    if config.is_file() and "auto_map" in config.read_text(encoding="utf-8", errors="replace"):
        return  # one of its own code, of which transformers tells
    if not any(found.is_file() for pattern in _FILES for found in Path(path).glob(pattern)):
        raise UserError(
            f"{field}: {path!r} holds no tokenizer: there is no tokenizer.json, tokenizer.model or vocab.json. Copy "
            "its files there, or name the tokenizer's folder by model.tokenizer.path"
        )


def _read(path: str, field: str, trust_remote_code: bool) -> Any:
    settings = get_tokenizer_config(path)
    if not isinstance(settings, dict):
        raise ValueError("tokenizer_config.json does not hold an object {...}")
    if settings.get("tokenizer_class") == "DreamTokenizer":  # Qwen2's under another name
        return Qwen2Tokenizer.from_pretrained(path)
    known = trust_remote_code or _config(path).get("model_type") in (None, *CONFIG_MAPPING)
    config = None if known else PreTrainedConfig()  # of LLaDA's and others' own type, it would only warn
    try:
        return AutoTokenizer.from_pretrained(path, config=config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        if trust_remote_code or "auto_map" not in settings:
            raise
        raise UserError(
            f"{field}: the tokenizer of {path!r} is one that transformers lacks ({settings.get('tokenizer_class')}). "
            "Set model.tokenizer.path to another, or read the code that the repository ships and set "
            "model.trust_remote_code: true"
        ) from error


def _mask(tokenizer: PreTrainedTokenizerFast, chosen: str | None, named: int | None, path: str) -> str:
    """The text of the mask token: what the recipe chose, the tokenizer has, the model's config.json names, in order."""
    own, vocabulary = tokenizer.mask_token_id, tokenizer.get_vocab()
    if chosen is not None:
        if chosen not in vocabulary:
            near = difflib.get_close_matches(chosen, tokenizer.get_added_vocab(), cutoff=0.5)
            raise UserError(
                f"model.tokenizer.mask_token: the tokenizer of {path!r} has no token {chosen!r}. "
                + (f"Near ones: {', '.join(near)}" if near else "Leave it out for the model's own, or a new [MASK]")
            )
        if chosen not in tokenizer.get_added_vocab():
            raise UserError(
                f"model.tokenizer.mask_token: {chosen!r} is an ordinary token of the tokenizer of {path!r}, which "
                "texts hold too. Choose an added or special token, or leave it out for the model's own, or a new [MASK]"
            )
        return chosen
    if own is not None and named not in (None, own):
        raise UserError(
            f"{path!r}: mask_token_id is {named} in config.json, but the tokenizer's mask token is {own} "
            f"({tokenizer.mask_token!r}). Set model.tokenizer.mask_token to the text of the one to use"
        )
    if own is not None:
        return cast(str, tokenizer.mask_token)
    if named is not None:
        token = cast(str | None, tokenizer.convert_ids_to_tokens(named))
        if token is None:
            raise UserError(
                f"{path!r}: mask_token_id is {named} in config.json, but the tokenizer has no such token. Set "
                "model.tokenizer.mask_token to the text of one that it has"
            )
        return token
    return next((token for token in _MASKS_IN_USE if token in vocabulary), MASK)


def _config(path: str) -> dict[str, Any]:
    """A model's config.json; nothing for a folder with a tokenizer alone."""
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        return {}
    fields = PreTrainedConfig.get_config_dict(path)[0]
    if not isinstance(fields, dict):
        raise ValueError("config.json does not hold an object {...}")
    return fields


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )


def _byte_level_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE without normalisation, so that decoding gives back every text exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _characters(texts: Iterable[str]) -> Tokenizer:
    """One token a character, in code point order after the special tokens; there is no unknown token."""
    alphabet = sorted(set().union(*map(set, texts)))
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")  # in Oniguruma (?m) matches \n as well
    tokenizer.decoder = decoders.Fuse()
    return tokenizer

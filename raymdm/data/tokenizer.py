"""The tokenizer of a run: a pretrained one, or a small one learnt from the training split."""

from collections.abc import Iterable
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raymdm.config.schema import ModelConfig
from raymdm.errors import UserError
from raymdm.storage import fetched

PAD, EOS, MASK = "[PAD]", "[EOS]", "[MASK]"
SPECIAL_TOKENS = [PAD, EOS, MASK]

# Masked diffusion checkpoints that have a mask token but may not declare it: LLaDA and Dream.
_MASKS_IN_USE = ("<|mdm_mask|>", "<|mask|>", MASK)


def load_tokenizer(model: ModelConfig, texts: Iterable[str] | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a model, with pad, end-of-sequence and mask tokens.

    `texts` are the training split's prompts and responses: `bpe` and `chars` learn from them, `pretrained` ignores
    them. A tokenizer without a mask token gets `[MASK]`; one without a pad token pads with its end-of-sequence token,
    since the attention mask alone says what is padding. Raises UserError when it can't be loaded or learnt.
    """
    if model.tokenizer.kind == "pretrained":
        return _pretrained(model)
    assert texts is not None, f"tokenizer kind {model.tokenizer.kind!r} is learnt from texts"
    if model.tokenizer.kind == "bpe":
        check_learnt(model)
        return _wrap(_byte_level_bpe(texts, model.tokenizer.vocab_size))
    return _wrap(_characters(texts))


def check_learnt(model: ModelConfig) -> None:
    """Raise UserError for settings of a learnt tokenizer that no texts can fulfil."""
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
    try:
        path = str(fetched(path)) if "://" in path else path
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except UserError:  # of an address, which may hold credentials
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{field}: no tokenizer could be loaded from {path!r}: {error}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{field}: the tokenizer of {path!r} has no fast version (tokenizer.json). Convert it first")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{field}: the tokenizer of {path!r} has no end-of-sequence token, so an answer could not end. "
            "Set eos_token in its tokenizer_config.json, or use another tokenizer"
        )
    if tokenizer.mask_token_id is None:
        vocabulary = tokenizer.get_vocab()
        known = [token for token in _MASKS_IN_USE if token in vocabulary]
        tokenizer.add_special_tokens({"mask_token": known[0] if known else MASK})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return cast(PreTrainedTokenizerFast, tokenizer)


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

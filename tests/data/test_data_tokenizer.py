"""Tokenizers: exact round trips, special tokens, and what can't be loaded or learnt."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import ModelConfig
from raymdm.data.tokenizer import EOS, MASK, PAD, check_alphabet, check_learnt, load_tokenizer
from raymdm.errors import UserError

TEXTS = ["Natalia sold clips to 48 of her friends.\n", "She sold 48/2 = 24 clips in May.\n#### 72", "clips clips"]


def learnt(kind: str, vocab_size: int = 300, texts: list[str] | None = None) -> PreTrainedTokenizerFast:
    settings = {"kind": "tiny", "tokenizer": {"kind": kind, "vocab_size": vocab_size}}
    return load_tokenizer(ModelConfig.model_validate(settings), TEXTS if texts is None else texts)


def saved(folder: Path, **special: Any) -> ModelConfig:
    """A pretrained tokenizer of two words in a local folder, with the given special tokens."""
    words = {"hello": 0, "world": 1, "[UNK]": 2}
    words |= {token: 3 + i for i, token in enumerate(special.values())}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special).save_pretrained(folder)
    return ModelConfig(kind="pretrained", path=str(folder))


BPE = learnt("bpe")


@given(st.text())
def test_bpe_gives_back_any_text(text: str) -> None:
    ids = BPE(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert BPE.decode(ids) == text


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_learnt_tokenizers_have_the_special_tokens_first(kind: str) -> None:
    tokenizer = learnt(kind)
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.mask_token) == (PAD, EOS, MASK)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1, 2)


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_learning_is_deterministic(kind: str) -> None:
    assert learnt(kind).backend_tokenizer.to_str() == learnt(kind).backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", ["bpe", "chars"])
def test_learnt_tokenizers_add_nothing_to_a_text(kind: str) -> None:
    tokenizer = learnt(kind)
    assert tokenizer("clips")["input_ids"] == tokenizer("clips", add_special_tokens=False)["input_ids"]


def test_bpe_merges_frequent_text() -> None:
    assert len(BPE("clips")["input_ids"]) == 1


def test_bpe_vocabulary_has_the_asked_size() -> None:
    assert len(learnt("bpe", vocab_size=270)) == 270


def test_bpe_below_its_bytes_is_an_error() -> None:
    with pytest.raises(UserError, match=r"vocab_size: 258 is too small for `bpe`.*Use 259 or more"):
        learnt("bpe", vocab_size=258)
    check_learnt(ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "bpe", "vocab_size": 259}}))


def test_chars_are_one_token_each() -> None:
    tokenizer = learnt("chars", texts=["ab\n", "é😀 a\r\n"])
    text = "b\r\n é😀a"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 3 + len(set("ab\né😀 \r"))


def test_chars_never_hide_an_unknown_character() -> None:
    tokenizer = learnt("chars", texts=["ab"])
    with pytest.raises(UserError, match=r"rows\.jsonl, line 4: the character 'z' is not in the alphabet"):
        check_alphabet(tokenizer, "abz", "rows.jsonl, line 4")
    with pytest.raises(Exception, match="Missing"):
        tokenizer("abz")


def test_pretrained_from_a_folder_gets_a_mask_token_and_pads_with_eos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, eos_token="</s>"), None)
    assert tokenizer.mask_token == MASK
    assert tokenizer.mask_token_id == 4  # one new entry after hello, world, [UNK] and </s>
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 3


def test_pretrained_keeps_its_own_special_tokens(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, eos_token="</s>", pad_token="<pad>", mask_token="<mask>"), None)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token) == ("</s>", "<pad>", "<mask>")


def test_mask_of_a_masked_diffusion_checkpoint_is_used(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, eos_token="</s>", cls_token="<|mdm_mask|>"), None)
    assert tokenizer.mask_token == "<|mdm_mask|>"
    assert len(tokenizer) == 5


def test_tokenizer_path_goes_before_the_models(tmp_path: Path) -> None:
    model = saved(tmp_path, eos_token="</s>")
    other = ModelConfig.model_validate({"kind": "pretrained", "path": "no/model", "tokenizer": {"path": model.path}})
    assert load_tokenizer(other, None).get_vocab()["hello"] == 0


def test_pretrained_without_end_of_sequence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path: .*no end-of-sequence token"):
        load_tokenizer(saved(tmp_path), None)


def test_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.path: .* holds no tokenizer: there is no") as raised:
        load_tokenizer(ModelConfig(kind="pretrained", path=str(tmp_path)), None)
    assert str(tmp_path) in str(raised.value)


def test_an_address_with_credentials_is_refused_without_printing_them() -> None:
    model = ModelConfig.model_validate(
        {"kind": "tiny", "tokenizer": {"kind": "pretrained", "path": "s3://key:s3cret@bucket/tokenizer"}}
    )
    with pytest.raises(UserError, match="address with credentials") as error:
        load_tokenizer(model, None)
    assert "s3cret" not in str(error.value)

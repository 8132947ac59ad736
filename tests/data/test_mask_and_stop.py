"""Which token masks, and at which a text ends: as the repositories of masked diffusion models have it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import ModelConfig
from raymdm.data.tokenizer import MASK, check_learnt, load_tokenizer, stop_ids
from raymdm.errors import UserError

LLADA_EXTRA = ("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mdm_mask|>", "<|start_header_id|>",
               "<|end_header_id|>", "<|eot_id|>")  # fmt: skip
LLADA_CHAT = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}<|start_header_id|>"
    "{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_EXTRA = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def backend(extra: tuple[str, ...], special: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(list(extra))
    return tokenizer


def repository(folder: Path, extra: tuple[str, ...], config: dict[str, Any] | None, **settings: Any) -> ModelConfig:
    """A tokenizer of 256 bytes and `extra`, from 256 on, as a hub has it: with a config.json beside it, or without."""
    PreTrainedTokenizerFast(tokenizer_object=backend(extra), **settings).save_pretrained(folder)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return ModelConfig(kind="pretrained", path=str(folder))


def choose(model: ModelConfig, token: str) -> ModelConfig:
    return model.model_copy(update={"tokenizer": model.tokenizer.model_copy(update={"mask_token": token})})


def llada(folder: Path, **config: Any) -> ModelConfig:
    """LLaDA's: more rows than tokens, padded with its end of sequence, a mask token that only config.json names."""
    fields = {"model_type": "llada", "architectures": ["LLaDAModelLM"], "vocab_size": 384, "mask_token_id": 260,
              "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig"}}  # fmt: skip
    return repository(
        folder, LLADA_EXTRA, {**fields, **config}, bos_token="<|startoftext|>", eos_token="<|endoftext|>",
        pad_token="<|endoftext|>", cls_token="[CLS]", chat_template=LLADA_CHAT,
    )  # fmt: skip


def test_llada_s_mask_is_what_its_config_names(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(llada(tmp_path), None)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<|mdm_mask|>", 260, 264)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>")


def test_a_mask_of_an_unknown_name_is_found_by_its_id(tmp_path: Path) -> None:
    assert load_tokenizer(llada(tmp_path, mask_token_id=259), None).mask_token == "[gMASK]"


def test_llada_instruct_ends_turns_and_texts_and_is_trained_to_end_texts(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(llada(tmp_path), None)
    assert tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)) == ["<|endoftext|>", "<|eot_id|>"]
    assert tokenizer.eos_token == "<|endoftext|>"


def test_llada_s_chat_template_is_its_own(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(llada(tmp_path), None)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": " Hi "}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids[:2] == [256, 261] and ids.count(263) == 1


def test_illada_s_mask_is_token_5_without_anybody_saying_so(tmp_path: Path) -> None:
    words = {f"w{i}": i for i in range(5)} | {"<[MASK]>": 5, "</s>": 6, "[UNK]": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["<[MASK]>", "</s>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    model = ModelConfig(kind="pretrained", path=str(tmp_path))
    assert load_tokenizer(model, None).mask_token_id == 5  # by its name
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "illada"}))
    assert load_tokenizer(model, None).mask_token_id == 5  # by the model's


def test_dream_s_tokenizer_is_qwen_s_without_its_code(tmp_path: Path) -> None:
    """Dream ships vocab.json and merges.txt and a class of its own; its mask is an added token."""
    backend(()).model.save(str(tmp_path))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    extra = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {str(len(vocabulary) + i): {"content": token, **flags} for i, token in enumerate(extra)}
    settings = {"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": added, "eos_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>", "bos_token": "<|beginoftext|>", "mask_token": "<|mask|>",
                "unk_token": None,
                "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}}  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenization_dream.py").write_text("raise RuntimeError('run')")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "Dream", "mask_token_id": len(vocabulary) + 4}))
    tokenizer = load_tokenizer(ModelConfig(kind="pretrained", path=str(tmp_path)), None)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("<|mask|>", len(vocabulary) + 4)
    assert tokenizer.convert_ids_to_tokens(stop_ids(tokenizer)) == ["<|endoftext|>", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("Natalia sold 48/2 clips.\n")["input_ids"]) == "Natalia sold 48/2 clips.\n"


def test_qwen_gets_a_new_mask_and_ends_as_both_its_kinds_do(tmp_path: Path) -> None:
    config = {"model_type": "qwen2", "vocab_size": 384}
    instruct = load_tokenizer(repository(tmp_path / "i", QWEN_EXTRA, config, eos_token="<|im_end|>"), None)
    base = load_tokenizer(repository(tmp_path / "b", QWEN_EXTRA, config, eos_token="<|endoftext|>"), None)
    assert instruct.mask_token == base.mask_token == MASK
    assert instruct.mask_token_id == 259
    assert stop_ids(instruct) == stop_ids(base) == [256, 258]


def test_a_text_does_not_end_at_what_only_looks_like_an_end(tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend(("<|eot_id|>",), special=False), eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelConfig(kind="pretrained", path=str(tmp_path)), None)
    assert stop_ids(loaded) == [loaded.eos_token_id]


def test_learnt_tokenizers_end_at_their_end_alone() -> None:
    model = ModelConfig.model_validate({"kind": "tiny", "tokenizer": {"kind": "chars"}})
    assert stop_ids(load_tokenizer(model, ["ab"])) == [1]


# The recipe's choice


def test_the_recipe_s_mask_goes_before_all_others(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(choose(llada(tmp_path), "[gMASK]"), None)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("[gMASK]", 259, 264)


def test_a_mask_that_is_no_token_is_refused_and_near_ones_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.tokenizer\.mask_token: .* has no token '<\|mask\|>'\. Near ones: <\|mdm_mask\|>"
    ):
        load_tokenizer(choose(llada(tmp_path), "<|mask|>"), None)


def test_a_learnt_tokenizer_has_its_own_mask() -> None:
    model = {"kind": "tiny", "tokenizer": {"kind": "chars", "mask_token": "<|mask|>"}}
    with pytest.raises(UserError, match=r"mask_token: `chars` has its own, \[MASK\]"):
        check_learnt(ModelConfig.model_validate(model))


def test_a_mask_that_config_denies_is_refused_and_both_named(tmp_path: Path) -> None:
    config = {"model_type": "llama", "mask_token_id": 256}
    model = repository(tmp_path, QWEN_EXTRA, config, eos_token="<|endoftext|>", mask_token="<|im_start|>")
    with pytest.raises(UserError, match=r"mask_token_id is 256 in config\.json.* is 257 \('<\|im_start\|>'\)"):
        load_tokenizer(model, None)
    assert load_tokenizer(choose(model, "<|im_start|>"), None).mask_token_id == 257


def test_a_mask_s_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask_token_id is 380 in config\.json, but the tokenizer has no such token"):
        load_tokenizer(llada(tmp_path, mask_token_id=380), None)


def test_token_0_can_mask(tmp_path: Path) -> None:
    model = repository(tmp_path, QWEN_EXTRA, {"model_type": "llama", "mask_token_id": 0}, eos_token="<|endoftext|>")
    assert load_tokenizer(model, None).mask_token_id == 0


def test_a_broken_config_is_told(tmp_path: Path) -> None:
    model = repository(tmp_path, QWEN_EXTRA, None, eos_token="<|endoftext|>")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.path: no tokenizer could be loaded .*config\.json"):
        load_tokenizer(model, None)


# What cannot mask, and what is broken


@pytest.mark.parametrize("name", ["eos_token", "pad_token"])
def test_what_ends_or_pads_does_not_mask(tmp_path: Path, name: str) -> None:
    tokens = {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>"}
    model = repository(tmp_path, QWEN_EXTRA, {"model_type": "qwen2"}, **tokens)
    with pytest.raises(UserError, match=rf"would mask with .*, which is its {name}.*mask_token to the text of another"):
        load_tokenizer(choose(model, tokens[name]), None)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen2", "mask_token_id": 258 if "eos" in name else 257})
    )
    with pytest.raises(UserError, match=f"which is its {name}"):
        load_tokenizer(model, None)


def test_an_ordinary_token_does_not_mask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mask_token: 'a' is an ordinary token"):
        load_tokenizer(choose(llada(tmp_path), "a"), None)


@pytest.mark.parametrize("named", ["260", 1.5, [260], True])
def test_a_mask_s_id_that_is_none_is_refused(tmp_path: Path, named: Any) -> None:
    with pytest.raises(UserError, match=r"mask_token_id is .* in config\.json, expected a token's id"):
        load_tokenizer(llada(tmp_path, mask_token_id=named), None)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("text", ["[]", "{", "3", "{}"])
def test_a_broken_file_is_told(tmp_path: Path, file: str, text: str) -> None:
    model = llada(tmp_path)
    (tmp_path / file).write_text(text)
    if (file, text) == ("config.json", "{}"):
        assert load_tokenizer(model, None).mask_token == "<|mdm_mask|>"  # by its name
        return
    with pytest.raises(UserError, match=r"^model\.path: "):
        load_tokenizer(model, None)


@pytest.mark.parametrize("path", ["/none/tokenizer", "./none"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path, path: str) -> None:
    model = llada(tmp_path)
    model = model.model_copy(update={"tokenizer": model.tokenizer.model_copy(update={"path": path})})
    with pytest.raises(UserError, match=rf"model\.tokenizer\.path '{path}': no such folder"):
        load_tokenizer(model, None)

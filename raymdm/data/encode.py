"""From the texts of examples to token ids, with the tokens that a method treats in a way of their own.

Prompt and response are tokenised apart and joined, so that the prompt's length in tokens is exact and no token
spans both.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jinja2
import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from raymdm.config.schema import DataConfig, ModelConfig
from raymdm.data.marks import Span, delimiter_spans, marked_tokens, plain_pieces, rendered_pieces, syntax_spans
from raymdm.data.rows import Message, row_place
from raymdm.data.splits import Source
from raymdm.data.tasks import Example, delimiters, syntax_pattern
from raymdm.data.tokenizer import check_alphabet
from raymdm.errors import UserError


def tokenised_rows(
    examples: Sequence[Example],
    source: Source,
    data: DataConfig,
    model: ModelConfig,
    tokenizer: PreTrainedTokenizerFast,
) -> Iterator[dict[str, Any]]:
    """The rows of a prepared split, one an example, whatever their length; a response ends with an end of sequence,
    which is repeated up to `data.fill_response_to` tokens.

    `syntax` and `delimiter` are ascending positions (tokens) in `input_ids`, the former in the prompt and the latter in
    the response. `syntax_lost`: the chat template rewrote a message that holds syntax, whose tokens are unknown then.
    Raises UserError, with the row's place, for text that the template or a `chars` alphabet does not take, and for a
    prompt with the mask token.
    """
    prompts = [_render(tokenizer, example, row_place(data, source, example.example_id)) for example in examples]
    if model.tokenizer.kind == "chars":
        for example in examples:
            check_alphabet(tokenizer, example.prompt + example.response, row_place(data, source, example.example_id))
    start, heads = _encode_prompts(tokenizer, prompts)
    tails = _encode(tokenizer, [example.response for example in examples], literal=True)
    pattern, announcing = re.compile(syntax_pattern(data)), delimiters(data)
    for example, prompt, head, tail in zip(examples, prompts, heads, tails, strict=True):
        if tokenizer.mask_token_id in head.ids:  # what a template gives is read with its special tokens
            raise UserError(
                f"{row_place(data, source, example.example_id)}: the prompt holds the mask token "
                f"{tokenizer.mask_token}, which a model takes for a token to predict: write it otherwise, or take the "
                "row out"
            )
        prompt_length = len(start) + len(head)
        ends = [tokenizer.eos_token_id] * max(1, (data.fill_response_to or 0) - len(tail))
        syntax, lost = _syntax(tokenizer, example, prompt, pattern)
        yield {
            "example_id": example.example_id,
            "input_ids": np.array([*start, *head.ids, *tail.ids, *ends], dtype=np.int32),
            "prompt_length": prompt_length,
            "prompt": prompt,
            "response": example.response,
            "answer": example.answer,
            "syntax": len(start) + marked_tokens(head, prompt, syntax),
            "delimiter": prompt_length
            + marked_tokens(tail, example.response, delimiter_spans(announcing, example.response)),
            "syntax_lost": lost,
        }


def _render(tokenizer: PreTrainedTokenizerFast, example: Example, place: str) -> str:
    """The prompt's text: through the chat template, up to where the answer starts, or as it is without one."""
    if tokenizer.chat_template is None:
        return example.prompt
    try:
        return _through_template(tokenizer, example.messages)
    except jinja2.TemplateError as error:
        raise UserError(f"{place}: the tokenizer's chat template does not accept the prompt: {error}") from error


def _through_template(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def _syntax(
    tokenizer: PreTrainedTokenizerFast, example: Example, prompt: str, pattern: re.Pattern[str]
) -> tuple[list[Span], bool]:
    """The syntax in a prompt's text, a chat template's own text aside, and whether any of it could not be found."""
    messages = example.messages
    holding = {number for number, message in enumerate(messages) if pattern.search(message["content"].strip())}
    if not holding:
        return [], False
    if tokenizer.chat_template is None:
        pieces = plain_pieces(messages)
    else:
        try:
            pieces = rendered_pieces(messages, prompt, partial(_through_template, tokenizer))
        except jinja2.TemplateError:  # a template that asks for certain contents
            return [], True
    return syntax_spans(pattern, pieces), not holding <= {piece.message for piece in pieces}


def _encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> tuple[list[int], list[Encoding]]:
    """What the tokenizer puts before every prompt, and the prompts' own tokens."""
    if tokenizer.chat_template is not None:
        return [], _encode(tokenizer, prompts, literal=False)  # the template itself writes the special tokens
    encodings = _encode(tokenizer, prompts, literal=True)
    return _start_ids(tokenizer, prompts[0], encodings[0].ids), encodings


def _start_ids(tokenizer: PreTrainedTokenizerFast, text: str, bare: list[int]) -> list[int]:
    """What the tokenizer itself puts before a text, such as Llama's beginning-of-sequence token."""
    full = tokenizer(text, add_special_tokens=True, split_special_tokens=True, verbose=False)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start]


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], literal: bool) -> list[Encoding]:
    """Tokens without added special ones; `literal` reads a special token's name in a text as mere characters."""
    encodings = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=literal,
        verbose=False,
    ).encodings
    assert encodings is not None, "only a fast tokenizer knows where its tokens stand"
    return encodings

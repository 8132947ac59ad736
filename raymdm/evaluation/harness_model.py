"""What lm-evaluation-harness asks of a model: likelihoods of texts, and texts. Its package must be installed.

As in LLaDA's own evaluation, the likelihood of a masked diffusion model is its bound, from `mc_num` masks with an exact
number of tokens, and its generation has a fixed length whatever a task asks for.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from tqdm import tqdm

from raymdm.config.schema import EvaluateConfig, ModelConfig
from raymdm.data.loading import collate
from raymdm.data.tokenizer import load_tokenizer, stop_ids
from raymdm.errors import UserError
from raymdm.evaluation.nll import exact_nll, nll_bound
from raymdm.generation.greedy import decode, generate_arm
from raymdm.generation.unmask import generate_mdm
from raymdm.models import adapters
from raymdm.models.checks import check_tokens
from raymdm.models.denoiser import Denoiser, right_shifted
from raymdm.models.load import load_model
from raymdm.models.precision import precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_UNUSED = ("do_sample", "temperature", "top_p", "top_k")
"""Without effect where nothing is sampled."""

Request = tuple[Any, list[int], list[int]]
"""What the harness asks by, and the token ids of context and continuation."""


class Arguments(BaseModel):
    """`--model_args`, and what the harness adds."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    path: str
    """Folder or name of the model: a run's, or any that `model.path` of a recipe may name."""
    tokenizer: str | None = None
    """Folder or name of the tokenizer, such as `tokenizer` in a run's prepared data; null: the model's."""
    base: str | None = None
    """The model that the low-rank updates in `path` are of; null: the one that they name."""
    family: Literal["mdm", "arm"] = "mdm"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attn_implementation: Literal["sdpa", "eager", "flex_attention", "flash_attention_2"] = "sdpa"
    trust_remote_code: bool = False
    mc_num: PositiveInt = 128
    """Masks of an MDM's likelihood (LLaDA: 128)."""
    seed: NonNegativeInt = 0
    """Of the masks."""
    check_greedy: bool = True
    """Find out whether a text is what the model would generate, which few tasks use (LAMBADA); false: say no."""
    generation_length: PositiveInt = 128
    """Tokens that an MDM generates; what an ARM does at most where a task sets no limit."""
    steps: PositiveInt = 128
    block_length: PositiveInt = 32
    confidence_threshold: float | None = None
    prefix_cache: bool = False
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Longest context and continuation (tokens); null: the model's longest."""
    batch_size: PositiveInt = 1
    """Model rows a forward pass."""
    device: str | None = None
    """Null: the GPU where there is one."""

    @property
    def sampler(self) -> EvaluateConfig:
        """How an MDM generates."""
        names = ("generation_length", "steps", "block_length", "confidence_threshold", "prefix_cache")
        return EvaluateConfig(**{name: getattr(self, name) for name in names})


class HarnessModel(TemplateLM):
    """A trained model as the harness sees it; `arguments` are those of `Arguments`. Raises UserError."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._settings = _validated(arguments)
        self._model, self.tokenizer = _load(self._settings)
        self._device = self._model.model.device
        self._stops = stop_ids(self.tokenizer)
        self.batch_size = self._settings.batch_size
        self.max_length: int = self._settings.max_length or self._model.model.config.max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        return cast(int, self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands in for an empty context."""
        bos = self.tokenizer.bos_token_id
        return cast(int, self.eot_token_id if bos is None else bos)

    @property
    def tokenizer_name(self) -> str:
        return cast(str, self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special ones are added as the tokenizer has it, but no second beginning of sequence."""
        if add_special_tokens is None:
            start = self.tokenizer.bos_token
            add_special_tokens = not (start and string.startswith(cast(str, start)))
        ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        check_tokens(self._model, max(ids, default=0))
        return ids

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        if chat_template and self.tokenizer.chat_template is None:
            raise UserError("--apply_chat_template: the tokenizer has no chat template. Leave it out")
        return cast("str | None", super().chat_template(chat_template))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation, up to where the answer starts or within the answer's beginning."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return cast(str, text)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods (nats) of whole texts, in windows of the model's longest length."""
        found = []
        for request in tqdm(requests, disable=disable_tqdm, desc="Likelihoods of texts"):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            found.append(float(self._log_likelihoods([(None, *pair) for pair in pairs]).sum()))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts at temperature 0, each up to the first of the strings that end it."""
        asked = [
            (self._not_empty(self.tok_encode(context)), *_ending(kwargs))
            for context, kwargs in (request.args for request in requests)
        ]
        for context, _, limit in asked:
            self._check_length(len(context) + self._new_tokens(limit))
        found = []
        bar = tqdm(total=len(asked), disable=disable_tqdm, desc="Generations")
        for limit, same in groupby(asked, key=lambda one: one[2]):
            for part in _parts(list(same), self.batch_size):
                generated = self._generate([context for context, *_ in part], limit)
                for (_, until, _), ids in zip(part, generated, strict=True):
                    text, _ = decode(self.tokenizer, ids[:limit], self._stops)
                    found.append(min((text.split(end)[0] for end in until), key=len, default=text))
                    self.cache_hook.add_partial("generate_until", requests[len(found) - 1].args, found[-1])
                bar.update(len(part))
        bar.close()
        return found

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        requests = [(asked, self._not_empty(context), continuation) for asked, context, continuation in requests]
        for _, context, continuation in requests:
            self._check_length(len(context) + len(continuation))
        found: list[tuple[float, bool]] = []
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Likelihoods of continuations")
        for part in _parts(requests, self.batch_size):
            answers = self._answers([request for request in part if request[2]])
            found += [next(answers) if continuation else (0.0, True) for _, _, continuation in part]
            for (asked, *_), answer in zip(part, found[-len(part) :], strict=True):
                self.cache_hook.add_partial("loglikelihood", asked, answer)
            bar.update(len(part))
        bar.close()
        return found

    def _not_empty(self, context: list[int]) -> list[int]:
        return context or [self.prefix_token_id]

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[float, bool]]:
        """Log-likelihoods (nats) of continuations that are not empty, and whether they are greedy."""
        if not requests:
            return iter(())
        greedy = self._are_greedy(requests) if self._settings.check_greedy else [False] * len(requests)
        return zip(self._log_likelihoods(requests).tolist(), greedy, strict=True)

    def _log_likelihoods(self, requests: Sequence[Request]) -> np.ndarray:
        """Of the continuations given their contexts, (N,) nats: the bound of an MDM."""
        sequences, lengths = _joined(requests)
        settings, pad_id = self._settings, cast(int, self.tokenizer.pad_token_id)
        if settings.family == "arm":
            return -exact_nll(self._model, sequences, lengths, pad_id, self._device, settings.batch_size)
        ids = cast(int, self.tokenizer.mask_token_id), pad_id
        keys = np.array([_key(context, continuation) for _, context, continuation in requests])
        draws, seed, rows = settings.mc_num, settings.seed, settings.batch_size
        return -nll_bound(self._model, sequences, lengths, keys, ids, draws, seed, self._device, rows)[0]

    def _are_greedy(self, requests: Sequence[Request]) -> list[bool]:
        """Whether each continuation is the one of highest probability, token by token."""
        if self._settings.family == "arm":
            return self._are_most_probable(requests)
        found = []
        for _, context, continuation in requests:
            n = len(continuation)
            generated = self._unmask([context], generation_length=n, steps=n, block_length=n)  # LLaDA: one block
            found.append(generated[0].tolist() == continuation)
        return found

    @torch.no_grad()
    def _are_most_probable(self, requests: Sequence[Request]) -> list[bool]:
        sequences, lengths = _joined(requests)
        batch = collate(sequences, lengths, cast(int, self.tokenizer.pad_token_id))
        batch = type(batch)(*(part.to(self._device) for part in batch))
        with precision(self._device):
            logits = self._model(batch.input_ids, batch.attention_mask, batch.response_mask)
        same = torch.ones_like(batch.response_mask)
        same[batch.response_mask] = logits.argmax(-1) == batch.input_ids[batch.response_mask]
        return cast("list[bool]", same.all(dim=1).tolist())

    def _generate(self, prompts: list[list[int]], limit: int | None) -> torch.Tensor:
        """Token ids (B, *) that follow the prompts."""
        sampler, tokens = self._settings.sampler, self._new_tokens(limit)
        if self._settings.family == "mdm":
            return self._unmask(
                prompts,
                generation_length=tokens,
                steps=sampler.steps,
                block_length=sampler.block_length,
                stop_ids=self._stops,
                confidence_threshold=sampler.confidence_threshold,
                prefix_cache=sampler.prefix_cache,
            )
        arrays = [np.array(prompt) for prompt in prompts]
        with precision(self._device):
            return generate_arm(
                self._model.model,
                arrays,
                stop_ids=self._stops,
                pad_id=cast(int, self.tokenizer.pad_token_id),
                max_new_tokens=tokens,
            )

    def _new_tokens(self, limit: int | None) -> int:
        """Tokens of a generation; an MDM's length is fixed."""
        return limit if self._settings.family == "arm" and limit else self._settings.generation_length

    def _unmask(self, prompts: list[list[int]], **sampler: Any) -> torch.Tensor:
        with precision(self._device):
            return generate_mdm(
                self._model.model,
                [np.array(prompt, dtype=np.int64) for prompt in prompts],
                mask_id=cast(int, self.tokenizer.mask_token_id),
                pad_id=cast(int, self.tokenizer.pad_token_id),
                shift=right_shifted(self._model.model),
                **sampler,
            ).tokens

    def _check_length(self, tokens: int) -> None:
        if tokens > self.max_length:
            raise UserError(
                f"a request takes {tokens} tokens, more than max_length ({self.max_length}). Ask with fewer examples "
                "(--num_fewshot), or set max_length in --model_args if the model can do with more"
            )


def _validated(arguments: dict[str, Any]) -> Arguments:
    try:
        settings = Arguments(**arguments)
        _ = settings.sampler
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        known = ", ".join(Arguments.model_fields)
        raise UserError(f"--model_args: {'; '.join(problems)}. Known arguments: {known}") from error
    return settings


def _load(settings: Arguments) -> tuple[Denoiser, "PreTrainedTokenizerFast"]:
    """The model on its device, and its tokenizer."""
    folder = Path(settings.path)
    updates = adapters.is_adapter_folder(folder)
    if settings.base and not updates:
        raise UserError(f"--model_args: base is given, but path {settings.path!r} holds no low-rank updates")
    path = settings.base or (adapters.base_model(folder) if updates else settings.path)
    if not path:
        raise UserError(f"--model_args: the updates in {settings.path!r} do not say what model they are of. Give base")
    config = ModelConfig.model_validate(
        {
            "kind": "pretrained",
            "path": path,
            "adapter": {} if updates else None,  # the folder says what they are
            "tokenizer": {"path": settings.tokenizer},
            **settings.model_dump(include={"dtype", "attn_implementation", "trust_remote_code"}),
        }
    )
    tokenizer = load_tokenizer(config, None)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_model(config, tokenizer, settings.family, folder if updates else None, device)
    return Denoiser(model, settings.family).eval(), tokenizer


def _joined(requests: Sequence[Request]) -> tuple[list[np.ndarray], np.ndarray]:
    """Contexts with their continuations, and the lengths of the contexts, (N,)."""
    sequences = [np.array([*context, *continuation]) for _, context, continuation in requests]
    return sequences, np.array([len(context) for _, context, _ in requests])


def _key(context: list[int], continuation: list[int]) -> int:
    """32 bits of what is asked: its masks depend neither on its place among the requests nor on their number."""
    text = f"{context}|{continuation}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


def _ending(kwargs: dict[str, Any]) -> tuple[list[str], int | None]:
    """Strings that end a generation, and its longest length (tokens), None where the task sets none."""
    sampled = kwargs.get("do_sample", float(kwargs.get("temperature") or 0) > 0)
    if sampled:
        raise UserError("a task asks for samples (do_sample, temperature), but generation here is at temperature 0")
    if unknown := kwargs.keys() - {"until", *_LIMITS, *_UNUSED}:
        raise UserError(
            f"generation argument {sorted(unknown)[0]!r} is not known. Generation is set by --model_args: "
            "generation_length, steps, block_length, confidence_threshold, prefix_cache"
        )
    until = kwargs.get("until") or []
    endings = [until] if isinstance(until, str) else [end for end in until if end]  # the empty one ends nothing
    limit = next((int(kwargs[name]) for name in _LIMITS if kwargs.get(name) is not None), None)
    return endings, limit


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]

"""lm-evaluation-harness with tiny models and tasks of local files; likelihoods against all masks there are."""

import itertools
import json
import math

import lm_eval
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from raymdm.config.schema import ModelConfig
from raymdm.data.tokenizer import load_tokenizer
from raymdm.errors import UserError
from raymdm.evaluation import harness
from raymdm.models import adapters
from raymdm.models.denoiser import right_shifted
from raymdm.models.load import load_model, save_model

TEXTS = ["2+3=5", "4+4=8", "1+1=2 and so on\n"]
TINY = ModelConfig(
    kind="tiny", hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2,
    tokenizer={"kind": "bpe", "vocab_size": 262},
)  # fmt: skip
ROWS = [
    {"question": "2+3=", "choices": ["5", "6", "13"], "label": 0, "answer": "5", "text": "2+3=5"},
    {"question": "4+4=", "choices": ["1", "8", "80"], "label": 1, "answer": "8", "text": "4+4=8"},
]
TASKS = {
    "choice": {
        "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
    },
    "greedy": {
        "output_type": "loglikelihood", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "generate": {
        "output_type": "generate_until", "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 6},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer, an MDM and an ARM of random weights, as runs leave them."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(TINY, TEXTS)
    tokenizer.save_pretrained(root / "tokenizer")
    for family in ("mdm", "arm"):
        model = load_model(TINY, tokenizer, family)
        for parameter in model.parameters():
            parameter.data *= 6
        save_model(model, root / family)
    return root


def made(folders, family: str = "mdm", **arguments):
    harness.register()
    settings = {"generation_length": 8, "steps": 8, "block_length": 4, "mc_num": 16, "batch_size": 4, **arguments}
    paths = {"path": str(folders / family), "tokenizer": str(folders / "tokenizer")}
    return get_model("raymdm").create_from_arg_obj({**paths, "family": family, **settings}, {"device": "cpu"})


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def bound(model, context: list[int], continuation: list[int], mask_id: int) -> float:
    """Minus the mean over l of the mean over all masks of l tokens of n/l times their cross-entropies."""
    clean, n, total = torch.tensor(context + continuation), len(continuation), 0.0
    for size in range(1, n + 1):
        masks = list(itertools.combinations(range(n), size))
        for chosen in masks:
            at = len(context) + torch.tensor(chosen)
            noised = clean.clone()
            noised[at] = mask_id
            with torch.no_grad():
                log_p = model(noised[None]).logits[0, at].double().log_softmax(-1)
            total += float(log_p[torch.arange(size), clean[at]].sum()) / size / len(masks)
    return total


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_harness_evaluates_tasks_of_each_kind(folders, tmp_path, family):
    harness.register()
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, ROWS)))
    for name, fields in TASKS.items():
        task = {
            "task": name, "dataset_path": "json", "test_split": "test", "doc_to_text": "{{question}}",
            "target_delimiter": "",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}, "cache_dir": str(tmp_path)},
            **fields,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(task))
    arguments = (
        f"path={folders / family},tokenizer={folders / 'tokenizer'},family={family},mc_num=4,"
        "generation_length=8,steps=4,block_length=4"
    )
    found = lm_eval.simple_evaluate(
        model="raymdm", model_args=arguments, tasks=list(TASKS), batch_size=3, device="cpu", bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False), log_samples=True,
    )  # fmt: skip
    assert found["results"].keys() == TASKS.keys()
    assert 0 <= found["results"]["choice"]["acc,none"] <= 1
    assert found["results"]["rolling"]["bits_per_byte,none"] > 0
    model = made(folders, family, mc_num=4, steps=4)
    asked = [(row["question"], choice) for row in ROWS for choice in row["choices"]]
    expected = [log_p for log_p, _ in model.loglikelihood(ask("loglikelihood", *asked), disable_tqdm=True)]
    reported = [float(one[0][0]) for sample in found["samples"]["choice"] for one in sample["resps"]]
    assert reported == pytest.approx(expected, rel=1e-5)


def test_mdm_likelihood_is_the_bound(folders):
    model = made(folders, mc_num=4000, batch_size=500, check_greedy=False)
    ((log_p, _),) = model.loglikelihood(ask("loglikelihood", ("2+3=", "513")), disable_tqdm=True)
    context, continuation = model.tok_encode("2+3="), model.tok_encode("513")
    assert len(continuation) == 3
    assert log_p == pytest.approx(bound(model._model.model, context, continuation, model.tokenizer.mask_token_id), 0.05)


def test_arm_likelihood_is_exact(folders):
    model = made(folders, "arm")
    ((log_p, _),) = model.loglikelihood(ask("loglikelihood", ("2+3=", "513")), disable_tqdm=True)
    ids, start = model.tok_encode("2+3=513"), len(model.tok_encode("2+3="))
    with torch.no_grad():
        expected = model._model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert log_p == pytest.approx(sum(float(expected[i - 1, ids[i]]) for i in range(start, len(ids))), rel=1e-5)


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_what_the_model_generates_is_greedy_and_nothing_else(folders, family):
    model = made(folders, family, generation_length=3, steps=3, block_length=3)
    context = model.tok_encode("2+3=")
    generated = model._generate([context], 3)[0].tolist()
    other = [*generated[:-1], (generated[-1] + 1) % 250 + 5]
    found = model._loglikelihood_tokens([(None, context, generated), (None, context, other)], disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_answers_do_not_depend_on_batch_or_order(folders, family):
    asked = [("2+3=", "5"), ("4+4=", "80"), ("", "1+1"), ("a longer context, 1+1=", "2")]
    one, all_ = made(folders, family, batch_size=1), made(folders, family, batch_size=8)
    first = one.loglikelihood(ask("loglikelihood", *asked), disable_tqdm=True)
    second = all_.loglikelihood(ask("loglikelihood", *asked[::-1]), disable_tqdm=True)[::-1]
    assert [a for a, _ in first] == pytest.approx([a for a, _ in second], rel=1e-4)
    assert [b for _, b in first] == [b for _, b in second]


def test_rolling_likelihood_of_an_arm_is_that_of_the_whole_text(folders):
    model = made(folders, "arm")
    (log_p,) = model.loglikelihood_rolling(ask("loglikelihood_rolling", ("2+3=5",)), disable_tqdm=True)
    ids = [model.prefix_token_id, *model.tok_encode("2+3=5")]
    with torch.no_grad():
        expected = model._model.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert log_p == pytest.approx(sum(float(expected[i - 1, ids[i]]) for i in range(1, len(ids))), rel=1e-5)


def test_rolling_likelihood_counts_every_token_of_a_long_text_once(folders):
    model = made(folders, "arm", max_length=4)
    text = "2+3=5 and 4+4=8"
    seen = []
    model._log_likelihoods = lambda requests: seen.extend(requests) or torch.zeros(1).numpy()
    model.loglikelihood_rolling(ask("loglikelihood_rolling", (text,)), disable_tqdm=True)
    assert [token for *_, continuation in seen for token in continuation] == model.tok_encode(text)
    assert max(len(context) + len(continuation) for _, context, continuation in seen) == 4


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_generation_ends_at_the_first_ending_and_the_limit(folders, family):
    model = made(folders, family)
    (whole,) = model.generate_until(ask("generate_until", ("2+3=", {"until": []})), disable_tqdm=True)
    ending = whole[len(whole) // 2]
    asked = [("2+3=", {"until": ["never seen", ending]}), ("2+3=", {"max_gen_toks": 2}), ("2+3=", {"until": ending})]
    cut, short, same = model.generate_until(ask("generate_until", *asked), disable_tqdm=True)
    assert cut == same == whole[: whole.index(ending)]
    (ids,) = model._generate([model.tok_encode("2+3=")], None)
    assert short == model.tokenizer.decode(ids[:2].tolist()) != whole


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"do_sample": True}, "temperature 0"),
        ({"temperature": 0.7}, "temperature 0"),
        ({"steps": 3}, "'steps' is not known"),
    ],
)
def test_generation_that_is_not_supported_is_refused(folders, kwargs, reason):
    with pytest.raises(UserError, match=reason):
        made(folders).generate_until(ask("generate_until", ("2+3=", kwargs)), disable_tqdm=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"mc_nun": 3}, "mc_nun: Extra inputs.*Known arguments: path, tokenizer"),
        ({"batch_size": "auto"}, "batch_size: .*integer"),
        ({"steps": 5}, "must be a multiple"),
        ({"base": "x"}, "holds no low-rank updates"),
    ],
)
def test_wrong_arguments_are_named(folders, arguments, reason):
    with pytest.raises(UserError, match=reason):
        made(folders, **arguments)


def test_request_that_is_too_long_is_refused(folders):
    with pytest.raises(UserError, match=r"takes 5 tokens, more than max_length \(4\)"):
        made(folders, max_length=4).loglikelihood(ask("loglikelihood", ("2+3=", "5")), disable_tqdm=True)


def test_requests_of_all_lengths_are_checked_before_the_first_is_computed(folders, monkeypatch):
    model = made(folders, max_length=20, batch_size=1)
    monkeypatch.setattr(model._model, "forward", lambda *_, **__: pytest.fail("computed something"))
    monkeypatch.setattr(model, "_unmask", lambda *_, **__: pytest.fail("generated something"))
    with pytest.raises(UserError, match="more than max_length"):
        model.loglikelihood(ask("loglikelihood", ("2+3=", "5"), ("2" * 50, "5")), disable_tqdm=True)
    with pytest.raises(UserError, match="more than max_length"):
        model.generate_until(ask("generate_until", ("2", {}), ("2" * 50, {})), disable_tqdm=True)


def test_max_length_of_one_token_holds_no_text(folders):
    with pytest.raises(UserError, match="max_length: Input should be greater than or equal to 2"):
        made(folders, max_length=1)


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_empty_continuation_is_certain(folders, family):
    model = made(folders, family)
    empty, alone = (model.loglikelihood(ask("loglikelihood", *asked), disable_tqdm=True)
                    for asked in ([("2+3=", ""), ("2+3=", "5")], [("2+3=", "5")]))  # fmt: skip
    assert empty[0] == (0.0, True)
    assert empty[1][0] == pytest.approx(alone[0][0], rel=1e-5)


@pytest.mark.parametrize("family", ["mdm", "arm"])
def test_empty_and_blank_contexts_are_a_beginning_of_sequence(folders, family):
    model = made(folders, family)
    start = model.tokenizer.decode([model.prefix_token_id])
    blank, expected = model.loglikelihood(ask("loglikelihood", (" ", "5"), (start, " 5")), disable_tqdm=True)
    assert blank[0] == pytest.approx(expected[0], rel=1e-5)
    empty, same = model.generate_until(ask("generate_until", ("", {}), (start, {})), disable_tqdm=True)
    assert empty == same


def test_empty_ending_ends_nothing(folders):
    model = made(folders)
    asked = [("2+3=", {"until": [""]}), ("2+3=", {"until": []}), ("2+3=", {"until": ""})]
    assert len(set(model.generate_until(ask("generate_until", *asked), disable_tqdm=True))) == 1


def test_chat_template_that_the_tokenizer_lacks_is_asked_for_in_vain(folders):
    model = made(folders)
    assert model.chat_template(False) is None
    with pytest.raises(UserError, match="no chat template"):
        model.chat_template(True)


def test_chat_template_is_applied_once_with_its_beginning_of_sequence(folders):
    model = made(folders)
    model.tokenizer.chat_template = "{% for m in messages %}[EOS]{{ m['content'] }}{% endfor %}:"
    model.tokenizer.bos_token = "[EOS]"
    text = model.apply_chat_template([{"role": "user", "content": "2+3="}])
    assert text == "[EOS]2+3=:"
    assert model.tok_encode(text).count(model.tokenizer.bos_token_id) == 1


def test_low_rank_updates_are_evaluated_on_their_base(folders, tmp_path):
    tokenizer = load_tokenizer(ModelConfig(kind="pretrained", path=str(folders / "tokenizer")), None)
    config = ModelConfig(kind="pretrained", path=str(folders / "mdm"), adapter={"r": 2})
    model = load_model(config, tokenizer, "mdm")
    for parameter in adapters.trainable(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    save_model(model, tmp_path / "run")
    asked = ask("loglikelihood", ("2+3=", "5"))
    paths = {"path": str(tmp_path / "run"), "tokenizer": str(folders / "tokenizer")}
    adapted, plain = (made(folders, **changes).loglikelihood(asked, disable_tqdm=True)[0][0] for changes in (paths, {}))
    with torch.no_grad():
        ids = torch.tensor([*tokenizer.encode("2+3="), tokenizer.mask_token_id])
        expected = float(model(ids[None]).logits[0, -1].log_softmax(-1)[tokenizer.encode("5")[0]])
    assert adapted == pytest.approx(expected, rel=1e-4)
    assert not math.isclose(adapted, plain, rel_tol=1e-2)


def test_low_rank_updates_say_whether_they_predict_from_the_position_before(folders, tmp_path):
    tokenizer = load_tokenizer(ModelConfig(kind="pretrained", path=str(folders / "tokenizer")), None)
    base = load_model(TINY, tokenizer, "arm")
    save_model(base, tmp_path / "base")
    config = ModelConfig(kind="pretrained", path=str(tmp_path / "base"), adapter={"r": 2}, right_shift_logits=True)
    save_model(load_model(config, tokenizer, "mdm"), tmp_path / "run")
    shifted = made(folders, path=str(tmp_path / "run"))
    assert right_shifted(shifted._model.model)
    with pytest.raises(UserError, match="a bidirectional model"):
        made(folders, "arm", path=str(tmp_path / "run"))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'raymdm\[harness\]'"):
        harness.register()


def test_command_line_knows_the_model_and_tells_a_mistake_in_one_line(folders, monkeypatch, capsys):
    def harness_own():
        get_model("raymdm").create_from_arg_string(f"path={folders / 'none'},tokenizer={folders / 'tokenizer'}")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", harness_own)
    with pytest.raises(SystemExit, match="2"):
        harness.main()
    assert capsys.readouterr().err.startswith(f"Error: model.path '{folders / 'none'}': no such folder")

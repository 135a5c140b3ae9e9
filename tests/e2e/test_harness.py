"""EleutherAI's harness on a run, and on the run's export read by transformers: the same figures, without a network."""

import json
from pathlib import Path

import pytest
from command import call, write_rows

import minigpt
from backends import get_backend
from minigpt.errors import UsageError
from minigpt.evaluate import harness
from minigpt.evaluate.harness import _tasks, register
from minigpt.runs.loading import load_engine
from minigpt.text.tokenizer import END_OF_TEXT, IM_END

# Invented rows in the form of the tests' own data.
SCENES = [
    {"activity_label": "Baking", "ctx_a": "A man kneads dough.", "ctx_b": "he", "label": str(n % 4), "ind": n,
     "endings": [f"puts it into oven {n}.", "rides the river to the cat.", "sat on the warm mat.", "她看见一只猫。"]}
    for n in range(4)
] + [{"activity_label": "Walking", "ctx_a": "The dog ran. " * 40, "ctx_b": "it", "label": "1", "ind": 9,
      "endings": ["ran on", "sat down [title] and slept", "was day 3.", "sang"]}]  # fmt: skip
SCIENCE = [
    {"id": f"q{n}", "question": f"Which is number {n}?", "answerKey": "ABC"[n % 3],
     "choices": {"text": ["It is one", f"It is {n}", "plums "], "label": ["A", "B", "C"]}}
    for n in range(5)
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_tests():
    """Three of the harness's folders instead of all: reading thousands of definitions takes ten seconds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(lm_eval.__file__).parent / "tasks"
    few = TaskManager(include_path=[str(folder / name) for name in ("hellaswag", "arc", "mmlu/default")],
                      include_defaults=False)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "_manager", lambda task_files: few)
        yield


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf")
    minigpt.export_run(trained, stage="sft", out=directory / "model", verify=False)
    write_rows(directory / "scenes.jsonl", SCENES)
    write_rows(directory / "science.jsonl", SCIENCE)
    return directory


@pytest.fixture(scope="module")
def both(trained, exported):
    """(our model, transformers' model of the export) as models of the harness."""
    from lm_eval.models.huggingface import HFLM

    from minigpt.evaluate.harness_model import MiniGPTLM

    run = minigpt.open_run(trained)
    ours = MiniGPTLM(load_engine(run, "sft", get_backend("torch", "cpu")))
    theirs = HFLM(pretrained=str(exported / "model"), device="cpu", dtype="float32", max_length=64, batch_size=3,
                  prefix_token_id=END_OF_TEXT)  # fmt: skip
    return ours, theirs


def test_log_likelihoods_and_accuracies_are_those_of_transformers(both, exported):
    import lm_eval

    names = [f"hellaswag={exported / 'scenes.jsonl'}", f"arc_easy={exported / 'science.jsonl'}"]
    found = []
    for model in both:
        with _tasks(names, None) as (tasks, manager):
            found.append(lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0))
    compared = 0
    for name, rows in (("hellaswag", SCENES), ("arc_easy", SCIENCE)):
        ours, theirs = (one["samples"][name] for one in found)
        assert len(ours) == len(theirs) == len(rows)
        for a, b in zip(ours, theirs, strict=True):
            assert (a["acc"], a["acc_norm"]) == (b["acc"], b["acc_norm"])
            for (mine,), (wanted,) in zip(a["resps"], b["resps"], strict=True):
                assert mine[0] == pytest.approx(wanted[0], abs=1e-4) and mine[1] == wanted[1]
                compared += 1
        assert found[0]["results"][name]["acc,none"] == found[1]["results"][name]["acc,none"]
    assert compared == 4 * len(SCENES) + 3 * len(SCIENCE)


def test_whole_texts_and_answers(both):
    from lm_eval.api.instance import Instance

    def asked(kind, *arguments):
        return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]

    texts = asked("loglikelihood_rolling", ("We had 3 plums.",), ("The cat sat on the warm mat. " * 12,), ("花园",))
    ours, theirs = (model.loglikelihood_rolling(texts, disable_tqdm=True) for model in both)
    assert ours == pytest.approx(theirs, abs=1e-3)  # sums of more than 100 tokens
    settings = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    prompts = asked("generate_until", ("A dog", settings), ("We had 3", settings))
    ours, theirs = (model.generate_until(prompts, disable_tqdm=True) for model in both)
    assert ours == theirs and any(ours)


def test_conversations_keep_their_control_tokens(both):
    ours, theirs = both
    messages = [{"role": "user", "content": "What is 3 plus <|im_end|> 1?"}]
    text = ours.apply_chat_template(messages)
    asked, answer = ours._encode_pair(text, "It is 4")
    from minigpt.text.chatml import render

    ids, _ = render(ours.engine.tokenizer, messages, generation_prompt=True)
    assert (asked + answer)[: len(ids)] == ids
    assert ours.engine.tokenizer.decode((asked + answer)[len(ids) :]) == "It is 4"
    assert ids.count(IM_END) == 1  # what the user wrote is letters


def test_the_command(minigpt, trained, exported, tmp_path):
    flags = ["--tasks", f"hellaswag={exported / 'scenes.jsonl'}", "--backend", "torch", "--json"]
    found = json.loads(minigpt("evaluate", trained, "--stage", "sft", *flags, "--rows", 3).out)["tests"]["hellaswag"]
    assert found["chance"] == 0.25 and found["figures"]["acc"]["rows"] == 3
    minigpt("evaluate", trained, "--tasks", "helaswag", "--backend", "torch").refused(2, "hellaswag")
    minigpt("evaluate", trained, "--tasks", "hellaswag=none.jsonl", "--backend", "torch").refused(2, "none.jsonl")
    several = f"mmlu={exported / 'scenes.jsonl'}"
    minigpt("evaluate", trained, "--tasks", several, "--backend", "torch").refused(2, "several")


def test_the_harness_knows_our_name():
    from lm_eval.api.registry import get_model

    register()
    register()  # once is enough, twice does no harm
    assert get_model("minigpt").__name__ == "MiniGPTLM"


def test_without_the_harness_it_says_what_to_install(trained, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match="lm_eval.*minigpt.bench"):
        register()
    call("evaluate", trained, "--tasks", "piqa", "--backend", "torch").refused(2, "lm_eval")

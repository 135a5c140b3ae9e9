"""Adapters on models from elsewhere: SFT, then DPO over rounded weights, out to peft and back in."""

import json

import foreign
import numpy as np
from once import by_turns

from backends.tree import items
from minigpt.config import build_config
from minigpt.events import silent
from minigpt.exchange.adapters.adapters import export_adapter, import_adapter
from minigpt.exchange.importing import import_directory
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import Run, open_run
from minigpt.store.checkpoint import load_checkpoint

SMALL = {"steps": 2, "batch_size": 2, "save_every": 2, "eval_every": 2, "eval_rows": 4, "learning_rate": 0.01}
LORA = {"sft": {"lora_rank": 3, "dora": True}, "dpo": {"lora_rank": 2, "lora_bits": 4}}


def rows(path, made):
    path.write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
    return str(path)


@by_turns("kind", ["llama", "gpt2"])
def test_adapters_on_an_imported_model(backend, tmp_path, kind):
    source = tmp_path / "source"
    source.mkdir()
    foreign.save_model(source, kind, foreign.byte_level(source, foreign.CHATML))
    for name in ("run", "again"):
        import_directory(source, tmp_path / name, 64, None)
    talks = [{"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n}!"}]}
             for n in range(30)]  # fmt: skip
    pairs = [{"prompt": f"Say {n}.", "chosen": f"{n}!", "rejected": f"No, {n}."} for n in range(30)]
    run = open_run(tmp_path / "run")
    values = run.config.model_dump()
    values["data"] |= {"sft": [rows(tmp_path / "a.jsonl", talks)], "dpo": [rows(tmp_path / "b.jsonl", pairs)]}
    for stage, section in LORA.items():
        values[stage] |= SMALL | section
    run = Run(run.directory, build_config(values))
    run_pipeline(run, backend, silent, ["sft", "dpo"])
    for stage in ("sft", "dpo"):  # the latter over weights in 4 bits
        exported = export_adapter(run, stage, "peft", tmp_path / stage, backend=backend)
        assert exported.checks[0].ok and exported.checks[0].found is not None, stage
    again = open_run(tmp_path / "again")
    imported = import_adapter(again, tmp_path / "sft", "sft", backend)
    assert imported.checks[0].ok and imported.ranks == ([3, 9] if kind == "gpt2" else [3])
    for (name, a), (_, b) in zip(*(items(opened.weights("sft")[0]) for opened in (run, again)), strict=True):
        assert np.abs(a - b).max() < 1e-5, name
    before = dict(items(run.weights("pretrain")[0]))
    assert any(np.abs(leaf - before[name]).max() > 1e-3 for name, leaf in items(again.weights("sft")[0]))
    assert "adapter" in load_checkpoint(again.store("sft").final)[0]

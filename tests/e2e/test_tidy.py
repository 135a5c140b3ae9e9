"""minigpt tidy: what a finished stage no longer needs goes, what an unfinished one needs stays."""

import shutil

from command import contents, weights

from minigpt.stages.table import STAGES


def kept(run):
    """All files but checkpoints and what each command writes anew."""
    return {name: sums for name, sums in contents(run).items() if "checkpoints" not in name}


def test_checkpoints_of_finished_stages_go_and_all_else_stays(minigpt, copy):
    before = kept(copy)
    size = sum(path.stat().st_size for stage in STAGES for path in (copy / stage / "checkpoints").rglob("*")
               if path.is_file())  # fmt: skip
    minigpt("tidy", copy).refused(2, "could be freed: there is nobody to ask", "--yes")
    assert (copy / "sft" / "checkpoints").is_dir()
    answer = minigpt("generate", copy, "-p", "The cat", "--temperature", 0, "--max-tokens", 6).out
    result = minigpt("tidy", copy, "--yes")
    assert result.code == 0 and kept(copy) == before
    freed = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    assert f"Freed {freed}." in result.err
    assert not list(copy.glob("*/checkpoints"))
    assert minigpt("generate", copy, "-p", "The cat", "--temperature", 0, "--max-tokens", 6).out == answer
    assert "has nothing that it does not need" in minigpt("tidy", copy, "--yes").err
    again = minigpt("run", "--run", copy, "--backend", "torch")
    assert again.code == 0 and again.err.count("finished before, kept") == 3


def test_what_is_unfinished_goes_on_exactly(minigpt, copy, trained):
    shutil.rmtree(copy / "dpo" / "final")
    half = contents(copy / "dpo" / "checkpoints")
    assert minigpt("tidy", copy, "--yes").code == 0
    assert contents(copy / "dpo" / "checkpoints") == half and not (copy / "sft" / "checkpoints").exists()
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0
    assert weights(copy, "dpo") == weights(trained, "dpo")
    shutil.rmtree(copy / "dpo")  # a stage that has not begun starts from the final weights, which are there
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0
    assert weights(copy, "dpo") == weights(trained, "dpo")


def test_a_tidied_stage_is_not_lost_when_more_steps_are_asked_for(minigpt, copy, trained):
    assert minigpt("tidy", copy, "--yes").code == 0
    flags = ("train", "sft", "--run", copy, "--allow-changes", "--backend", "torch", "--set")
    minigpt(*flags, "sft.steps=8").refused(2, "sft cannot go on", "minigpt tidy")
    result = minigpt(*flags, "sft.learning_rate=0.5")
    assert result.code == 0 and "sft is trained already and keeps its settings" in result.err
    assert weights(copy, "sft") == weights(trained, "sft")


def test_nothing_is_deleted_beside_damaged_final_weights(minigpt, copy):
    with (copy / "sft" / "final" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    minigpt("tidy", copy, "--yes").refused(5, "was changed after it was written")
    assert (copy / "pretrain" / "checkpoints").is_dir()

"""`minigpt quantize`, and --bits on the commands that use a model."""

import json
import shutil

import numpy as np
import pytest
from command import call, contents
from safetensors.numpy import load_file


@pytest.fixture(scope="session")
def quantized(trained, tmp_path_factory):
    """A copy of the trained run with int8 (round-to-nearest) and int4 (GPTQ) weights beside its SFT."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("quantized") / "run")
    for bits, method in ((8, "round-to-nearest"), (4, "gptq")):
        result = call("quantize", run, "--stage", "sft", "--bits", bits, "--method", method, "--backend", "torch")
        assert result.code == 0, result.err
        (run / f"shown{bits}").write_text(result.out, "utf-8")
    return run


def test_the_table_names_each_matrix_and_what_changed(quantized):
    for bits, method in ((8, "round-to-nearest"), (4, "gptq")):
        shown = (quantized / f"shown{bits}").read_text("utf-8")
        assert f"Relative errors, {method} rounding" in shown and "model.layers.0.mlp.down_proj" in shown
        assert "bits per byte" in shown and "size" in shown
        stored = load_file(quantized / "sft" / f"int{bits}" / "weights.safetensors")
        assert stored["model.layers.0.mlp.up_proj.packed"].dtype == np.uint32
        assert stored["model.layers.0.mlp.up_proj.packed"].shape == (64, 32 * bits // 32)
        assert stored["model.norm.weight"].dtype == np.float32


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_evaluate_and_generate_take_the_saved_weights(quantized, backend):
    found = {}
    for bits in (0, 4, 8):
        result = call("evaluate", quantized, "--stage", "sft", "--bits", bits, "--backend", backend, "--json")
        assert result.code == 0, result.err
        assert ("sft/int4, gptq" in result.err) == (bits == 4)
        found[bits] = json.loads(result.out)["loss"]
    assert 0 < abs(found[8] - found[0]) < 0.02 * found[0]
    assert 0 < abs(found[4] - found[0]) < 0.1 * found[0] and found[4] != found[8]
    result = call("generate", quantized, "--bits", 4, "--stage", "sft", "--prompt", "The", "--max-tokens", 4)
    assert result.code == 0 and result.out.startswith("The"), result.err


def test_without_saved_weights_they_are_rounded_on_the_way(quantized):
    before = contents(quantized)
    result = call("generate", quantized, "--bits", 4, "--stage", "dpo", "--prompt", "The", "--max-tokens", 4)
    assert result.code == 0 and "rounded to nearest now" in result.err
    assert contents(quantized) == before


def test_keys_and_values_in_few_bits(minigpt, trained):
    flags = ["--prompt", "The cat", "--max-tokens", 8, "--temperature", 0, "--min-p", 0, "--backend", "torch"]
    exact = minigpt("generate", trained, *flags)
    found = minigpt("generate", trained, "--kv-bits", 8, "--bits", 8, *flags)
    assert (exact.code, found.code) == (0, 0) and found.out.startswith("The cat")
    minigpt("generate", trained, "--kv-bits", 2, *flags).refused(2, "2 bits", "--kv-bits 4 or 8")
    minigpt("generate", trained, "--bits", 2, *flags).refused(2, "2 bits", "--bits 4 or 8")


@pytest.mark.parametrize("stage", ["pretrain", "dpo"])
def test_every_stage_has_data_to_calibrate_with(copy, stage):
    result = call("quantize", copy, "--stage", stage, "--method", "gptq", "--backend", "torch", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert all(row["output_error"] < 0.01 for row in found["layers"] if row["output_error"])
    assert ("chosen_is_likelier" in found["measured"]) == (stage == "dpo")


def test_weights_of_an_older_training_are_not_used(quantized, tmp_path):
    run = shutil.copytree(quantized, tmp_path / "run")
    shutil.rmtree(run / "sft" / "final")
    shutil.copytree(run / "dpo" / "final", run / "sft" / "final")
    result = call("generate", run, "--bits", 4, "--stage", "sft", "--prompt", "The", "--max-tokens", 4)
    assert result.code == 0 and "older weights" in result.err


def test_both_backends_store_the_same_plain_weights(quantized, tmp_path):
    run = shutil.copytree(quantized, tmp_path / "run")
    result = call("quantize", run, "--stage", "sft", "--bits", 8, "--backend", "mlx", "--json")
    assert result.code == 0, result.err
    again, before = (load_file(place / "sft" / "int8" / "weights.safetensors") for place in (run, quantized))
    assert again.keys() == before.keys() and all(np.array_equal(again[name], before[name]) for name in again)
    report = json.loads(result.out)
    assert report["bits"] == 8 and report["bytes_after"] < 0.3 * report["bytes_before"]
    assert {row["bits"] for row in report["layers"]} == {8}
    assert all(0 < row["weight_error"] < 0.01 and 0 < row["output_error"] < 0.01 for row in report["layers"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--bits", "3"], ["3 bits", "--bits 4 or 8"]),
        (["--bits", "4", "--group-size", "48"], ["groups of 48"]),
        (["--bits", "4", "--method", "gptk"], ["gptk", "gptq"]),
        (["--bits", "4", "--stage", "tokenizer"], ["tokenizer"]),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence(minigpt, trained, flags, words):
    before = contents(trained)
    result = minigpt("quantize", trained, *flags, "--backend", "torch")
    result.refused(2, *words)
    assert contents(trained) == before


def test_matrices_that_groups_do_not_divide_are_shown_as_floats(minigpt, copy):
    """d_model is 32: only down_proj has rows of 64 numbers."""
    result = minigpt("quantize", copy, "--group-size", "64", "--json")
    assert result.code == 0, result.err
    bits = {row["name"].split(".")[-2]: row["bits"] for row in json.loads(result.out)["layers"]}
    assert bits["down_proj"] == 8 and {n for name, n in bits.items() if name != "down_proj"} == {32}


def test_gptq_needs_training_data(minigpt, copy):
    shutil.rmtree(copy / "data" / "sft")
    refused = minigpt("quantize", copy, "--stage", "sft", "--method", "gptq")
    refused.refused(2, "no training data", "--method round-to-nearest")


def test_an_imported_model_has_nothing_to_measure_with(minigpt, copy, tmp_path):
    shutil.rmtree(copy / "data" / "sft")
    result = minigpt("quantize", copy, "--stage", "sft", "--bits", "4", "--json")
    assert result.code == 0 and "--data FILE" in result.err, result.err
    found = json.loads(result.out)
    assert found["measured"] == {} and all(row["output_error"] is None for row in found["layers"])


def test_damaged_weights_are_not_used(minigpt, quantized, tmp_path):
    run = shutil.copytree(quantized, tmp_path / "run")
    path = run / "sft" / "int4" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    minigpt("generate", run, "--bits", "4", "--stage", "sft", "--prompt", "x").refused(5, "int4", "changed")

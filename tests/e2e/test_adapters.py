"""LoRA from the command line, and adapters that peft and mlx-lm read and write: each on the same weights as ours."""

import json
import shutil

import numpy as np
import pytest
from command import call, contents, tiny, weights
from safetensors.numpy import load_file, save_file

from backends import get_backend
from backends.tree import unflatten
from minigpt.errors import UsageError
from minigpt.exchange.adapters.adapters import import_adapter
from minigpt.exchange.adapters.files import layers_of, read_adapter, tree_of
from minigpt.exchange.exporting import write_model
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.lora import join
from minigpt.runs.run import open_run
from minigpt.store.checkpoint import load_checkpoint

LORA = {f"{stage}__{key}": value for stage in ("sft", "dpo")
        for key, value in {"lora_rank": 4, "lora_alpha": 8, "learning_rate": 0.01}.items()}  # fmt: skip


@pytest.fixture(scope="session")
def lora_run(sources, tmp_path_factory):
    """A whole run whose SFT is LoRA on all layers and whose DPO is DoRA on two kinds of them."""
    directory = tmp_path_factory.mktemp("lora") / "run"
    settings = LORA | {"dpo__dora": "true", "dpo__lora_targets": '["q_proj","down_proj"]', "sft__lora_dropout": 0.1}
    result = call("run", *tiny(**settings), *sources.flags, "--run", directory, "--backend", "torch")
    assert result.code == 0, result.err
    (directory / "stderr").write_text(result.err, "utf-8")
    return directory


@pytest.fixture(scope="session")
def bases(lora_run, tmp_path_factory):
    """Stage -> the directory of the model that its adapter belongs to, for transformers and mlx-lm."""
    run, root = open_run(lora_run), tmp_path_factory.mktemp("bases")
    for stage, before in (("sft", "pretrain"), ("dpo", "sft")):
        (root / stage).mkdir()
        write_model(run.model_config, run.weights(before)[0], run.tokenizer, root / stage, "float32", "pt")
    return {stage: root / stage for stage in ("sft", "dpo")}


@pytest.fixture
def copy_of(lora_run, tmp_path):
    return shutil.copytree(lora_run, tmp_path / "copy")


def adapter_of(directory, stage):
    return unflatten(load_checkpoint(directory / stage / "final")[0]["adapter"])


IDS = np.random.default_rng(3).integers(0, 300, (2, 20)).astype(np.int32)


def our_logits(directory, before, adapter=None, backend="torch"):
    run, backend = open_run(directory), get_backend(backend, "cpu")
    tree = run.weights(before)[0]
    tree = tree if adapter is None else join(tree, adapter)
    return backend.numpy(GPT(run.model_config, backend)(to_backend(backend, tree), backend.array(IDS)))


# ---- training


def test_a_run_with_adapters_is_used_like_any_other(minigpt, lora_run):
    said = (lora_run / "stderr").read_text("utf-8")
    assert "sft: LoRA of rank 4 in 7 layers" in said and "dpo: DoRA of rank 4 in 2 layers" in said
    for stage in ("sft", "dpo"):
        assert minigpt("generate", lora_run, "--stage", stage, "--prompt", "The", "--max-tokens", 3).code == 0
    assert minigpt("evaluate", lora_run, "--json").code == 0
    assert minigpt("chat", lora_run, stdin=b"Hello\n").code == 0
    sizes = {
        stage: max(path.stat().st_size for path in (lora_run / stage / "checkpoints").rglob("weights.safetensors"))
        for stage in ("pretrain", "sft")
    }
    assert sizes["sft"] < sizes["pretrain"] / 3
    assert minigpt("train", "sft", "--run", lora_run).code == 0  # finished: nothing to do


def test_the_next_stage_may_train_all_weights(minigpt, copy_of):
    shutil.rmtree(copy_of / "dpo")
    result = minigpt("train", "dpo", "--run", copy_of, "--set", "dpo.lora_rank=0", "--set", "dpo.lora_targets=[]")
    assert result.code == 0, result.err
    assert not (copy_of / "dpo" / "final" / "adapter.safetensors").exists()
    assert weights(copy_of, "dpo") != weights(copy_of, "sft")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ('sft.lora_targets=["query"]', "Known are: q_proj"),
        ("sft.lora_rank=17", "larger than model.layers.0.self_attn.k_proj is wide (16 x 32)"),
        ("sft.lora_rank=-1", "sft.lora_rank"),
        ("sft.lora_dropout=1.0", "sft.lora_dropout"),
        ("pretrain.lora_rank=4", "sft.lora_rank"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(minigpt, sources, tmp_path, setting, word):
    result = minigpt("run", *tiny(sft__lora_rank=4), "--set", setting, *sources.flags, "--run", tmp_path / "new")
    result.refused(2, word)
    assert not (tmp_path / "new").exists()


# ---- for others


@pytest.mark.parametrize("to", ["peft", "mlx-adapter"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_other_tool_reads_our_adapter(minigpt, copy_of, bases, stage, to):
    """The command's own check, and the same here by other means; an adapter that changes nothing would not pass."""
    result = minigpt("export", copy_of, "--to", to, "--stage", stage, "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert [check["ok"] for check in said["checks"]] == [True] and said["checks"][0]["found"] is not None
    before = {"sft": "pretrain", "dpo": "sft"}[stage]
    found = {"peft": peft_logits, "mlx-adapter": mlx_logits}[to](bases[stage], copy_of / "export" / to)
    assert np.abs(found - our_logits(copy_of, stage)).max() < 1e-4
    assert np.abs(found - our_logits(copy_of, before)).max() > 1e-3


def peft_logits(base, adapter):
    model = peft_model(base, adapter)
    return model(input_ids=tensor(IDS)).logits.detach().numpy()


def peft_model(base, adapter):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True).eval()


def tensor(ids):
    import torch

    return torch.tensor(ids).long()


def mlx_logits(base, adapter):
    import mlx.core as mx
    import mlx_lm

    model, _ = mlx_lm.load(str(base), adapter_path=str(adapter))
    return np.array(model(mx.array(IDS)))


@pytest.mark.parametrize("to", ["peft", "mlx-adapter"])
def test_an_adapter_over_quantized_weights_is_checked_on_them(minigpt, copy_of, to):
    shutil.rmtree(copy_of / "dpo")
    result = minigpt("train", "dpo", "--run", copy_of, "--set", "dpo.lora_bits=4", "--backend", "torch")
    assert result.code == 0, result.err
    result = minigpt("export", copy_of, "--to", to, "--json", "--backend", "torch")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert said["stage"] == "dpo" and said["checks"][0]["found"] < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_adapter_in_sixteen_bits(minigpt, copy_of, dtype):
    result = minigpt("export", copy_of, "--to", "peft", "--dtype", dtype, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["checks"][0]["ok"]
    assert read_adapter(copy_of / "export" / "peft", open_run(copy_of).model_config)  # both read what was rounded


def test_an_export_that_others_read_differently_is_not_kept(minigpt, copy_of, monkeypatch):
    """The check can fail: alpha written for scale."""
    from minigpt.exchange.adapters import adapters

    right = adapters.write_adapter

    def wrong(directory, to, layers, *rest):
        layers = {name: leaves | {"lora_scale": 2 * leaves["lora_scale"]} for name, leaves in layers.items()}
        right(directory, to, layers, *rest)

    monkeypatch.setattr(adapters, "write_adapter", wrong)
    minigpt("export", copy_of, "--to", "mlx-adapter").refused(1, "mlx_lm differs in logits")
    assert list((copy_of / "export").iterdir()) == []


def test_a_stage_without_an_adapter_has_none_to_export(minigpt, copy_of, trained):
    minigpt("export", copy_of, "--to", "peft", "--stage", "pretrain").refused(2, "pretrain", "no adapter", "--to hf")
    minigpt("export", trained, "--to", "peft").refused(2, "No stage", "lora_rank")


# ---- the gradients of DoRA and LoRA are PEFT's


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_gradients_are_those_of_peft(minigpt, copy_of, bases, stage):
    assert minigpt("export", copy_of, "--to", "peft", "--stage", stage).code == 0
    model = peft_model(bases[stage], copy_of / "export" / "peft")
    logits = model(input_ids=tensor(IDS)).logits
    (logits.float() ** 2).mean().backward()
    theirs = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    backend, run = get_backend("torch", "cpu"), open_run(copy_of)
    adapter = adapter_of(copy_of, stage)
    flat = layers_of(adapter)
    trained = tree_of({layer: {k: v for k, v in x.items() if k != "lora_scale"} for layer, x in flat.items()})
    scales = tree_of({layer: {"lora_scale": x["lora_scale"]} for layer, x in flat.items()})
    base = to_backend(backend, join(run.weights({"sft": "pretrain", "dpo": "sft"}[stage])[0], scales))
    model = GPT(run.model_config, backend)

    def loss(adapter, ids):
        return (model(join(base, adapter), ids) ** 2).mean(), {}

    _, grads = backend.value_and_grad(loss)(to_backend(backend, trained), backend.array(IDS))
    compared = 0
    for layer, leaves in layers_of(grads).items():
        for kind, ending in (("lora_a", "lora_A.default.weight"), ("lora_b", "lora_B.default.weight"),
                             ("lora_magnitude", "lora_magnitude_vector.default.weight")):  # fmt: skip
            if kind in leaves:
                right = theirs[f"base_model.model.{layer}.{ending}"]
                gap = np.abs(backend.numpy(leaves[kind]) - right).max() / np.abs(right).max()
                assert gap < 1e-4, (layer, kind, gap)
                compared += 1
    assert compared == len(theirs)


# ---- from others


@pytest.fixture
def base_run(copy_of):
    """A run that is only pretrained."""
    for stage in ("sft", "dpo"):
        shutil.rmtree(copy_of / stage)
    return copy_of


def write_with_peft(base, directory, **settings):
    """An adapter that peft itself initialises and saves, with random B; returns its logits."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return model(input_ids=tensor(IDS)).logits.detach().numpy()


PEFT_CASES = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear", "use_dora": True},
    {"target_modules": ["o_proj", "up_proj"], "use_rslora": True},
    {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 5}, "alpha_pattern": {"q_proj": 2}},
]


@pytest.mark.parametrize("settings", PEFT_CASES)
def test_we_read_an_adapter_that_peft_wrote(minigpt, base_run, bases, tmp_path, settings):
    theirs = write_with_peft(bases["sft"], tmp_path / "adapter", **settings)
    run = open_run(base_run)
    layers = read_adapter(tmp_path / "adapter", run.model_config)
    assert np.abs(our_logits(base_run, "pretrain", tree_of(layers)) - theirs).max() < 1e-4
    result = minigpt("import", tmp_path / "adapter", "--run", base_run, "--backend", "torch", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["stage"], found["before"], found["layers"]) == ("sft", "pretrain", len(layers))
    assert [check["ok"] for check in found["checks"]] == [True] and found["checks"][0]["found"] is not None
    assert np.abs(our_logits(base_run, "sft") - theirs).max() < 1e-4
    assert np.abs(our_logits(base_run, "pretrain") - theirs).max() > 1e-2


@pytest.mark.parametrize("dora", [False, True])
def test_we_read_an_adapter_that_mlx_lm_wrote(minigpt, base_run, bases, tmp_path, dora):
    """Made by mlx-lm's own functions, on the last layers and on named keys."""
    import mlx.core as mx
    import mlx.utils
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    mx.random.seed(0)
    parameters = {"rank": 3, "scale": 5.0, "dropout": 0.0, "keys": ["self_attn.v_proj", "mlp.up_proj"]}
    model, _ = load_model(bases["sft"])
    model.freeze()
    linear_to_lora_layers(model, 1, parameters, use_dora=dora)
    trained = {name: x + 0.1 * mx.random.normal(x.shape)
               for name, x in mlx.utils.tree_flatten(model.trainable_parameters())}  # fmt: skip
    trained = {name: x for name, x in trained.items() if name.rpartition(".")[2] in ("lora_a", "lora_b", "m")}
    model.load_weights(list(trained.items()), strict=False)
    directory = tmp_path / "adapter"
    directory.mkdir()
    mx.save_safetensors(str(directory / "adapters.safetensors"), trained)
    kind = {"fine_tune_type": "dora" if dora else "lora"}
    (directory / "adapter_config.json").write_text(json.dumps(kind | {"num_layers": 1, "lora_parameters": parameters}))
    theirs = np.array(model(mx.array(IDS)))
    layers = read_adapter(directory, open_run(base_run).model_config)
    assert np.abs(our_logits(base_run, "pretrain", tree_of(layers), "mlx") - theirs).max() < 1e-4
    assert np.abs(our_logits(base_run, "pretrain", None, "mlx") - theirs).max() > 1e-2
    result = minigpt("import", directory, "--run", base_run, "--stage", "dpo")
    assert result.code == 0 and "mlx_lm" in result.out and "stage dpo (rank 3 in 2 layers" in result.out
    assert np.abs(our_logits(base_run, "dpo", None, "mlx") - theirs).max() < 1e-4


def change(directory, **keys):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def without_one(directory):
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def transposed(directory):
    path = directory / "adapter_model.safetensors"
    save_file({name: np.ascontiguousarray(x.T) for name, x in load_file(path).items()}, path)


def other_name(directory):
    path = directory / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "query_proj"): x for name, x in load_file(path).items()}, path)


def cut(directory):
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES = [
    (lambda d: change(d, peft_type="IA3"), "peft_type = 'IA3'"),
    (lambda d: change(d, bias="all"), "bias = 'all'"),
    (lambda d: change(d, init_lora_weights="pissa"), "changed the weights of the base"),
    (lambda d: change(d, modules_to_save=["lm_head"]), "modules_to_save"),
    (lambda d: (d / "adapter_config.json").write_text("{"), "no JSON"),
    (lambda d: (d / "adapter_config.json").write_text("{}"), "neither PEFT's nor mlx-lm's"),
    (lambda d: (d / "adapter_config.json").unlink(), "no adapter"),
    (lambda d: (d / "adapter_model.safetensors").unlink(), "cannot be read"),
    (without_one, "lacks lora_a"),
    (transposed, "is for another model"),
    (other_name, "query_proj"),
    (cut, "no whole safetensors file"),
]


@pytest.mark.parametrize(("damage", "word"), DAMAGES)
def test_an_adapter_that_does_not_fit_is_refused(minigpt, copy_of, damage, word):
    assert minigpt("export", copy_of, "--to", "peft", "--stage", "sft").code == 0
    directory = copy_of / "export" / "peft"
    for stage in ("sft", "dpo"):
        shutil.rmtree(copy_of / stage)
    damage(directory)
    before = contents(copy_of)
    with pytest.raises(UsageError, match=word):
        import_adapter(open_run(copy_of), directory)
    assert contents(copy_of) == before


def test_where_an_adapter_cannot_go(minigpt, copy_of, base_run, trained):
    """copy_of and base_run are the same directory, without its sft and dpo."""
    directory = trained.parent / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    minigpt("import", directory).refused(2, "is an adapter", "--run")
    minigpt("import", directory, "--run", trained).refused(2, "has a stage sft already")
    minigpt("import", directory, "--run", copy_of, "--stage", "pretrain").refused(2, "pretrain", "sft")
    minigpt("import", directory, "--run", copy_of).refused(2, "adapter_model.safetensors cannot be read")
    assert not (copy_of / "sft").exists()

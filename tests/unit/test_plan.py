"""What a run will take: costs and memory of a shape, the division that fits, and what was measured beside it."""

import re

import pytest

from backends.torch.backend import SLOW_GRADIENT
from minigpt.cli.machine_tables import plan_lines
from minigpt.cli.plan import plan as plan_command
from minigpt.config import Config, load_config
from minigpt.data.forms import CONVERSATIONS, TEXTS
from minigpt.model.gpt import flops_per_token, kept_values, parameter_count
from minigpt.model.lora import trained_count
from minigpt.plan.costs import checkpoint_bytes, exchanged, state_of
from minigpt.plan.fit import DIVISION, divisions, fit
from minigpt.plan.memory import HABITS, NARROW, SHARDING, stage_memory
from minigpt.plan.plan import Place, expected_rows, make_plan, model_with_vocabulary
from minigpt.plan.speed import Speed, throttled
from minigpt.sections import ModelConfig, StageConfig, TuneConfig
from minigpt.stages.dpo import DPOConfig
from minigpt.stages.table import STAGES

SHAPE = {"n_layer": 4, "n_head": 8, "n_kv_head": 4, "d_model": 256, "d_ff": 704, "context": 256, "vocab_size": 2048}
WIDE = {"batch_size": 1, "d_model": 768, "d_ff": 2048}
# (backend, what differs from SHAPE and 8 rows, MB before the model, MB at the peak of three training steps), measured
# on Linux x86 with torch 2.13 and mlx 0.32, one thread, resident memory of the process.
MEASURED = [
    ("torch", {}, 247, 602), ("torch", {"n_layer": 1}, 247, 427), ("torch", {"n_layer": 8}, 247, 861),
    ("torch", {"batch_size": 16}, 247, 875), ("torch", {"batch_size": 2}, 247, 385),
    ("torch", {"context": 512, "batch_size": 4}, 247, 601), ("torch", {"vocab_size": 8192}, 247, 779),
    ("torch", {"d_ff": 1408}, 247, 748), ("torch", {"n_kv_head": 8}, 247, 642), ("torch", {"qk_norm": True}, 247, 624),
    ("torch", {"optimizer": "muon"}, 247, 621), ("torch", {"checkpointing": True}, 247, 554),
    ("torch", {"accumulation": 2}, 247, 489), ("torch", {"vocab_size": 8192, "loss_chunk": 256}, 247, 607),
    ("torch", {"d_model": 512}, 247, 797), ("torch", WIDE, 247, 958),
    ("torch", WIDE | {"optimizer": "muon"}, 247, 1134),
    ("mlx", {}, 161, 566), ("mlx", {"n_layer": 1}, 161, 363), ("mlx", {"n_layer": 8}, 161, 840),
    ("mlx", {"batch_size": 16}, 161, 889), ("mlx", {"batch_size": 2}, 161, 317),
    ("mlx", {"context": 512, "batch_size": 4}, 161, 609), ("mlx", {"vocab_size": 8192}, 161, 724),
    ("mlx", {"d_ff": 1408}, 161, 722), ("mlx", {"n_kv_head": 8}, 161, 583), ("mlx", {"qk_norm": True}, 161, 595),
    ("mlx", {"optimizer": "muon"}, 161, 563), ("mlx", {"checkpointing": True}, 161, 552),
    ("mlx", {"accumulation": 2}, 161, 448), ("mlx", {"vocab_size": 8192, "loss_chunk": 256}, 161, 647),
    ("mlx", {"d_model": 512}, 161, 744), ("mlx", WIDE, 161, 995), ("mlx", WIDE | {"optimizer": "muon"}, 161, 1117),
]  # fmt: skip

# The same in bfloat16 on a processor with matrix units (AMX), eight training steps.
MEASURED_NARROW = [
    ({}, 627), ({"n_layer": 8}, 775), ({"batch_size": 16}, 844), ({"batch_size": 2}, 434), ({"qk_norm": True}, 637),
    ({"context": 512, "batch_size": 4}, 582), ({"optimizer": "muon"}, 638), ({"activation_checkpointing": True}, 604),
    ({"d_model": 512}, 840), ({"vocab_size": 6000}, 659),
]  # fmt: skip


def settings(changes):
    model = ModelConfig(**SHAPE | {k: v for k, v in changes.items() if k in ModelConfig.model_fields})
    stage = {k: v for k, v in changes.items() if k not in ModelConfig.model_fields}
    return model, StageConfig(**{"batch_size": 8} | stage)


@pytest.mark.parametrize(("backend", "changes", "base", "peak"), MEASURED)
def test_memory_is_within_15_percent_of_what_was_measured(backend, changes, base, peak):
    model, stage = settings(changes)
    planned = stage_memory(model, TEXTS, stage, (backend, "cpu"), "float32", base * 10**6)
    assert planned.total == pytest.approx(peak * 1e6, rel=0.15)
    assert min(vars(planned).values()) >= 0


@pytest.mark.parametrize(("changes", "peak"), MEASURED_NARROW)
def test_memory_in_bfloat16_is_within_15_percent_of_what_was_measured(changes, peak):
    model, stage = settings(changes)
    planned = stage_memory(model, TEXTS, stage, ("torch", "cpu"), "bfloat16", 306 * 10**6)
    assert planned.total == pytest.approx(peak * 1e6, rel=0.15)


def test_attention_is_exact_for_as_many_tokens_as_the_backend_says():
    assert NARROW["torch", "cpu"].exact == SLOW_GRADIENT


@pytest.mark.parametrize("framework", [(b, d) for b in ("torch", "mlx") for d in ("cpu", "gpu")])
def test_each_way_to_need_less_memory_plans_less(framework):
    model, whole = settings({"vocab_size": 8192, "batch_size": 16})

    def total(**changes):
        return stage_memory(model, CONVERSATIONS, whole.model_copy(update=changes), framework, "float32", 0).total

    for changes in ({"grad_accumulation": 2}, {"activation_checkpointing": True}, {"loss_chunk": 256}):
        assert total(**changes) < total()
    assert total(grad_accumulation=16) < total(grad_accumulation=2)
    half = stage_memory(model, TEXTS, whole, framework, "bfloat16", 0)
    assert half.total < stage_memory(model, TEXTS, whole, framework, "float32", 0).total


def test_flops_are_six_per_weight_and_the_attention():
    model = ModelConfig(**SHAPE | {"n_layer": 1, "tie_embeddings": False})
    d, f, q, k = 256, 704, 256, 128
    matrices = 2 * d * q + 2 * d * k + 3 * d * f + 2048 * d
    assert flops_per_token(model, 256) == 6 * matrices + 12 * q * 256
    assert flops_per_token(model.model_copy(update={"tie_embeddings": True}), 256) == flops_per_token(model, 256)


def test_what_options_of_attention_cost():
    base = {"n_layer": 2, "tie_embeddings": False}
    plain = ModelConfig(**SHAPE | base)

    def more(**options):
        return flops_per_token(ModelConfig(**SHAPE | base | options), 256) - flops_per_token(plain, 256)

    assert more(head_gate=True) == 2 * 6 * 256 * 8 and more(value_projection=True) == 2 * 6 * 256 * 128
    assert more(repeat_layers=1) == (flops_per_token(plain, 256) - 6 * 2048 * 256) / 2


def test_what_a_block_keeps_is_the_sum_of_its_arrays():
    gelu = ModelConfig(**SHAPE | {"feed_forward": "gelu"})
    d, f, q, k, heads, width = 256, 704, 256, 128, 8, 256
    torch, mlx = HABITS["torch", "cpu"], HABITS["mlx", "cpu"]
    arrays = 2 * 3 * d + 3 * q + 2 * k + heads  # of torch: two norms; q, k, v, the attended values; a log-sum per head
    assert kept_values(ModelConfig(**SHAPE), torch, width, False) == arrays + 4 * f
    assert kept_values(ModelConfig(**SHAPE | {"qk_norm": True}), torch, width, False) == arrays + 4 * f + 2 * (q + k)
    assert kept_values(gelu, torch, width, True) == arrays + 2 * f + width / 4  # and a mask of segments
    narrow = NARROW["torch", "cpu"]  # float32 counts twice: what norms read; q, k, v and the attended values once
    assert kept_values(ModelConfig(**SHAPE), narrow, width, False) == arrays + 2 * d + 2 * (q + k) + 4 * f
    both = ModelConfig(**SHAPE | {"head_gate": True, "value_projection": True})
    assert kept_values(both, torch, width, False) == arrays + 4 * f + k + q + heads
    assert kept_values(ModelConfig(**SHAPE), narrow, width + 1, False) == arrays + 2 * d + 4 * f
    scores = (width + 64) / 2 * heads  # of MLX on CPUs: strips of 64 queries
    assert kept_values(gelu, mlx, width, False) == arrays - 2 * d + 3 * f + scores


def test_an_adapter_is_cheaper_than_the_model():
    model = ModelConfig(**SHAPE)
    full, adapter = TuneConfig(), TuneConfig(lora_rank=4)
    state, packed = state_of(model, adapter), state_of(model, TuneConfig(lora_rank=4, lora_bits=4))
    assert state.trained == 4 * trained_count(model, adapter) and state.optimizer == 2 * state.trained
    assert state.weights == 4 * parameter_count(model) + state.trained and packed.weights < state.weights / 4
    plans = [stage_memory(model, CONVERSATIONS, c, ("torch", "cpu"), "float32", 0) for c in (full, adapter)]
    assert plans[1].total < plans[0].total and plans[1].gradients + plans[1].optimizer < 1e6


def test_several_processes_share_rows_and_what_is_shared_out():
    """Eight rows for four; a layer's leaves, and those outside the layers, by hand."""
    model, config = settings({})
    d, f, q, k = 256, 704, 256, 128
    layer, outside = 4 * (2 * d * q + 2 * d * k + 3 * d * f + 2 * d), 4 * (2048 * d + d)
    size = 4 * layer + outside
    assert size == 4 * parameter_count(model)

    def memory(processes, shard="none"):
        wanted = config.model_copy(update={"shard": shard})
        return stage_memory(model, TEXTS, wanted, ("torch", "cpu"), "float32", 0, processes=processes)

    alone, plain, moments, full = memory(1), memory(4), memory(4, "moments"), memory(4, "full")
    assert plain.activations == alone.activations // 4 and plain.gradients == 2 * size, "and their sums"
    assert (plain.weights, moments.weights) == (size, size)
    assert (plain.optimizer, moments.optimizer, full.optimizer) == (2 * size, size / 2, size / 2)
    gathered = outside + 3 * layer
    assert (full.weights, full.gradients) == (size / 4 + gathered, size / 4 + gathered)
    assert full.total - SHARDING < moments.total < plain.total and memory(1, "full").total == alone.total


def test_what_a_step_exchanges_by_counting_turns():
    """Around a ring of N, one turn of N - 1 brings (N - 1) / N of the bytes to each; a sum for all takes two."""
    def turns(backend="torch", **settings):
        return exchanged(100, StageConfig(**settings), backend) / (400 / 2)

    assert turns() == 2 and turns(transfer="bfloat16") == 1
    assert turns(shard="moments") == 3 and turns("mlx", shard="moments") == 4
    assert turns(shard="full") == 3 and turns(shard="full", grad_accumulation=2) == 6
    assert turns(shard="full", transfer="bfloat16") == 2.5


# ---- fitting -------------------------------------------------------------------------------------------------


def test_divisions_keep_the_batch_and_end_with_the_least_memory():
    every = list(divisions(StageConfig(batch_size=12, grad_accumulation=2)))
    assert every[0] == StageConfig(batch_size=12, grad_accumulation=2)
    assert all(one.batch_size == 12 and 12 % one.grad_accumulation == 0 and one.grad_accumulation >= 2 for one in every)
    assert (every[-1].grad_accumulation, every[-1].activation_checkpointing, every[-1].loss_chunk) == (12, True, 256)
    changed = set(DIVISION)
    for one in every:
        assert one.model_dump(exclude=changed) == every[0].model_dump(exclude=changed)


def test_the_first_division_that_fits_is_taken():
    config = StageConfig(batch_size=8)
    assert fit(config, lambda one: True) == config
    assert fit(config, lambda one: one.loss_chunk > 0) == config.model_copy(update={"loss_chunk": 256})
    assert fit(config, lambda one: one.grad_accumulation >= 4).grad_accumulation == 4
    assert fit(config, lambda one: one.activation_checkpointing).activation_checkpointing
    assert fit(config, lambda one: False) is None


def planned(budget, **stage):
    config = Config(model=ModelConfig(**SHAPE), pretrain=StageConfig(**{"steps": 100, "batch_size": 8} | stage))
    speed = Speed(token=1e-6, forward=3e-7, update=0.01)
    place = Place("torch", "cpu", "float32", 250 * 10**6, budget)
    return make_plan(config, {"pretrain": 0}, place, lambda *what: speed)


def test_a_plan_divides_a_step_until_it_fits():
    free = planned(None)
    assert free.fits and not free.stages[0].divided and free.memory == free.stages[0].memory.total
    less = planned(int(0.85 * free.memory))
    assert less.fits and less.stages[0].divided and less.memory <= 0.85 * free.memory
    never = planned(260 * 10**6)
    assert not never.fits and never.stages[0].division["activation_checkpointing"]


def test_time_is_steps_and_measurements_and_checkpoints():
    plan = planned(None, eval_every=50, save_every=100, eval_rows=10)
    row = 256
    training = 100 * (8 * row * 1e-6 + 0.01)
    looks = 3  # before, in the middle, at the end
    saving = 2 * checkpoint_bytes(ModelConfig(**SHAPE), StageConfig()) / 300e6  # each measurement may be the best one
    assert plan.seconds == pytest.approx(training + looks * 10 * row * 3e-7 + saving)
    assert plan.stages[0].tokens == 100 * 8 * row
    assert plan.as_dict()["stages"][0]["memory"]["total"] == plan.memory


def test_the_time_of_sampled_answers_is_said_to_be_the_longest():
    place = Place("torch", "cpu", "float32", 0, None)
    stages = {"sft": 0, "kto": 0, "grpo": 0, "distill": 0}
    (line,) = plan_lines(make_plan(Config(), stages, place, lambda *w: Speed(1e-6, 3e-7, 0.01)))
    assert re.findall(r"(\w+) at most \d", line) == ["grpo"]  # distill's answers are given, KTO's too


@pytest.mark.parametrize("every", [(10, 10), (4, 6), (6, 4), (7, 100), (100, 7), (1, 1), (5, 3)])
@pytest.mark.parametrize("done", [0, 1, 8, 59])
def test_measurements_and_checkpoints_are_counted_as_the_loop_makes_them(every, done):
    save_every, eval_every = every
    config = Config(pretrain=StageConfig(steps=60, save_every=save_every, eval_every=eval_every, eval_rows=1))
    place = Place("torch", "cpu", "float32", 0, None)
    looks = make_plan(config, {"pretrain": done}, place, lambda *w: Speed(0.0, 1.0, 0.0)).seconds
    due = range(done + 1, 61)
    right = sum(step % save_every == 0 or step % eval_every == 0 or step == 60 for step in due) + (done == 0)
    saves = right - (done == 0)  # each measurement may be the best one
    size = checkpoint_bytes(model_with_vocabulary(config), config.pretrain)
    assert looks == pytest.approx(right * config.model.context + saves * size / 300e6)


@pytest.mark.parametrize(
    ("used", "share", "factor"), [(1.0, 0.5, 2.0), (0.5, 0.5, 1.0), (0.9, None, 1.0), (0.8, 0.2, 4.0)]
)
def test_a_cpu_limit_takes_its_time(used, share, factor):
    """Twice the time for half of the cores; nothing for a run that uses no more than it may."""
    assert throttled(Speed(1.0, 0.5, 3.0), used, share) == Speed(factor, 0.5 * factor, 3.0 * factor)


def test_dpo_reads_its_reference_once():
    config = Config(model=ModelConfig(**SHAPE), dpo=DPOConfig(steps=10, batch_size=4))
    assert expected_rows(config, STAGES["dpo"]) == round(3000 * 87 / 512)  # counted after preparing: 487 + 25
    own = config.model_copy(update={"data": config.data.model_copy(update={"dpo": ["pairs.jsonl"]})})
    assert expected_rows(own, STAGES["dpo"]) == 40
    place, speed = Place("torch", "cpu", "float32", 0, None), Speed(1e-6, 1e-6, 0.0)
    known = [make_plan(config, {"dpo": done}, place, lambda *w: speed, rows={"dpo": 1000}) for done in (0, 5)]
    assert known[0].seconds - known[1].seconds > 1000 * 512 * 1e-6
    assert known[0].stages[0].tokens == 10 * 4 * 512  # rows of pairs are twice as long


@pytest.mark.parametrize(("stage", "less"), [("pretrain", False), ("sft", True), ("dpo", True)])
def test_logits_are_planned_for_the_built_in_worlds_answers_and_for_all_tokens_of_others(stage, less):
    config = Config(model=ModelConfig(**SHAPE))
    own = config.model_copy(update={"data": config.data.model_copy(update={stage: ["mine.jsonl"]})})
    place = Place("torch", "cpu", "float32", 0, None)
    logits = [make_plan(c, {stage: 0}, place, lambda *w: None).stages[0].memory.logits for c in (config, own)]
    assert logits[1] > 0 and (logits[0] < 0.5 * logits[1] if less else logits[0] == logits[1])


# Parameters as their authors state them, in millions; nanochat's d20 has squared ReLUs of 4 d instead of SwiGLU.
PUBLISHED = {"MiniMind 26M": 25.8, "MiniMind 104M": 104.0, "nanoGPT characters": 10.7, "GPT-2 124M": 124.4,
             "nanochat d20": 561.0}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_shapes_in_the_help_are_what_they_say(name):
    told = " ".join(plan_command.__doc__.split()).partition(f"{name}: ")[2]
    sets = re.findall(r"--set (\S+)", re.match(r"(?:--set \S+ ?)+", told)[0])
    model = model_with_vocabulary(load_config("medium", None, sets))
    assert parameter_count(model) / 1e6 == pytest.approx(PUBLISHED[name], rel=0.01)

"""The sections of a configuration: what the model, the tokenizer and a training stage may be set to.

The whole configuration of a run, and how preset, file and flags become one, is in `minigpt.config`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# What settings were once called, by their names now: the configuration of every run made before is still read.
RENAMED = {
    "accumulation": "grad_accumulation", "checkpointing": "activation_checkpointing", "clip": "grad_clip",
    "repeatable": "deterministic", "shard_moments": "shard",
}  # fmt: skip
RENAMED_VALUES = {
    ("schedule", "hold"): "wsd", ("shard_moments", True): "moments", ("shard_moments", False): "none",
}  # fmt: skip
FORM = "form"  # marks a field: with another value the trained weights would mean nothing


def with_new_names(values: dict) -> dict:
    """Nested values with the names of today; what has both names keeps the new one."""
    found = {}
    for key, value in values.items():
        if key in RENAMED and RENAMED[key] in values:
            continue
        value = with_new_names(value) if isinstance(value, dict) else value
        hashable = isinstance(value, str | bool)
        found[RENAMED.get(key, key)] = RENAMED_VALUES.get((key, value), value) if hashable else value
    return found


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, not changed after it is built."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RopeScaling(Section):
    """Rotary positions stretched beyond the `original_context` (see model.rope). `dynamic` finds its own factor."""

    kind: Literal["none", "linear", "ntk", "dynamic", "llama3", "yarn"] = Field("none", description="how")
    factor: float = Field(1.0, ge=1, description="new context / trained context")
    original_context: int = Field(0, ge=0, description="that the model was trained with")
    low_freq_factor: float = Field(1.0, gt=0, description="llama3's")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3's")
    beta_fast: float = Field(32.0, gt=0, description="yarn's")
    beta_slow: float = Field(1.0, gt=0, description="yarn's")
    attention_factor: float = Field(0.0, ge=0, description="yarn's; 0 means 0.1 ln(factor) + 1")

    @model_validator(mode="after")
    def _has_a_context(self) -> "RopeScaling":
        if self.kind in ("llama3", "yarn", "dynamic") and not self.original_context:
            raise ValueError(f"kind = '{self.kind}' needs original_context")
        if self.kind == "dynamic" and self.factor != 1:
            raise ValueError("kind = 'dynamic' takes its factor from context / original_context: omit factor")
        return self


class ModelConfig(Section):
    """The decoder's shape. `vocab_size` 0 means: as many as the tokenizer has.

    The defaults after `qk_norm` are those of our own models; the handbook's architecture.md explains the others.
    """

    head: ClassVar[str] = "vocabulary"  # a row of minigpt.model.heads.HEADS

    n_layer: int = Field(4, ge=1, description="blocks")
    n_head: int = Field(4, ge=1, description="query heads")
    n_kv_head: int = Field(2, ge=1, description="key/value heads, which groups of query heads share")
    d_model: int = Field(128, ge=2, description="width")
    d_ff: int = Field(352, ge=1, description="width of the feed-forward layers")
    head_dim: int = Field(0, ge=0, description="width of one head; 0 means d_model / n_head")
    context: int = Field(256, ge=2, description="tokens that the model is trained to see at once")
    vocab_size: int = Field(0, ge=0, description="0 means as many as the tokenizer has")
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary positions")
    norm_eps: float = Field(1e-5, gt=0, description="smallest divisor of a norm")
    tie_embeddings: bool = Field(True, description="use the embeddings as the output matrix, too")
    qk_norm: bool = Field(False, description="norms on queries and keys")
    qk_norm_whole: bool = Field(False, description="those norms over all heads together, not head by head")
    norm: Literal["rms", "layer"] = Field("rms", description="RMSNorm or LayerNorm")
    norm_placement: Literal["pre", "post", "sandwich"] = Field("pre", description="before a layer, after its sum, both")
    parallel: bool = Field(False, description="attention and feed-forward layer read the same input side by side")
    feed_forward: Literal[
        "swiglu", "geglu", "geglu_tanh", "reglu", "gelu", "gelu_tanh", "relu", "relu2", "silu"
    ] = Field("swiglu", description="the feed-forward layer's form; those with 'glu' have a gate")  # fmt: skip
    positions: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = Field("rope", description="of tokens")
    rope_fraction: float = Field(1.0, gt=0, le=1, description="share of a head's width that rotates")
    max_positions: int = Field(0, ge=0, description="positions that the weights have; 0 means as many as context")
    qkv_bias: bool = Field(False, description="biases of q, k and v")
    output_bias: bool = Field(False, description="bias of the attention's output")
    mlp_bias: bool = Field(False, description="biases of the feed-forward layer")
    head_bias: bool = Field(False, description="bias of the output matrix")
    sliding_window: int = Field(0, ge=0, description="tokens that one sees, itself included; 0 means all before it")
    full_attention_every: int = Field(0, ge=0, description="with a window: every n-th layer sees all; 0: no layer does")
    attention_sinks: int = Field(0, ge=0, description="with a window: a text's first tokens, which all others see")
    attention_scale: float = Field(0.0, ge=0, description="factor of the scores; 0 means 1 / sqrt(head_dim)")
    attention_softcap: float = Field(0.0, ge=0, description="scores stay within +- this; 0: no bound")
    logit_softcap: float = Field(0.0, ge=0, description="logits stay within +- this; 0: no bound")
    embedding_scale: bool = Field(False, description="multiply the tokens' embeddings by sqrt(d_model)")
    token_shift: int = Field(0, ge=0, description="tokens before, of which attention reads half of its channels")
    convolution: int = Field(0, ge=0, description="tokens before, of which attention reads a learned share per channel")
    value_embeddings: bool = Field(False, description="attention's values get an embedding of the token")
    value_projection: bool = Field(False, description="attention's values get a projection of the token's embedding")
    head_gate: bool = Field(False, description="each head's output times a gate of what attention reads")
    skips: bool = Field(False, description="blocks of the second half get what went into those of the first (U-Net)")
    repeat_layers: int = Field(0, ge=0, description="last blocks that each token goes through twice")
    predict_ahead: int = Field(0, ge=0, le=8, description="tokens after the next one that training predicts as well")
    ahead_weight: float = Field(0.3, gt=0, description="weight of their loss")
    experts: int = Field(0, ge=0, description="feed-forward layers of which a router chooses; 0: one without a router")
    experts_per_token: int = Field(2, ge=1, description="that a token goes to")
    expert_width: int = Field(0, ge=0, description="d_ff of one expert; 0 means d_ff")
    shared_experts: int = Field(0, ge=0, description="experts that all tokens go to, beside")
    router: Literal["softmax", "sigmoid", "expert_choice", "threshold"] = Field("softmax", description="who chooses")
    normalize_gates: bool = Field(False, description="a token's gates sum to 1 (Mixtral, Qwen3-MoE)")
    capacity_factor: float = Field(0.0, ge=0, description="an expert's places in training / its fair share; 0: no end")
    balance: Literal["loss", "bias", "none"] = Field("loss", description="what keeps the experts equally busy")
    balance_coefficient: float = Field(0.01, ge=0, description="strength of that")
    router_z: float = Field(0.001, ge=0, description="weight of the loss that keeps the router's logits small")
    rope_scaling: RopeScaling = Field(RopeScaling(), description="positions stretched beyond the trained context")
    first_weights: Literal["random", "induction", "auto"] = Field(
        "random", description="induction: heads that look things up; auto: so where the shape allows it"
    )

    @model_validator(mode="before")
    @classmethod
    def _head_width(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values  # pydantic says what is wrong with it
        heads, width = values.get("n_head", 4), values.get("d_model", 128)
        if not values.get("head_dim") and isinstance(heads, int) and isinstance(width, int) and heads > 0:
            if width % heads:
                raise ValueError(f"d_model = {width} cannot be divided by n_head = {heads}; set head_dim")
            values = values | {"head_dim": width // heads}
        return values

    @model_validator(mode="after")
    def _shapes_fit(self) -> "ModelConfig":
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head = {self.n_head} must be a multiple of n_kv_head = {self.n_kv_head}")
        if self.rotated % 2 and self.positions == "rope":
            share = "" if self.rope_fraction == 1 else f" · rope_fraction = {self.rope_fraction}"
            raise ValueError(f"head_dim = {self.head_dim}{share} must be even for rotary positions")
        if self.max_positions and self.max_positions < self.context:
            raise ValueError(f"context = {self.context} is more than max_positions = {self.max_positions}")
        for senseless, reason in self._senseless():
            if senseless:
                raise ValueError(reason)
        return self

    @property
    def depth(self) -> int:
        """Blocks that a token goes through, one after the other: some of them twice."""
        return self.n_layer + self.repeat_layers

    def block_of(self, number: int) -> int:
        """Which block a token goes through at the place `number` < `depth`."""
        return number if number < self.n_layer else number - self.repeat_layers

    @property
    def rotated(self) -> int:
        """Coordinates of a head that rotary positions turn."""
        return round(self.head_dim * self.rope_fraction)

    def _senseless(self) -> Iterator[tuple[bool, str]]:
        """Combinations that compute nothing sensible, each with the reason."""
        rope, scaled = self.positions == "rope", self.rope_scaling.kind != "none"
        yield self.qk_norm_whole and not self.qk_norm, "qk_norm_whole says how qk_norm is done: set qk_norm = true"
        yield scaled and not rope, f"rope_scaling stretches rotary positions, and positions = '{self.positions}'"
        yield self.rope_fraction < 1 and not rope, f"rope_fraction needs rotary positions, not '{self.positions}'"
        yield (self.rope_fraction < 1 and self.rope_scaling.kind == "yarn",
               "yarn's temperature is that of whole heads: rope_fraction must be 1")  # fmt: skip
        yield (self.positions == "sinusoidal" and not self.embedding_scale,
               "positions = 'sinusoidal' has rows of length sqrt(d_model / 2), beside which embeddings of length 1 "
               "vanish: set embedding_scale = true, as Vaswani et al. do")  # fmt: skip
        yield (self.positions == "alibi" and self.sliding_window > 0,
               "positions = 'alibi' fades with distance already: leave sliding_window at 0")  # fmt: skip
        yield (self.parallel and self.norm_placement != "pre",
               f"parallel layers share one norm before them, and norm_placement = '{self.norm_placement}'")  # fmt: skip
        for name in ("full_attention_every", "attention_sinks"):
            yield getattr(self, name) > 0 and not self.sliding_window, f"{name} does nothing without a sliding_window"
        yield (self.full_attention_every == 1, "full_attention_every = 1 leaves no layer with the sliding_window: "
               "set sliding_window = 0 instead")  # fmt: skip
        yield (0 < self.sliding_window <= self.attention_sinks,
               f"attention_sinks = {self.attention_sinks} must be fewer than sliding_window = {self.sliding_window}")
        yield (self.value_embeddings and self.value_projection,
               "value_embeddings and value_projection both tell the values which token it is: choose one")  # fmt: skip
        yield (self.skips and self.depth < 2, "skips join two blocks, and there is one")
        yield (self.repeat_layers > self.n_layer,
               f"repeat_layers = {self.repeat_layers} is more than n_layer = {self.n_layer}")  # fmt: skip
        yield from self._senseless_experts()
        yield from ((self.first_weights == "induction" and bad, f"first_weights = 'induction' needs {reason}")
                    for bad, reason in self._against_induction())  # fmt: skip
        parts = 2 * max(1, self.token_shift)
        yield (self.token_shift > 0 and self.d_model % parts > 0,
               f"d_model = {self.d_model} cannot be divided by {parts}, for token_shift = {self.token_shift}")
        yield (self.token_shift > 0 and self.convolution > 0,
               "token_shift and convolution both let attention read the tokens before: choose one")  # fmt: skip

    @property
    def looks_up(self) -> bool:
        """Whether the first weights are those of minigpt.model.induction."""
        against = any(bad for bad, _ in self._against_induction())
        return self.first_weights == "induction" or self.first_weights == "auto" and not against

    def _against_induction(self) -> Iterator[tuple[bool, str]]:
        """What keeps a model from beginning with heads that look things up, each with what it would need."""
        yield self.n_layer < 2, "two layers"
        yield self.positions != "rope" or self.rope_fraction < 1, "rotary positions of whole heads"
        yield self.rope_scaling.kind != "none", "rotary positions that are not stretched"
        yield self.token_shift > 0, "queries and keys of one token: token_shift = 0"
        yield not self.qk_norm or self.qk_norm_whole, "norms of each head's queries and keys: qk_norm = true"
        yield self.norm != "rms" or self.norm_placement == "post", "an RMSNorm before the attention"

    def _senseless_experts(self) -> Iterator[tuple[bool, str]]:
        few, fixed = self.experts_per_token > self.experts, self.router in ("softmax", "sigmoid")
        yield (not self.experts and self.shared_experts > 0,
               "shared_experts = … without experts is one feed-forward layer: set d_ff instead")  # fmt: skip
        if not self.experts:
            return
        yield few, f"experts_per_token = {self.experts_per_token} is more than experts = {self.experts}"
        yield self.normalize_gates and not fixed, f"normalize_gates needs a fixed number of experts, not {self.router}"
        yield (self.capacity_factor > 0 and self.router == "threshold",
               "capacity_factor and router = 'threshold' both bound an expert's tokens: choose one")  # fmt: skip
        yield (self.balance == "bias" and self.router == "expert_choice",
               "experts that choose have equally many tokens: balance = 'bias' does nothing")  # fmt: skip


class ScoringModel(ModelConfig):
    """The same trunk under a head that gives each token one score: a reward or value model."""

    head: ClassVar[str] = "score"


class TokenizerConfig(Section):
    """`bpe` is SentencePiece BPE with byte fallback; `char` and `byte` are for comparison.

    `imported` is one that came with a model (`minigpt import`); it is never trained.
    """

    kind: Literal["bpe", "char", "byte", "imported"] = Field("bpe", description="how texts are cut into tokens")
    vocab_size: int = Field(2048, ge=300, le=1_000_000, description="tokens, with special ones and bytes")
    sample_mb: float = Field(16.0, gt=0, description="megabytes of text that the tokenizer is trained on")
    alone: str = Field("", description="characters that are in no longer piece, such as 的了在是有")


class StageConfig(Section):
    """One training stage. A step computes `batch_size` rows of tokens, in `grad_accumulation` equal micro-batches."""

    steps: int = Field(1000, ge=1, description="updates of the weights")
    batch_size: int = Field(16, ge=1, description="rows per step; short examples share a row")
    grad_accumulation: int = Field(1, ge=1, description="micro-batches that a step is computed in; the same result")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="muon: for the layers' matrices, AdamW for others")
    learning_rate: float = Field(1e-3, ge=0, description="the highest one, of AdamW")
    matrix_learning_rate: float = Field(0.02, ge=0, description="for the matrices under optimizer = 'muon'")
    schedule: Literal["cosine", "linear", "wsd"] = Field("cosine", description="wsd: warmup, stable, decay")
    warmup_steps: int = Field(20, ge=0, description="steps in which the rate rises")
    decay_fraction: float = Field(0.5, gt=0, le=1, description="last share of 'wsd' in which the rate falls")
    final_fraction: float = Field(0.1, ge=0, le=1, description="rate at the last step / the highest rate")
    weight_decay: float = Field(0.1, ge=0, description="of matrices; vectors never decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's memory of gradients")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's memory of their squares")
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's memory of gradients")
    eps: float = Field(1e-8, gt=0, description="AdamW's smallest divisor")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns clipping off")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights, kept in their place; 0: none")
    swa_fraction: float = Field(0.0, ge=0, le=1, description="last share of steps, whose mean is kept; 0: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of each block's output that a step omits")
    stochastic_depth: float = Field(0.0, ge=0, lt=1, description="share of rows that a step leads past the last block")
    activation_checkpointing: bool = Field(False, description="compute activations twice instead of storing them")
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0: those of a whole micro-batch")
    compile: bool = Field(True, description="let the framework compile a step where that pays")
    deterministic: bool = Field(False, description="the same bits every time on a CUDA GPU, too; slower")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="that a step computes in")
    transfer: Literal["float32", "bfloat16"] = Field("float32", description="of gradients between several processes")
    shard: Literal["none", "moments", "full"] = Field(
        "none", description="what each of several processes keeps a part of: moments, or weights and gradients as well"
    )
    outer_every: int = Field(0, ge=0, description="steps of each process alone between two exchanges; 0: none alone")
    outer_learning_rate: float = Field(0.7, gt=0, description="of the step that an exchange takes (outer_every)")
    outer_momentum: float = Field(0.6, ge=0, lt=1, description="Nesterov momentum of these steps; many bear 0.9")
    eval_every: int = Field(100, ge=1, description="steps between two measurements on held-out data")
    eval_rows: int = Field(64, ge=1, description="validation rows per evaluation during training")
    save_every: int = Field(200, ge=1, description="steps between two checkpoints")
    keep_last: int = Field(2, ge=1, description="checkpoints that are kept beside the best one")
    patience: int = Field(0, ge=0, description="measurements without a new best that end the stage; 0: never")
    sample_every: int = Field(0, ge=0, description="steps between two continuations of fixed prompts; 0: as eval_every")
    bad_steps: int = Field(5, ge=1, description="steps in a row without a finite loss that send training back")
    spike: float = Field(1.5, ge=0, description="a loss above spike x the median of the last 50 + 0.5; 0: never")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")

    @model_validator(mode="before")
    @classmethod
    def _today(cls, values: Any) -> Any:
        return with_new_names(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> "StageConfig":
        size, count = self.batch_size, self.grad_accumulation
        if size % count:
            raise ValueError(f"batch_size = {size} must be a multiple of grad_accumulation = {count}")
        return self

    @model_validator(mode="after")
    def _rounds_fit(self) -> "StageConfig":
        """Only at the end of a round all processes have the same weights, which can be measured and saved."""
        if self.outer_every and self.needs_weights:
            raise ValueError("outer_every must be 0: the batches are made with the weights of all processes")
        every = self.outer_every
        if every and self.shard != "none":
            raise ValueError(
                f"outer_every and shard = '{self.shard}' cannot go together: each process trains a model of its own"
            )
        for name in ("eval_every", "save_every") if every else ():
            if getattr(self, name) % every:
                raise ValueError(f"{name} = {getattr(self, name)} must be a multiple of outer_every = {every}")
        return self

    @model_validator(mode="after")
    def _weights_can_be_shared_out(self) -> "StageConfig":
        if self.shard != "full":
            return self
        if self.needs_weights:
            raise ValueError("shard cannot be 'full': a batch is made with the whole weights")
        if getattr(self, "lora_rank", 0):
            raise ValueError("shard = 'full' cannot go with lora_rank: the weights under an adapter are not shared out")
        return self

    @model_validator(mode="after")
    def _average_is_of_whole_weights(self) -> "StageConfig":
        if self.ema_decay and self.swa_fraction:
            raise ValueError("ema_decay and swa_fraction are two averages of the same weights: choose one")
        name = "ema_decay" if self.ema_decay else "swa_fraction"
        if self.averages and self.shard != "none":
            raise ValueError(f"{name} needs shard = 'none': every process averages the whole weights")
        if self.averages and self.outer_every:
            raise ValueError(f"{name} needs outer_every = 0: the processes' weights differ between two exchanges")
        return self

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is measured and kept in their place."""
        return self.ema_decay > 0 or self.swa_fraction > 0

    @property
    def needs_weights(self) -> bool:
        """Whether a batch is made with the weights of its step, as sampled answers are: never ahead of it, and from the
        same weights in all processes.
        """
        return self.samples

    @property
    def samples(self) -> bool:
        """Whether a step learns from answers that the model gives itself, whose lengths nobody knows before."""
        return False

    @property
    def micro_batch_size(self) -> int:
        """Rows that are computed at once."""
        return self.batch_size // self.grad_accumulation


class TuneConfig(StageConfig):
    """A stage that tunes a model. With `lora_rank` above 0 it trains an adapter and leaves the weights as they are."""

    lora_rank: Annotated[int, FORM] = Field(0, ge=0, description="numbers per input and output of a layer; 0: no LoRA")
    lora_alpha: Annotated[float, FORM] = Field(16.0, gt=0, description="an adapter counts lora_alpha / lora_rank times")
    lora_targets: Annotated[list[str], FORM] = Field([], description="such as q_proj; none: all in the blocks")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs that a step omits")
    lora_bits: Annotated[Literal[0, 4, 8], FORM] = Field(0, description="of the frozen weights (QLoRA); 0: as they are")
    dora: Annotated[bool, FORM] = Field(False, description="train the length of each weight row, too (Liu et al. 2024)")


def form_of(config: StageConfig) -> dict[str, Any]:
    """The settings that decide which leaves a stage trains and what they mean: they cannot change later."""
    return {name: getattr(config, name) for name, field in type(config).model_fields.items() if FORM in field.metadata}

"""Distillation: a student learns from the predictions of a finished model, its teacher: on given answers, on those that
it gives itself, or on the teacher's.
"""

import math
from typing import Literal

from pydantic import Field, model_validator

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.data.batches import Batch, in_order, stacked
from minigpt.data.forms import TAUGHT
from minigpt.errors import DataError, UsageError
from minigpt.events import Note
from minigpt.model.gpt import GPT
from minigpt.sections import TuneConfig
from minigpt.stages.answers import Answers, with_answers
from minigpt.stages.language import measure_language
from minigpt.stages.stage import Job, Stage
from minigpt.text.tokenizer import same_tokenizer
from minigpt.train.distillation import distances, mixed
from minigpt.train.loop import Objective
from minigpt.train.losses import of_rows
from minigpt.train.measure import totals

START = "start"  # as a teacher: the model that the stage starts from


class DistillConfig(TuneConfig):
    """`distance` is a row of `train.distillation.DISTANCES`.

    With c = `cross_entropy` the loss is (1 - c) · distance + c · the cross-entropy of the given answers.
    """

    teacher: str = Field("", description="RUN or RUN/STAGE with the same tokenizer; start: the model it starts from")
    teacher_bits: Literal[0, 8] = Field(0, description="of the teacher's weights; 0: as they are")
    distance: Literal["forward_kl", "reverse_kl", "jsd"] = Field("forward_kl", description="from teacher to student")
    temperature: float = Field(1.0, gt=0, description="divides both models' logits; above 1 rare tokens count more")
    mixture: float = Field(0.5, gt=0, lt=1, description="jsd's beta: near 0 it is as forward_kl, near 1 as reverse_kl")
    cross_entropy: float = Field(0.0, ge=0, lt=1, description="share of the given answers' cross-entropy in the loss")
    own_answers: float = Field(0.0, ge=0, le=1, description="share of steps on answers that the student gives itself")
    teacher_answers: float = Field(0.0, ge=0, le=1, description="share of steps on answers that the teacher gives")
    max_tokens: int = Field(64, ge=1, description="longest answer that is sampled")

    @property
    def samples(self) -> bool:
        return self.own_answers + self.teacher_answers > 0

    @model_validator(mode="after")
    def _shares_that_go_together(self) -> "DistillConfig":
        if self.own_answers and self.cross_entropy:
            raise ValueError("own_answers goes not with cross_entropy: the student's own answers are no right ones")
        if self.own_answers + self.teacher_answers > 1:
            raise ValueError("own_answers and teacher_answers are shares of the steps: together at most 1")
        return self


def imitation(job: Job) -> Objective:
    """A distance between the teacher's and the student's next-token distributions on the answers (Hinton et al. 2015).

    The teacher reads the same rows as the student, at the same time; no gradient flows to it.
    """
    model, config, seed = job.model, job.config, job.seed
    teacher, frozen = _teacher(job)
    if not len(known := with_answers(job.held_out)):
        raise DataError("No held-out conversation has an answer to measure with.",
                        "Give some: --set data.distill_validation=FILE.")  # fmt: skip
    held_out = job.form.held_out(known, job.context, seed)

    def sums(weights: Tree, batch: dict[str, Array], frozen: Tree) -> dict[str, Array]:
        """Weighted sums of the distance and of the cross-entropy."""
        backend = model.backend
        places = backend.nonzero(batch["weights"] != 0)
        student, teaching = (
            logits_of(one, tree, batch, places) for one, tree in ((model, weights), (teacher, frozen))
        )  # (n, V) each
        targets, factors = (at(backend, batch[name], places) for name in ("targets", "weights"))  # (n,) each
        nll = backend.token_nll(student[None], targets[None])[0]  # (n,)
        apart = distances(backend, student, teaching, config.distance, config.temperature, config.mixture)  # (n,)
        return {"distance": (apart * factors).sum(), "cross_entropy": (nll * factors).sum()}

    def loss(weights, batch, frozen):
        found = sums(weights, batch, frozen)
        return mixed(found["distance"], found["cross_entropy"], config.cross_entropy), found

    measured = model.backend.compile(sums)

    def validate(weights):
        def part(numbers: list[int]) -> list[float]:
            batch = stacked([held_out.row(0, i) for i in numbers])
            found = measured(weights, {key: model.backend.array(x) for key, x in batch.items()}, frozen)
            return [float(batch["weights"].sum()), float(found["distance"]), float(found["cross_entropy"])]

        batches = in_order(held_out, job.rows_at_once, config.eval_rows)
        tokens, distance, nats = totals(model.backend.group.map(part, batches), 3)
        means = {"distance": distance / max(tokens, 1.0), "cross_entropy": nats / max(tokens, 1.0)}
        perplexity = math.exp(min(means["cross_entropy"], 700.0))
        whole = mixed(means["distance"], means["cross_entropy"], config.cross_entropy)
        return {"loss": whole, **means, "perplexity": perplexity, "tokens": int(tokens)}

    return Objective(loss, Answers(job, teacher, frozen), validate, frozen)


def logits_of(model: GPT, weights: Tree, batch: Batch, places: Array | None) -> Array:
    """Logits (n, V) at the n places that count (see `at`)."""
    hidden = model.hidden(weights, batch["ids"], **of_rows(batch))
    return model.logits(weights, at(model.backend, hidden, places)[None])[0]


def at(backend: Backend, values: Array, places: Array | None) -> Array:
    """Of values (B, T, …) those (n, …) at `places` with a weight: prompts and the ends of rows need no logits.

    Where there are none, or a backend cannot tell beforehand which they are, all B · T are kept.
    """
    flat = values.reshape(-1, *values.shape[2:])
    return flat if places is None or not places.shape[0] else backend.take(flat, places)


def _teacher(job: Job) -> tuple[GPT, Tree]:
    """The teacher's model and weights. Raises UsageError for one that does not fit the student."""
    config, model = job.config, job.model
    if config.teacher == START or job.made_up:
        same = GPT(model.config, model.backend, model.dtype)  # one that tells nothing to the student's training
        return same, job.starting_weights()
    found = job.load(config.teacher, config.teacher_bits)
    if not same_tokenizer(found.tokenizer, job.tokenizer):
        told = [f"{one.kind}, {one.vocab_size:,} tokens" for one in (found.tokenizer, job.tokenizer)]
        raise UsageError(
            f"The teacher {config.teacher} has another tokenizer ({told[0]}) than this run ({told[1]}).",
            "A student needs its teacher's: copy the directory tokenizer of that run into this one before training.",
        )
    theirs, ours = found.model.config, model.config
    if theirs.vocab_size != ours.vocab_size:
        sizes = f"{theirs.vocab_size:,} and {ours.vocab_size:,}"
        raise UsageError(f"The teacher {config.teacher} and this model have outputs of different sizes: {sizes}.",
                         "Give both the same model.vocab_size.")  # fmt: skip
    if theirs.context < ours.context:
        raise UsageError(f"The teacher {config.teacher} reads {theirs.context:,} tokens, this model {ours.context:,}.",
                         f"Lower model.context to {theirs.context}, or take another teacher.")  # fmt: skip
    job.report(Note(f"distill: the teacher is {config.teacher}; its memory and time are not part of the plan."))
    return found.model, found.weights


def _check(config: DistillConfig) -> None:
    if not config.teacher:
        raise UsageError("distill needs a teacher: a finished model to learn from.",
                         "Name its run: --set distill.teacher=RUN, or RUN/STAGE.")  # fmt: skip


DISTILL = Stage(
    name="distill",
    summary="Learns from a larger model's predictions (distill.teacher). Watch distance fall; 0 is the teacher itself.",
    taught="It was taught to answer as another model does.",
    config=DistillConfig,
    form=TAUGHT,
    objective=imitation,
    measure=measure_language,
    starts_from=("sft", "pretrain"),
    optional=True,
    check=_check,
    imported={"learning_rate": 2e-5, "batch_size": 4, "weight_decay": 0.0},
    checked={"teacher": START, "learning_rate": 1e-3, "cross_entropy": 0.5, "distance": "jsd", "temperature": 2.0},
    variations=("LoRA of two layers",),
)

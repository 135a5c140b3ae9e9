"""What the stages that predict tokens share: cross-entropy on the weighted tokens of their rows."""

from minigpt.data.batches import Batches
from minigpt.data.forms import CONVERSATIONS, TEXTS
from minigpt.stages.stage import Job, Subject
from minigpt.train.loop import Objective
from minigpt.train.losses import language_loss
from minigpt.train.measure import evaluate_language


def next_token(job: Job) -> Objective:
    """Predict the next token, where the rows say that it is learned (Radford et al. 2018)."""
    model, config, seed = job.model, job.config, job.seed
    held_out = job.form.held_out(job.held_out, job.context, seed)

    def loss(weights, batch):
        return language_loss(model, weights, batch), {}

    def validate(weights):
        return evaluate_language(model, weights, held_out, job.tokenizer, job.rows_at_once, config.eval_rows)

    return Objective(loss, Batches(job.form.rows(job.training, job.context, seed), config.batch_size, seed), validate)


def measure_language(subject: Subject) -> dict[str, float]:
    """Loss, perplexity and the rest of `evaluate_language`; the form of the rows is that of a stage's shard."""
    form = CONVERSATIONS if subject.shard.mask is not None else TEXTS
    rows = form.held_out(subject.shard, subject.model.config.context, subject.seed)
    return evaluate_language(
        subject.model, subject.weights, rows, subject.tokenizer, subject.batch_size, subject.limit
    )

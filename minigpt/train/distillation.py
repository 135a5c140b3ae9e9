"""Distillation: distances between the next-token distributions of a teacher p and a student q, per token.

Shapes: logits (…, V) of student and teacher, a distance (…,) in nats. No gradient flows to the teacher.
"""

from collections.abc import Callable

from backends.base import Array, Backend
from minigpt.errors import check_name

Logs = tuple[Array, Array]  # log q of the student and log p of the teacher, (…, V)


def _forward(backend: Backend, logs: Logs, mixture: float) -> Array:
    """KL(p || q) = Σ p (log p - log q): the student covers all that the teacher says (Hinton et al. 2015)."""
    q, p = logs
    return (backend.exp(p) * (p - q)).sum(axis=-1)


def _reverse(backend: Backend, logs: Logs, mixture: float) -> Array:
    """KL(q || p): the student says nothing that the teacher would not (Gu et al. 2024, MiniLLM)."""
    q, p = logs
    return (backend.exp(q) * (q - p)).sum(axis=-1)


def _generalized_jsd(backend: Backend, logs: Logs, mixture: float) -> Array:
    """β KL(p || m) + (1-β) KL(q || m) with m = β p + (1-β) q and β = `mixture` (Agarwal et al. 2024, GKD, eq. 1)."""
    q, p = logs
    m = backend.log(mixture * backend.exp(p) + (1.0 - mixture) * backend.exp(q) + 1e-30)
    return mixture * (backend.exp(p) * (p - m)).sum(axis=-1) + (1.0 - mixture) * (backend.exp(q) * (q - m)).sum(axis=-1)


DISTANCES: dict[str, Callable[[Backend, Logs, float], Array]] = {
    "forward_kl": _forward, "reverse_kl": _reverse, "jsd": _generalized_jsd,
}  # fmt: skip


def distances(
    backend: Backend, student: Array, teacher: Array, kind: str, temperature: float = 1.0, mixture: float = 0.5
) -> Array:
    """The distance `kind` (a name in DISTANCES) per token (…,) of softmax(logits / temperature).

    It is not multiplied by temperature², Hinton's factor that keeps the gradient's size. `mixture` is the β of "jsd",
    above 0 and below 1.
    """
    check_name("distance", kind, tuple(DISTANCES))
    q, p = (_log_softmax(backend, logits, temperature) for logits in (student, backend.stop_gradient(teacher)))
    return DISTANCES[kind](backend, (q, p), mixture)


def mixed(distance: Array, nll: Array, share: float) -> Array:
    """(1 - share) · distance + share · cross-entropy with the given tokens, per token (Hinton et al. 2015)."""
    return (1.0 - share) * distance + share * nll


def _log_softmax(backend: Backend, logits: Array, temperature: float) -> Array:
    logits = backend.cast(logits, "float32") * (1.0 / temperature)
    return logits - backend.logsumexp(logits)[..., None]

"""A trained model's weights as the first ones of another shape: longer context, new options, or experts from one layer.

What has a leaf of the same name and shape is taken over; what an option adds begins as in a new model.
"""

import re

import numpy as np

from backends.tree import Tree, items, unflatten
from minigpt.errors import UsageError
from minigpt.model.gpt import init_weights
from minigpt.sections import ModelConfig

Arrays = dict[str, np.ndarray]
EXPERT = re.compile(r"(.*\.mlp\.)experts\.\d+\.(.*)")


def grown(weights: Tree, config: ModelConfig, seed: int, where: str) -> Tree:
    """NumPy weights of a model of shape `config`, begun with those of another one.

    Experts of a dense model are each its feed-forward layer (Komatsuzaki et al. 2023): with normalized gates the
    mixture first computes what the dense model did. Positions of a longer table are spread over the old ones. Raises
    UsageError for a leaf of another shape, and for one that the new model has no place for.
    """
    old, used, found = dict(items(weights)), set(), {}
    for name, new in items(init_weights(config, seed)):
        source = _source(name, old)
        if source is None:
            found[name] = new
            continue
        used.add(source)
        found[name] = _fitted(source, old[source], new.shape, where)
    if left := [name for name in old if name not in used and not name.startswith("model.ahead.")]:
        message = f"{where} has {left[0]}, for which this model has no place."
        raise UsageError(message, "Give this run the same model settings, but for those that are to change.")
    return unflatten(found)


def _source(name: str, old: Arrays) -> str | None:
    """The old leaf that a new one begins with."""
    if name in old:
        return name
    expert = EXPERT.fullmatch(name)
    dense = expert and expert[1] + expert[2]
    return dense if dense in old else None


def _fitted(name: str, old: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    if old.shape == shape:
        return old
    if name.endswith("embed_positions.weight") and old.shape[1:] == shape[1:] and old.shape[0] < shape[0]:
        places = np.linspace(0, old.shape[0] - 1, shape[0])
        columns = [np.interp(places, np.arange(old.shape[0]), column) for column in old.T]
        return np.stack(columns, axis=1).astype(np.float32)
    hint = "Only what is longer (positions) or new (options, experts of the same width) may differ."
    raise UsageError(f"{where}: {name} has the shape {old.shape}, and this model needs {shape}.", hint)

"""The angles of rotary positions: plain, or stretched so that a model sees further than it was trained to."""

import math

import numpy as np

from minigpt.sections import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> np.ndarray | None:
    """Radians per position for each pair of coordinates, (D/2,) float64; None for the plain θ^(-2i/D)."""
    scaling, width = config.rope_scaling, config.rotated
    plain = config.rope_theta ** (-np.arange(0, width, 2) / width)  # (D/2,)
    if scaling.kind == "linear":  # position interpolation (Chen et al. 2023)
        return plain / scaling.factor
    if scaling.kind == "llama3":
        return _llama3(plain, scaling)
    if scaling.kind == "yarn":
        return _yarn(plain, scaling, config.rope_theta)
    return None


def rope_base(config: ModelConfig) -> float:
    """θ: with "ntk" and "dynamic" that with which the slowest pair turns `factor` times slower, the fastest as before.

    θ · s^(D / (D - 2)) (bloc97 2023, "NTK-aware"). For "dynamic" s is context / original_context, 1 within it. Others
    let s grow with the text that is read: then keys that a cache holds have an older s, and a token's logits depend
    on how much follows it. Here s is the run's, so that neither happens.
    """
    scaling, width = config.rope_scaling, config.rotated
    factor = max(1.0, config.context / scaling.original_context) if scaling.kind == "dynamic" else scaling.factor
    if scaling.kind not in ("ntk", "dynamic") or width <= 2:
        return config.rope_theta
    return config.rope_theta * factor ** (width / (width - 2))


def rope_amplitude(config: ModelConfig) -> float:
    """What queries and keys are multiplied by: 1, or YaRN's 0.1 ln(factor) + 1 (Peng et al. 2023, eq. 22)."""
    scaling = config.rope_scaling
    return (scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1) if scaling.kind == "yarn" else 1.0


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Long waves are stretched, short ones stay, those between change over (Llama 3.1's released code)."""
    turns = scaling.original_context * plain / (2 * math.pi)  # in the context that the model was trained for
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (turns - low) / (high - low)
    between = (1 - smooth) * plain / scaling.factor + smooth * plain
    return np.where(turns < low, plain / scaling.factor, np.where(turns > high, plain, between))


def _yarn(plain: np.ndarray, scaling: RopeScaling, theta: float) -> np.ndarray:
    """NTK by parts (Peng et al. 2023, eq. 17-20): which pairs turn more often than beta_fast, less than beta_slow."""
    width = 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        return width * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), width - 1)
    stretched = np.clip((np.arange(len(plain)) - low) / (high - low or 0.001), 0, 1)
    return plain / scaling.factor * stretched + plain * (1 - stretched)

"""From prompts to answers: the engine, its cache, sampling, speculative decoding."""

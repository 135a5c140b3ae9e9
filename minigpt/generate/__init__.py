"""From prompts to answers: the engine and its scheduler, the cache, sampling, searches, grammars, draft tokens."""

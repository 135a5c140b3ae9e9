"""The built-in bilingual world: texts, questions and preferences that need no download."""

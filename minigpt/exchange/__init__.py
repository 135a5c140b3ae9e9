"""Models that leave for other tools and models that come in: directories in Hugging Face's layout, and their checks."""

"""A run directory and its life: what is in it, how its stages are trained one after the other, what uses them."""

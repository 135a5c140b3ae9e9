"""Training: the loop, gradients, losses, optimizers, and what watches over them."""

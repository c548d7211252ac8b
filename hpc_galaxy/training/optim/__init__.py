"""What turns gradients into steps: optimizers, and the learning rate over a training."""

"""Make what is released: the bundled model, its figures and its adversarial examples."""

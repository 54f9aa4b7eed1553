"""jaxnet beside PyTorch."""

"""Whether a JAX training run is a PyTorch training run, and if not, where and why."""

__all__: list[str] = []

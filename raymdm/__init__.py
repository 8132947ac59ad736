"""raymdm: train masked diffusion language models stably, and prove it."""

__version__ = "0.1.0"

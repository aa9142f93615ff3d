"""windtunnel: measure many tiny language models, fit, predict, then train the one that counts."""

__version__ = "0.1.0"

"""RALI: image quality without a language model (arXiv 2510.11369)."""

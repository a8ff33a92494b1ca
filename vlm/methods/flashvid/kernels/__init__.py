"""FlashVID's Pallas kernels for TPU."""

"""How each family of checkpoints wants its images and videos, without torch."""

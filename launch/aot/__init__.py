"""What launch.compile does: programs for a slice that is not there."""

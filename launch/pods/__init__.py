"""Many processes on many hosts: scripts, the meeting, the slices."""

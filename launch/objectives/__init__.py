"""What `config.objective` selects, for every entry point."""

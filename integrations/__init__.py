"""One thin module for each system our users already run."""

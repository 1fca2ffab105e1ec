"""Reports: how good synthetic rows are, and what a detector found."""

"""Demo videos, and the workflow on them from an index to a table."""

"""Pictures of a run and of what it learned."""

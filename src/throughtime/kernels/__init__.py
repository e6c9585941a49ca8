"""The recurrences over time, and who runs them."""

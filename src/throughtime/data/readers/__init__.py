"""Readers of the formats that users have, one row, sentence or step at a time where a stream needs that."""

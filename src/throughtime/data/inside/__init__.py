"""What ships inside, or is read from Python's own standard library, so that every task trains without a download."""

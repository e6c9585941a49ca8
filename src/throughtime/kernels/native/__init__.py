"""C++ on the CPU: the compiled library, the recurrences (`recurrence`) and text generation (`generation`)."""

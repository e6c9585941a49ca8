"""Generation in C++: sample a symbol, feed it through all layers and the head, and repeat."""

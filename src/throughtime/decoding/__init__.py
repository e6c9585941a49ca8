"""From a step of a model to symbols: greedy, sampling, beam search, CTC. Works on any `step(state, symbols) -> logits, state`."""

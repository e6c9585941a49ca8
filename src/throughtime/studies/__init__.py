"""Comparisons made of many small trainings: remedies for vanishing gradients, and strategies of BPTT."""

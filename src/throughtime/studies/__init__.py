"""Many trainings beside each other: which remedy learns at which length, and what each strategy of BPTT gives."""

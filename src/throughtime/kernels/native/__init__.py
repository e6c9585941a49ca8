"""The recurrences in C++: only what must wait for the state; the big products over all steps are torch's."""

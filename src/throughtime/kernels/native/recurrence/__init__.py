"""The recurrence in C++: forward and backward of one direction of one layer over packed rows."""

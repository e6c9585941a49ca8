"""What a measurement says, in words."""

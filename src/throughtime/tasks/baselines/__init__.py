"""What a trained model should beat: a trivial and a strong baseline for each task."""

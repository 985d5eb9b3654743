"""What a run leaves behind. Nothing here imports torch."""

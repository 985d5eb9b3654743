"""Configuration: the typed schema, its checks and its messages. Nothing here imports torch."""

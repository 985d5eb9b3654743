"""Image files: formats, metadata, depths, and folders of them."""

"""Networks for the image block: maps of (B, C, H, W) into itself."""

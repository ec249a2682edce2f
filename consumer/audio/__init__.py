"""From an address to 16 kHz mono samples."""

"""What every room uses and none owns: JSON lines, and files that are whole or absent."""

"""The chat page: its routes and what it keeps."""

"""One line that says what this folder is for."""

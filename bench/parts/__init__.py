"""What benchmarks share, and a folder of parts per benchmark."""

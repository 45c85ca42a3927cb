"""What a run learned: tables, pictures, and one HTML page."""

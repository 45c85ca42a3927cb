"""What this machine has, whether it works, and what fastdual will use."""

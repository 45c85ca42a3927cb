"""What commands share: options, progress, the values of options, results."""

"""What every room may use: records, errors, config values, journals and run folders. Knows no model and no world."""

"""Every figure of the documentation, drawn from the results there."""

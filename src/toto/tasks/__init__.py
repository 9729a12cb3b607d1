"""What a backbone is worth: protocols that turn its features into scores."""

"""What the tests share: servers, databases that are theirs alone, settings."""

"""Three ways to a result, one table: heads, stores and finished runs compared on the same items."""

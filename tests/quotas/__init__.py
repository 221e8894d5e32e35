"""What clients may ask for."""

"""What is derived, stored: written by one transaction per flush, read by the API."""

"""The uncertainty broker, and everything that decides, records or supervises."""

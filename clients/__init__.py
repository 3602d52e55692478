"""Programs that speak the i-PI protocol as clients."""

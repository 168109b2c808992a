"""What goes wrong between a worker and its server, on demand."""
